"""The log: a line or a JSON object per event, with the request it belongs to, and no secrets.

Addresses, headers and other servers' words end up in messages and tracebacks, and with them keys and passwords. So text
that looks like one is struck out at the last moment, for every logger. It may also be a megabyte long, so each line is
cut before anything looks at it, and what looks takes time in proportion to its length.
"""

import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Collection
from contextvars import ContextVar
from datetime import UTC, datetime

from cachetools import LRUCache

# The request that the current thread works for, "" outside of any.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")

HIDDEN = "***"
MAX_LINE = 4000  # characters of a message, and of each line of a traceback
MAX_TRACEBACK = 60  # lines
MAX_LIKE = 20  # lines of one kind that a request may write: it may hold 100,000 tasks that all fail alike
MAX_REQUESTS = 1000  # whose lines are counted; those of the longest ago are forgotten
MAX_WORD = 2000  # characters before a cut in which a blank is looked for: half a secret does not look like one
# None of these looks at a character more than a few times, whatever the text.
PATTERNS = [
    # Authorization: Basic bGVhZDpwYXNz
    (re.compile(r"(?i)(authorization\W{1,6})(?:(?:basic|bearer|token)\s+)?[\w.~+/=-]+"), rf"\1{HIDDEN}"),
    # http://user:password@host
    (re.compile(r"(?<=://)[^/\s@]+@"), f"{HIDDEN}@"),
    # ?token=..., "access_token": "...", X-Amz-Signature=..., but not "token: it is wrong"
    (
        re.compile(
            r"""(?ix)
            ( (?: token | (?:api|access|secret|private)[-_]?key(?:[-_]?id)? | secret | pass(?:word|wd)? | sig(?:nature)?
                | credentials? )
              (?: = | %3D | ["']\s*[:=]\s* ) )
            ["']? [^\s"'&,;)}\]]+ """
        ),
        rf"\1{HIDDEN}",
    ),
    # Legacy tokens of Label Studio.
    (re.compile(r"\b[0-9a-f]{40}\b"), HIDDEN),
]
# Personal and short-lived access tokens of Label Studio begin with eyJ and have a dot in them. Whole runs of their
# signs are looked at, once each: to look for the dot from every eyJ on would be to read a run a thousand times.
RUN, TOKEN_START = re.compile(r"[\w.-]{9,}+"), re.compile(r"(?<!\w)eyJ")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Libraries that report every request, or each of their steps.
TALKATIVE = ("aiobotocore", "alembic", "urllib3", "huey", "filelock", "PIL", "httpx", "httpcore")


def redacted(text: str, secrets: Collection[str] = ()) -> str:
    """A text without anything that looks like a key or a password, nor any of `secrets`.

    >>> redacted("GET /webhook?token=h00k-t0ken by lead", ["lead"])
    'GET /webhook?token=*** by ***'
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    for pattern, instead in PATTERNS:
        text = pattern.sub(instead, text)
    return RUN.sub(_without_token, text)


def _without_token(run: re.Match[str]) -> str:
    start = TOKEN_START.search(run[0])
    # Behind a first eyJ without a dot there is none behind another either.
    dot = -1 if start is None else run[0].find(".", start.end() + 4)
    return run[0] if start is None or not 0 <= dot < len(run[0]) - 1 else run[0][: start.start()] + HIDDEN


def shortened(text: str, limit: int = MAX_LINE) -> str:
    """A text of at most `limit` characters, cut between two words, and how long it was.

    >>> shortened("tokens are secret", 12)
    'tokens are … (17 characters)'
    """
    if len(text) <= limit:
        return text
    head = text[:limit]
    blank = max(head.rfind(" ", -MAX_WORD), head.rfind("\n", -MAX_WORD))
    return f"{head[: blank + 1] if blank >= 0 else head[:-MAX_WORD]}… ({len(text)} characters)"


class Lines(logging.Formatter):
    """A line per event for people: time, level, where, the request, and a sentence; tracebacks below it."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__(datefmt="%Y-%m-%d %H:%M:%S")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """The event as text."""
        request = f"[{asked}] " if (asked := REQUEST_ID.get()) else ""
        line = f"{self.formatTime(record, self.datefmt)} {record.levelname:7} {record.name}: {request}"
        return "\n".join(filter(None, [line + self.message(record), self.traceback(record)]))

    def message(self, record: logging.LogRecord) -> str:
        """The message on one line: text from outside must not forge other lines."""
        shown = redacted(shortened(record.getMessage()), self._secrets)
        return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), shown)

    def traceback(self, record: logging.LogRecord) -> str:
        """Where it happened, "" for what is no exception."""
        if not record.exc_info:
            return ""
        lines = self.formatException(record.exc_info).splitlines()
        if len(lines) > MAX_TRACEBACK:
            half = MAX_TRACEBACK // 2
            lines = [*lines[:half], f"… ({len(lines) - 2 * half} lines)", *lines[-half:]]
        return "\n".join(redacted(shortened(line), self._secrets) for line in lines)


class JsonLines(Lines):
    """A JSON object per event for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        """The event as JSON."""
        event = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request": REQUEST_ID.get(),
            "message": self.message(record),
            "traceback": self.traceback(record),
        }
        return json.dumps({name: value for name, value in event.items() if value}, ensure_ascii=False)


class Repeats(logging.Filter):
    """Of the events of one kind (a logger and its message before the values) in a request, the first `MAX_LIKE`."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._seen: LRUCache[str, Counter[tuple[str, str]]] = LRUCache(MAX_REQUESTS)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether an event is logged; the last one says that others may follow in silence."""
        request = REQUEST_ID.get()
        if not request:
            return True
        with self._lock:
            counts = self._seen.setdefault(request, Counter())
            kind = (record.name, str(record.msg))
            counts[kind] += 1
            count = counts[kind]
        if count == MAX_LIKE:
            record.msg = f"{shortened(record.getMessage())} (others like it are not logged for this request)"
            record.args = ()
        return count <= MAX_LIKE


def configure_logging(level: str, style: str = "text", secrets: Collection[str] = ()) -> None:
    """Log to stderr.

    Args:
        level: the least severe level that is logged; libraries that report every request stay quiet.
        style: "text" or "json".
        secrets: what no line may show, besides what looks like a secret.
    """
    handler = logging.StreamHandler()
    handler.addFilter(Repeats())
    handler.setFormatter((JsonLines if style == "json" else Lines)(secrets))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    threading.excepthook = _log_death
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def _log_death(death: threading.ExceptHookArgs) -> None:
    """Log the death of a thread, which Python otherwise prints to stderr, past every formatter."""
    name = death.thread.name if death.thread else "?"
    if death.exc_value is not None and death.exc_type is not SystemExit:
        caught = (death.exc_type, death.exc_value, death.exc_traceback)
        logging.getLogger(__name__).critical("thread %s died", name, exc_info=caught)
