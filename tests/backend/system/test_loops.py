"""One project's failure is that project's, whatever it is, and those who look see it."""

import itertools
import json
import logging
import threading
from functools import partial

import pytest

from backend.diagnosis import checks
from backend.diagnosis.checks import BROKEN, DOUBTFUL, FINE
from backend.errors import LabelStudioError
from backend.system.loops import ALL, SILENT_SECONDS, Loop, loop_reports
from tests.backend.fakes import eventually

FAILURES = [
    LabelStudioError("away"),
    KeyError("results"),
    RecursionError("deep"),
    MemoryError(),
    LabelStudioError("half of \ud800"),
]


def missing() -> None:
    raise KeyError("detail")


@pytest.mark.parametrize("failure", FAILURES, ids=["away", "key", "depth", "memory", "text"])
def test_a_project_that_fails_waits_longer_and_longer_while_the_others_go_on(failure, caplog):
    loop = Loop("naming", 10.0)
    done: list[int] = []
    tried: list[int] = []

    def fail():
        tried.append(now)
        raise failure

    with caplog.at_level(logging.WARNING):
        for now in range(0, 3000):
            loop.attempt("3", fail, now)
            loop.attempt("4", partial(done.append, now), now)
    assert done == list(range(3000))
    pauses = [after - before for before, after in itertools.pairwise(tried)]
    assert pauses == [10, 10, 20, 40, 80, 160, 320, 640, 900]
    (said,) = caplog.records  # not once a second
    assert said.getMessage().startswith("naming: project 3: ")
    assert (said.exc_info is None) == isinstance(failure, LabelStudioError)


def test_a_project_that_is_well_again_is_told_and_starts_afresh(caplog):
    loop = Loop("naming", 10.0)
    fails = [KeyError("a"), KeyError("a"), None, KeyError("a")]

    def work():
        if (failure := fails.pop(0)) is not None:
            raise failure

    with caplog.at_level(logging.INFO):
        assert [loop.attempt("3", work, now) for now in (0, 5, 10, 20, 21, 30, 31)] == [
            False, False, False, True, False, False, False,
        ]  # fmt: skip
    assert "naming: project 3 goes on" in caplog.text


def test_a_clock_that_is_set_back_keeps_no_project_waiting():
    loop = Loop("naming", 10.0)
    assert not loop.attempt("3", missing, 1_000_000.0)
    assert loop.attempt("3", lambda: None, 1000.0)


def test_no_failure_ends_the_thread_and_it_reports_as_long_as_it_lives(tmp_path):
    loop, rounds = Loop("naming", 0.01, tmp_path / "loops"), []

    def look():
        rounds.append(1)
        loop.attempt("3", lambda: json.loads("{"), 0.0)
        if len(rounds) == 2:
            raise RuntimeError("the round itself")

    stopped = loop.start(look, 0.001)
    eventually(lambda: len(rounds) > 5)
    (report,) = eventually(lambda: loop_reports(tmp_path / "loops"))
    assert (report.name, report.failing, list(report.reasons)) == ("naming", 1, ["3"])
    assert "JSONDecodeError" in report.reasons["3"]
    stopped.set()
    eventually(lambda: not any(thread.name == "naming" for thread in threading.enumerate()))
    assert loop_reports(tmp_path / "loops") == []


def test_reports_of_processes_that_are_gone_and_what_is_none_are_removed(tmp_path):
    loop = Loop("naming", 1.0, tmp_path)
    loop.round(lambda: None)
    (own,) = tmp_path.iterdir()
    whole = json.loads(own.read_text())
    others = {
        "gone.json": whole | {"process": "1:1"},
        "elsewhere.json": whole | {"host": "other", "process": "1:1"},
        "silent.json": whole | {"host": "other", "at": 5.0},
        "mistyped.json": whole | {"reasons": None},
        "worded.json": whole | {"process": "x" * 5000, "at": "yesterday"},
    }
    for name, content in others.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "half.json").write_text('{"name": ')
    assert [report.host for report in loop_reports(tmp_path)] == ["other", whole["host"]]
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere.json", own.name}


def test_metrics_and_doctor_show_what_fails(make_client, tmp_path):
    loop = Loop("automatic-training", 1.0, tmp_path)
    client = make_client(loops=lambda: loop_reports(tmp_path))
    assert checks.loops(loop_reports(tmp_path)).state == FINE

    def look():
        loop.attempt("3", missing, 0.0)

    loop.round(look)
    found = checks.loops(loop_reports(tmp_path))
    assert (found.state, "automatic-training: project 3: KeyError: 'detail'" in found.found) == (DOUBTFUL, True)
    metrics = client.get("/metrics").text
    assert 'premask_loop_failing{host="' in metrics
    assert 'loop="automatic-training"' in metrics
    assert 'project="3"} 1.0' in metrics
    loop.attempt("3", lambda: None, 100.0)
    loop.round(lambda: None)
    assert 'project="3"} 1.0' not in client.get("/metrics").text
    (report,) = loop_reports(tmp_path)
    silent = report.__class__(report.name, "other", report.process, report.at - SILENT_SECONDS - 1, 1, {ALL: "x"})
    assert checks.loops([silent]).state == BROKEN
