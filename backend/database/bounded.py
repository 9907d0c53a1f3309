"""A job's report within a size: it counts what strangers named, and what they name has no end.

A version, an annotator and a class are whatever Label Studio has them called, so the report of a training could hold
millions of entries, and every page of the project reads it.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

CUT_OFF = "cut_off"  # of a report: field -> entries that were left out
MAX_FIELDS = 50
MAX_CHARACTERS = 200_000  # of each field, as JSON
MAX_TEXT = 10_000  # characters of a text; an error has fewer (`models.errors`)
DEPTH = 3  # of entries that may be kept in part


def bounded(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report of which no field is longer than MAX_CHARACTERS.

    Of a list or an object the first entries are kept. How many were left out stands in the field CUT_OFF, beside what
    the report says of that itself; it is not there if nothing was.

    >>> report = bounded({"used": 3, "annotators": {f"user {n}": {"Lumen": {"drawn": n}} for n in range(100_000)}})
    >>> report["used"], len(report["annotators"]) + report["cut_off"]["annotators"]
    (3, 100000)
    """
    kept: dict[str, Any] = {}
    cut = dict(report[CUT_OFF]) if isinstance(report.get(CUT_OFF), Mapping) else {}
    for name, value in report.items():
        if name == CUT_OFF:
            continue
        if len(kept) >= MAX_FIELDS:
            cut[CUT_OFF] = cut.get(CUT_OFF, 0) + 1
            continue
        kept[name], _, left_out = _within(value, MAX_CHARACTERS, DEPTH)
        if left_out:
            cut[name] = cut.get(name, 0) + left_out
    return kept | ({CUT_OFF: cut} if cut else {})


def shortened(text: str) -> str:
    """A text of MAX_TEXT characters at most, and how long it was."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} characters)"


def _within(value: Any, room: int, depth: int) -> tuple[Any, int, int]:
    """A value within so many characters, its length, and how many of its entries were left out."""
    if isinstance(value, str):
        return shortened(value), min(len(value), MAX_TEXT), 0
    if not isinstance(value, Mapping | list | tuple):
        return value, len(json.dumps(value)), 0
    named = isinstance(value, Mapping)
    entries: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else (("", one) for one in value)
    kept: list[tuple[Any, Any]] = []
    used = left_out = 0
    for name, entry in entries:
        around = len(json.dumps(name)) + 4
        size = around + len(json.dumps(entry))
        if used + size > room and depth > 1 and used + around < room and _is_divisible(entry):
            entry, size, missing = _within(entry, room - used - around, depth - 1)
            left_out, size = left_out + missing, size + around
            if not entry:
                continue
        elif used + size > room:
            left_out += 1
            continue
        kept.append((name, entry))
        used += size
    return dict(kept) if named else [entry for _, entry in kept], used, left_out


def _is_divisible(entry: Any) -> bool:
    """Whether entries of an entry can be left out: what has figures of its own is kept whole or not at all."""
    parts = entry.values() if isinstance(entry, Mapping) else entry if isinstance(entry, list | tuple) else ()
    return bool(parts) and all(isinstance(part, Mapping | list | tuple) for part in parts)
