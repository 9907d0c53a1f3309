"""The tables of a data folder, classes.txt, labels.csv, split.json and skipped.json, and the list of its images."""

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models.data.files import IMAGE_SUFFIXES, open_image
from models.data.names import Known, Names, is_junk, page_name, plain_label
from models.data.text import decode_text
from models.errors import DataError

# What people call the parts of the data.
SUBSETS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
DELIMITERS = ",;\t"  # of tables, as spreadsheets write them
PAGED = (".tif", ".tiff", ".btf", ".gif", ".webp", ".png", ".apng", ".avif", ".dcm", ".dicom")  # may have several pages


def read_classes(root: Path) -> tuple[str, ...]:
    """The classes of classes.txt, in order. Raises DataError unless it names at least one and each once."""
    path = root / "classes.txt"
    try:
        lines = decode_text(path.read_bytes()).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); a data folder names its classes there, one a line, in UTF-8"
        ) from None
    classes = tuple(line.strip() for line in lines if line.strip())
    if not classes or len({*map(plain_label, classes)}) < len(classes):
        raise DataError(f"{path} must name each class once, one a line; it has {list(classes)}")
    return classes


@dataclass(frozen=True)
class Picture:
    """One page of an image file.

    Attributes:
        path: the file.
        page: from 0.
    """

    path: Path
    page: int = 0


def list_images(root: Path, names: Names) -> dict[str, Picture]:
    """Name of files -> image, in natural order; each page of a file of several is an image of its own.

    Raises:
        DataError: there is none, or two are of one name.
    """
    images: dict[str, Picture] = {}
    for path in sorted((root / "images").glob("*"), key=lambda path: natural(path.name)):
        if path.suffix.lower() not in IMAGE_SUFFIXES or is_junk(Path(path.name)):
            continue
        pages = 1 if path.stem in names.images else page_count(path)
        for page in range(pages):
            name = path.stem if pages == 1 else page_name(path.stem, page)
            if name in images:
                raise DataError(f"{path} and {images[name].path} have the same name; rename one")
            original = names.images.get(name)
            images[name] = Picture(path, page if original is None else original.file_page)
    if not images:
        raise DataError(f"{root / 'images'} holds no {', '.join(IMAGE_SUFFIXES)} files")
    return images


def known_images(images: Mapping[str, Picture]) -> Known:
    """Finds the names of images in tables, also where these have the ending of the file, or its folder."""
    whole = {name: picture.path.name for name, picture in images.items() if picture.path.stem == name}
    return Known(images, {f"{folder}{file}": name for name, file in whole.items() for folder in ("", "images/")})


def strays(root: Path) -> dict[str, str]:
    """Pictures of a data folder that lie where none is looked for -> why they are not read."""
    found = {}
    for folder, levels, place in (("images", 0, "images/"), ("masks", 1, "masks/CLASS/")):
        for path in sorted((root / folder).rglob("*")):
            inside = path.relative_to(root / folder)
            if path.suffix.lower() not in IMAGE_SUFFIXES or is_junk(inside) or len(inside.parts) == levels + 1:
                continue
            if path.is_file():
                found[f"{folder}/{inside.as_posix()}"] = (
                    f"{path} is not read: it does not lie in {place}; move it there"
                )
    return found


def page_count(path: Path) -> int:
    """Pages of an image file, 1 of a kind that has no more, and of one that cannot be read."""
    if path.suffix.lower() not in PAGED:
        return 1
    try:
        with open_image(path) as pages:
            return len(pages)
    except DataError:
        return 1  # read_image will say what is wrong with it


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which frame-9 comes before frame-10: neighbours by name are neighbours in the series."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def read_labels(root: Path, classes: tuple[str, ...]) -> list[tuple[str, dict[str, bool]]]:
    """The rows of labels.csv, none without the file: a name, and class -> present, for the cells that are not empty.

    The first column called name has the images' names; a second one is of a class called name.

    Raises:
        DataError: the table names other classes, or a cell is not 0, 1 or empty.
    """
    path = root / "labels.csv"
    if not path.is_file():
        return []
    rows = []
    try:
        with io.StringIO(decode_text(path.read_bytes()), newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            columns = [column.strip() for column in next(reader, [])]
            if "name" not in columns or len({*columns}) + (columns.count("name") == 2) < len(columns):
                raise DataError(f"{path} must have the columns name and classes of classes.txt, once; it has {columns}")
            key, known = columns.index("name"), Known(classes)
            labels = {index: known(column) for index, column in enumerate(columns) if index != key}
            if set(labels.values()) - {*classes}:
                raise DataError(f"{path} must have the columns name and classes of classes.txt, once; it has {columns}")
            for row in reader:
                if not any(cell.strip() for cell in row):  # spreadsheets write such rows
                    continue
                if any(cell.strip() for cell in row[len(columns) :]):
                    raise DataError(f"{path} line {reader.line_num} has {len(row)} cells, its header {len(columns)}")
                cells = [cell.strip() for cell in row] + [""] * (len(columns) - len(row))
                values = {label: cells[index] for index, label in labels.items()}
                wrong = {label: value for label, value in values.items() if value not in ("", "0", "1")}
                if wrong:
                    raise DataError(f"{path} line {reader.line_num}: a label is 0, 1 or empty, got {wrong}")
                rows.append((cells[key], {label: value == "1" for label, value in values.items() if value}))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as comma-separated values: {error}") from error
    return rows


def _delimiter(header: str) -> str:
    """The sign by which the first line of a table has a column called name."""
    rows = {sign: next(csv.reader([header], delimiter=sign), []) for sign in DELIMITERS}
    return next((sign for sign, columns in rows.items() if "name" in columns), DELIMITERS[0])


def read_splits(root: Path, images: Mapping[str, Picture]) -> dict[str, list[str]]:
    """Split -> names, from split.json; none without it. "valid", "validation" ... are "val".

    Raises:
        DataError: the file is not of that form, or a name has no image or is there twice.
    """
    path = root / "split.json"
    if not path.is_file():
        return {}
    try:
        known = known_images(images)
        content = json.loads(path.read_bytes())
        sides = {side: SUBSETS.get(str(side).lower(), str(side)) for side in content}
        if len({*sides.values()}) < len(sides):
            raise ValueError(f"{', '.join(sides)} mean the same part")
        splits = {sides[side]: [known(str(name)) for name in names] for side, names in content.items()}
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
        return {str(name): str(reason) for name, reason in json.loads(path.read_text(encoding="utf-8-sig")).items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f'{path} must hold {{"name": "why it was left out"}}: {error}') from error
