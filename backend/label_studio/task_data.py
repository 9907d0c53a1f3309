"""Fields of a task's data: where its image is, and which group it belongs to."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

# The fields that are taken for a task's group, in this order, where the operator names none.
GROUP_FIELDS = ("patient", "study", "series", "group")


def field_of(data: Any, key: str) -> Any:
    """A field of a task's data, None if there is none; a dotted key leads into nested objects.

    >>> field_of({"scan": {"patient": 7}}, "scan.patient")
    7
    """
    for step in [key] if isinstance(data, Mapping) and key in data else key.split("."):
        data = data.get(step) if isinstance(data, Mapping) else None
    return data


def group_of(data: Any, key: str | None) -> str | None:
    """The group that a task's data names as text; None if it names none, or if it is neither text nor a number.

    Args:
        data: of a task, or the fields of an exported image.
        key: as `group_field` finds it.

    >>> [group_of({"patient": value}, "patient") for value in ("A 7", 7, True, " ", None)]
    ['A 7', '7', 'true', None, None]
    """
    value = None if key is None else field_of(data, key)
    if isinstance(value, str):
        return value.strip() or None
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def group_field(data: Iterable[Any], named: str | None = None) -> str | None:
    """The field that says which group each task belongs to.

    Args:
        data: of all tasks.
        named: the field that the operator has named, which counts even where some tasks lack it.

    Returns:
        `named`, else the first of GROUP_FIELDS that every task has, None without one.

    >>> group_field([{"patient": 1, "study": 1}, {"study": 2}])
    'study'
    """
    if named is not None:
        return named
    tasks = list(data)
    found = (key for key in GROUP_FIELDS if tasks and all(group_of(fields, key) is not None for fields in tasks))
    return next(found, None)
