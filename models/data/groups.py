"""Groups of images that belong together: those of one patient, study or series, else blocks of neighbours by name.

Images of one group are near-copies: what was learnt from one is known of the others. So no group is ever on both sides
of a split (`models.data.splitter`), and confidence intervals are over groups (`models.evaluation.intervals`).
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from models.errors import DataError

BLOCK = 5  # neighbouring images that count as one group where nothing better is known


def read_groups(root: Path) -> dict[str, str]:
    """Name -> group, from groups.json of a data folder; none without it, and none of an image whose group is null.

    Raises:
        DataError: the file is not of that form.
    """
    path = root / "groups.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
        return {str(name): str(group) for name, group in content.items() if group is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f'{path} must hold {{"NAME": "GROUP"}}, such as the patient of each image: {error}') from error


def blocks(names: Iterable[str]) -> dict[str, str]:
    """Name -> group: blocks of `BLOCK` neighbours.

    >>> blocks(["a", "b", "c", "d", "e", "f"])
    {'a': 'block 1', 'b': 'block 1', 'c': 'block 1', 'd': 'block 1', 'e': 'block 1', 'f': 'block 2'}
    """
    return {name: f"block {index // BLOCK + 1}" for index, name in enumerate(names)}


def completed(groups: Mapping[str, str | None]) -> dict[str, str]:
    """Groups of all images: those whose group is None are grouped in blocks of neighbours.

    >>> completed({"a": "patient 7", "b": None, "c": "patient 7"})
    {'a': 'patient 7', 'b': 'ungrouped, block 1', 'c': 'patient 7'}
    """
    rest = blocks(name for name, group in groups.items() if group is None)
    return {name: f"ungrouped, {rest[name]}" if group is None else group for name, group in groups.items()}
