"""The tables of a data folder, classes.txt, labels.csv, split.json and skipped.json, and the list of its images."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path

from models.data.files import IMAGE_SUFFIXES
from models.errors import DataError


def read_classes(root: Path) -> tuple[str, ...]:
    """The classes of classes.txt, in order. Raises DataError unless it names at least one and each once."""
    path = root / "classes.txt"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); a data folder names its classes there, one a line, in UTF-8"
        ) from None
    classes = tuple(line.strip() for line in lines if line.strip())
    if not classes or len(set(classes)) < len(classes):
        raise DataError(f"{path} must name each class once, one a line; it has {list(classes)}")
    return classes


def list_images(root: Path) -> dict[str, Path]:
    """Name -> image file, in natural order. Raises DataError where there is none, or two of one name."""
    images: dict[str, Path] = {}
    for path in sorted((root / "images").glob("*"), key=_natural):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if path.stem in images:
            raise DataError(f"{path} and {images[path.stem]} have the same name; rename one")
        images[path.stem] = path
    if not images:
        raise DataError(f"{root / 'images'} holds no {', '.join(IMAGE_SUFFIXES)} files")
    return images


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key by which frame-9 comes before frame-10: neighbours by name are neighbours in the series."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def read_labels(root: Path, classes: tuple[str, ...]) -> list[tuple[str, dict[str, bool]]]:
    """The rows of labels.csv, none without the file: a name, and class -> present, for the cells that are not empty.

    Raises:
        DataError: the table names other classes, or a cell is not 0, 1 or empty.
    """
    path = root / "labels.csv"
    if not path.is_file():
        return []
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin with a byte-order mark
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            if set(columns) - {"name", *classes} or columns.count("name") != 1 or len(set(columns)) < len(columns):
                raise DataError(f"{path} must have the columns name and classes of classes.txt, once; it has {columns}")
            for row in reader:
                values = {label: (row.get(label) or "").strip() for label in classes}
                wrong = {label: value for label, value in values.items() if value not in ("", "0", "1")}
                if wrong:
                    raise DataError(f"{path} line {reader.line_num}: a label is 0, 1 or empty, got {wrong}")
                rows.append(((row["name"] or "").strip(), {c: value == "1" for c, value in values.items() if value}))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}; save it as comma-separated values in UTF-8") from error
    return rows


def read_splits(root: Path, images: Mapping[str, Path]) -> dict[str, list[str]]:
    """Split -> names, from split.json; none without it.

    Raises:
        DataError: the file is not of that form, or a name has no image or is there twice.
    """
    path = root / "split.json"
    if not path.is_file():
        return {}
    try:
        splits: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
        names = [name for split in splits.values() for name in split]
    except (ValueError, AttributeError, TypeError) as error:
        raise DataError(f'{path} must hold {{"train": [names], "val": [names]}}: {error}') from error
    missing = [name for name in names if name not in images]
    if missing:
        raise DataError(f"{path} names {missing[0]} (and {len(missing) - 1} more) without an image")
    if len(set(names)) < len(names):
        raise DataError(f"{path} names an image twice; a frame must not be trained on and held out")
    return splits


def read_skipped(root: Path) -> dict[str, str]:
    """Name -> why the writer of the folder left the image out, from skipped.json; none without it."""
    path = root / "skipped.json"
    if not path.is_file():
        return {}
    try:
        return {str(name): str(reason) for name, reason in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f'{path} must hold {{"name": "why it was left out"}}: {error}') from error
