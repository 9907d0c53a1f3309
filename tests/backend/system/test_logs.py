"""What a log line shows, and what none shows."""

import json
import logging
import sys
from contextvars import Context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.system.logs import MAX_LIKE, MAX_LINE, MAX_TRACEBACK, REQUEST_ID, JsonLines, Lines, Repeats, redacted

LEGACY = "00112233445566778899aabbccddeeff00112233"
PERSONAL = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"


def record(message: str, *args: object, failed: bool = False) -> logging.LogRecord:
    return logging.LogRecord("backend.app", logging.WARNING, "f", 1, message, args, sys.exc_info() if failed else None)


@pytest.mark.parametrize(
    "text",
    [
        "GET /webhook?token={} -> 401",
        "GET /a.png?X-Amz-Credential={}&X-Amz-Signature={}&x=1",
        "https://account.blob/x?sv=1&sig={}",
        "http://user:{}@host/a.png",
        "Authorization: Token {}",
        "{{'Authorization': 'Bearer {}'}}",
        "authorization=Basic {}",
        '{{"access_token": "{}", "project": 3}}',
        "{{'api_key': '{}'}}",
        "PREMASK_BASIC_AUTH_PASSWORD={}",
        "LABEL_STUDIO_API_KEY={} premask serve",
        "basic_auth_pass='{}'",
        "refresh%3Ftoken%3D{}",
    ],
)
@pytest.mark.parametrize("secret", [LEGACY, PERSONAL, "c2VjcmV0+==", "Tr0ub4dor"])
def test_what_looks_like_a_secret_is_struck_out(text: str, secret: str) -> None:
    shown = redacted(text.replace("{}", secret).replace("{{", "{").replace("}}", "}"))
    assert secret not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "text",
    [
        "Label Studio refused the legacy token (HTTP 401); it is wrong, or legacy tokens are off (the default)",
        "no key to it; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY",
        "GET /api/jobs?project=3 -> 200",
        "version p3-r001-lite0 is loaded and served",
        "c2c9fdcedd4ffc17db7ddf7bf9544f2a32387267a96345e6535fcad727ecf10a",
        "set PREMASK_BASIC_AUTH_USER and PREMASK_BASIC_AUTH_PASSWORD",
        "the mask of key frame 7: no lumen",
    ],
)
def test_what_is_none_stays(text: str) -> None:
    assert redacted(text) == text


@given(st.text(min_size=8).filter(lambda text: "***" not in text), st.text(), st.text())
def test_a_configured_secret_shows_nowhere(secret: str, before: str, after: str) -> None:
    assert secret not in redacted(before + secret + after, [secret]).replace("***", "")


@pytest.mark.parametrize("formatter", [Lines(["h00k-token"]), JsonLines(["h00k-token"])])
def test_tracebacks_hide_them_too(formatter: Lines) -> None:
    try:
        raise ValueError(f"Token {LEGACY} and h00k-token at http://u:pa55word@host/?token=abcdef")
    except ValueError:
        shown = formatter.format(record("failed", failed=True))
    assert "ValueError" in shown
    for secret in (LEGACY, "h00k-token", "pa55word", "abcdef"):
        assert secret not in shown


def test_a_message_cannot_forge_lines() -> None:
    forged = "GET /\n2026-01-01 00:00:00 ERROR backend: all is lost\r\x1b[2J\u2028"
    assert Lines().format(record("%s", forged)).count("\n") == 0
    assert "\x1b" not in Lines().format(record("%s", forged))
    assert JsonLines().format(record("%s", forged)).count("\n") == 0


def test_each_line_names_the_request_that_it_belongs_to() -> None:
    def lines() -> tuple[str, dict[str, str], dict[str, str]]:
        outside = json.loads(JsonLines().format(record("hello")))
        REQUEST_ID.set("abc-1")
        return Lines().format(record("hello")), json.loads(JsonLines().format(record("hello %d", 3))), outside

    # A context of its own: what ran before in this thread may have left a request open.
    line, event, outside = Context().run(lines)
    assert "[abc-1] hello" in line
    found = (event["request"], event["message"], event["level"], event["logger"])
    assert found == ("abc-1", "hello 3", "WARNING", "backend.app")
    assert "request" not in outside


def test_a_line_is_bounded_however_long_what_it_quotes() -> None:
    quoted = "-eyJ" * 150_000
    for formatter in (Lines(), JsonLines()):
        assert len(formatter.format(record("task 3: %s", quoted))) < 2 * MAX_LINE
        try:
            raise ValueError("\n".join([quoted] * 1000))
        except ValueError:
            assert len(formatter.format(record("failed", failed=True))) < MAX_TRACEBACK * 2 * MAX_LINE


@pytest.mark.parametrize("place", range(0, 80, 7))
@pytest.mark.parametrize("secret", [LEGACY, PERSONAL])
def test_a_cut_leaves_no_half_of_a_secret(place: int, secret: str) -> None:
    line = Lines().format(
        record("%s", "a " * (MAX_LINE // 2 - 40) + "b" * (place % 2) + " " * place + secret + " c" * 99)
    )
    assert not any(secret[:length] in line for length in (12, len(secret) // 2, len(secret)))


@pytest.mark.parametrize("before", ["", "-", "token is ", "a.", "x--", "eyJ-", "eyJ-eyJ.eyJ-"])
def test_a_token_is_found_in_any_run_of_its_signs(before: str) -> None:
    assert PERSONAL[12:] not in redacted(f"{before}{PERSONAL}")


def test_a_request_whose_tasks_all_fail_alike_writes_a_few_lines_and_says_so() -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(Repeats())
    logger = logging.getLogger("tests.repeats")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        for request in ("one", "two"):
            token = REQUEST_ID.set(request)
            for task in range(1000):
                logger.warning("task %s: no masks", task)
            logger.warning("project 3: 1000 tasks")
            REQUEST_ID.reset(token)
        token = REQUEST_ID.set("")
        for task in range(1000):  # a job, whose log is read by task
            logger.warning("task %s: no masks", task)
        REQUEST_ID.reset(token)
    finally:
        logger.removeHandler(handler)
    of_a_request = [*(f"task {task}: no masks" for task in range(MAX_LIKE)), "project 3: 1000 tasks"]
    of_a_request[MAX_LIKE - 1] += " (others like it are not logged for this request)"
    assert said == [*of_a_request, *of_a_request, *(f"task {task}: no masks" for task in range(1000))]
