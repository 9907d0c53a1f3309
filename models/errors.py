"""Errors of `models`, and the base that they share with the errors of `backend`.

PremaskError
└── ModelError
    ├── DataError          a data folder, image or mask cannot be used
    └── CheckpointError    a checkpoint is missing, damaged or of another shape
"""

import reprlib
from typing import Any

# Errors end up in job records, logs and answers, and may quote what a stranger wrote.
MAX_CAUSE = 8000  # characters; the longest list of settings that cannot be used is half of that

_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = 60
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 4
_BRIEF.maxlevel = 2


def brief(value: Any) -> str:
    """A value as `repr` shows it, with the middle of what is long left out, for sentences about foreign input.

    >>> brief("A" * 3_000_000)
    "'AAAAAAAAAAAAAAAAAAAAAAAAAAA...AAAAAAAAAAAAAAAAAAAAAAAAAAAA'"
    """
    if isinstance(value, str):
        value = value if len(value) <= _BRIEF.maxstring else value[:40] + value[-40:]  # `repr` of all of it is slow
    return _BRIEF.repr(value)


class PremaskError(Exception):
    """Base of every error that premask raises on purpose; its text says what to do next.

    Attributes:
        cause: what went wrong; with what to do about it where no remedy is given apart.
        remedy: what to do about it, "" where `cause` says so.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        if len(cause) > MAX_CAUSE:
            cause = f"{cause[:MAX_CAUSE]}… ({len(cause)} characters)"
        cause = cause.encode("utf-8", "backslashreplace").decode()  # half a character fits into no log and no answer
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause, self.remedy = cause, remedy


class ModelError(PremaskError):
    """Base of every error that `models` raises on purpose."""


class DataError(ModelError):
    """A data folder, image or mask cannot be used; the text names the file."""


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged or does not fit the network that its card describes."""
