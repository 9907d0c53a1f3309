"""YOLO's segmentation format, as Ultralytics, Roboflow, CVAT and Label Studio write it: a text file for each image."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from backend.sources.conversion import Conversion, Exported, LeftOut, Mask, Region, convert
from backend.sources.drawing import NO_NUMBERS, draw_box, draw_polygons
from backend.sources.finding import ImageFiles, files_below, subset_of
from models.data.files import IMAGE_SUFFIXES
from models.errors import DataError

IMAGES, LABELS = "images", "labels"
MAX_LABELS_BYTES = 64 << 20


def is_yolo(content: Any) -> bool:
    """Whether a file names the labels of YOLO data: data.yaml, or notes.json of Label Studio's export."""
    return _names(content) is not None


def _names(content: Any) -> list[Any] | dict[Any, Any] | None:
    """The labels, listed or by number; None for content of another kind."""
    if isinstance(content, dict):
        rows = content.get("categories")
        if not isinstance(rows, list) or {*content} - {"categories", "info"}:
            return None
        return {row.get("id"): row.get("name") for row in rows if isinstance(row, dict) and _hashable(row.get("id"))}
    names = _settings(content).get("names") if isinstance(content, str) else None
    return names if isinstance(names, list | dict) else None


def _hashable(value: Any) -> bool:
    return not isinstance(value, list | dict)


def _settings(text: str) -> dict[Any, Any]:
    try:
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def convert_yolo(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write YOLO data as a data folder; see `convert`. The split is read from names of folders.

    A line is a polygon, or a box, which is filled. An image without a text file has nothing on it: so YOLO's own tools
    read it.

    Raises:
        DataError: a file names no labels, or is for keypoints.
    """
    classes: dict[str, None] = {}
    unlabelled: list[str] = []
    roots: dict[Path, list[str]] = {}
    for path, content in files.items():
        if isinstance(content, str) and "kpt_shape" in _settings(content):
            raise DataError(f"{path.name} is for keypoints, which have no area; export polygons")
        names = _names(content) or []
        rows = names if isinstance(names, list) else [names.get(index) for index in range(len(names))]
        if not rows or not all(isinstance(name, str | int | float) and str(name).strip() for name in rows):
            raise DataError(f"{path.name} must name its labels as a list, or by numbers from 0")
        roots[path.parent] = [str(name) for name in rows]
        classes |= dict.fromkeys(roots[path.parent])
    exported = (row for root, labels in roots.items() for row in _exported(root, labels, images, unlabelled))
    result = convert(exported, tuple(classes), images, out)
    if unlabelled:
        first = ", ".join(unlabelled[:3]) + (" ..." if len(unlabelled) > 3 else "")
        result.notes.append(f"without a text file, taken as images on which nothing is: {len(unlabelled)} ({first})")
    return result


def _exported(
    root: Path, labels: Sequence[str], images: ImageFiles, unlabelled: list[str]
) -> Iterator[Exported | LeftOut]:
    """The images below the folder of data.yaml, or from elsewhere, with the lines of their text files."""
    texts = {
        _key(path.relative_to(images.root), LABELS): path
        for path in files_below(root)
        if path.suffix.lower() == ".txt" and LABELS in path.relative_to(images.root).parts[:-1]
    }
    # Of data.yaml alone nothing is said of the files beside it: its images are those in its folders.
    beside = (path for path in files_below(root) if IMAGES in path.parts)
    for image in images.files or beside:
        if image.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if image.is_relative_to(images.root) and not image.is_relative_to(root):
            continue
        name = images.name(image)
        key = _key(Path(name), IMAGES)
        subset = subset_of(*reversed(key.parts[:-1]))
        text = texts.pop(key, None)
        if text is None:
            unlabelled.append(name)
            yield Exported(name, (), subset=subset, file=image)
            continue
        try:
            yield Exported(name, _regions(text, labels), subset=subset, file=image)
        except DataError as error:
            yield LeftOut(name, str(error))
    for text in texts.values():
        yield LeftOut(str(text.relative_to(images.root)), f"there is no image of it in {IMAGES}; export with images")


def _key(path: Path, folder: str) -> Path:
    """What a text file and its image have in common: the path without an ending and without that folder."""
    parts = [part for part in path.parts[:-1] if part != folder]
    return Path(*parts, path.stem)


def _regions(path: Path, labels: Sequence[str]) -> list[Region]:
    """What the lines of a text file draw. Raises DataError where a line does not say its label."""
    try:
        if path.stat().st_size > MAX_LABELS_BYTES:
            raise DataError(f"{path.name} has more than {MAX_LABELS_BYTES >> 20} MB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error
    regions = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        index = int(fields[0]) if fields[0].isascii() and fields[0].isdigit() and len(fields[0]) < 10 else -1
        if not 0 <= index < len(labels):
            raise DataError(
                f"line {number} of {path.name} is of label {fields[0]!r:.20}, of {len(labels)} that are named"
            )
        regions.append(Region(labels[index], partial(_draw, fields[1:])))
    return regions


def _draw(fields: Sequence[str], shape: tuple[int, int]) -> Mask:
    """A polygon x y x y ..., or a box centre x, centre y, width, height; all in parts of the image's size."""
    try:
        values = np.array(fields, dtype=np.float64)
    except NO_NUMBERS as error:
        raise DataError(f"its line must hold numbers: {error}") from error
    if len(values) < 4 or len(values) % 2 or not np.isfinite(values).all():
        raise DataError(f"its line must be a polygon x y x y ... or a box of four numbers, it has {len(values)}")
    if np.abs(values).max() > 2:
        raise DataError(f"its numbers must be parts of the image's size, from 0 to 1, one is {np.abs(values).max():g}")
    points = values.reshape(-1, 2) * (shape[1], shape[0])
    if len(points) > 2:
        return draw_polygons([points.ravel().tolist()], shape)
    centre, size = points
    return draw_box([*(centre - size / 2), *size], shape)
