"""Fields of a task's data: where its image is, and which group it belongs to."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

# The fields that are taken for a task's group, in this order, where the operator names none.
GROUP_FIELDS = ("patient", "study", "series", "group")
# The key under which Label Studio keeps the address of a bare upload until the config names one.
UNDEFINED_KEY = "$undefined$"
# Schemes of cloud storages that Label Studio reads for us.
CLOUD = ("s3", "s3s", "gs", "azure-blob", "azure-spi")

INDEXED = re.compile(r"(.+)\[([0-9]{1,9})\]", re.DOTALL)
STEP = re.compile(r"[^.\[\]]+")


def field_of(data: Any, key: str) -> Any:
    """A field of a task's data, None if there is none; a path leads into nested objects and lists.

    >>> [field_of({"scan": {"patient": 7}, "urls": ["a", "b"]}, key) for key in ("scan.patient", "urls[1]", "urls[2]")]
    [7, 'b', None]
    """
    columns = data if isinstance(data, Mapping) else {}
    if key in columns:
        return columns[key]
    # A column may have dots in its name.
    item = INDEXED.fullmatch(key)
    for step in item.groups() if item is not None and item[1] in columns else STEP.findall(key):
        if isinstance(data, Mapping):
            data = data.get(step)
        else:
            within = isinstance(data, list) and step.isdecimal() and len(step) < 10 and int(step) < len(data)
            data = data[int(step)] if within else None
    return data


def address_at(data: Any, path: str) -> Any:
    """The value under a path, or the address of a bare upload where there is none."""
    value = field_of(data, path)
    return data.get(UNDEFINED_KEY) if value is None and isinstance(data, Mapping) else value


def storage_key(address: str) -> str | None:
    """The key within its bucket that a cloud storage's address names, None of any other address.

    A key may hold any sign: it is no path of a URL, in which "#" and "?" end it and "%" and "+" stand for others.

    >>> [storage_key(address) for address in ("s3://bucket/run#3/a?b.png", "https://host/a.png")]
    ['run#3/a?b.png', None]
    """
    scheme, found, rest = address.partition("://")
    return rest.partition("/")[2] if found and scheme.lower() in CLOUD else None


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
