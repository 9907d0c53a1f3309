"""COCO instances, as CVAT, Label Studio and many others export them: JSON, polygons and run-length encoded masks."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from backend.label_studio.task_data import group_field, group_of
from backend.sources.conversion import Conversion, Exported, Mask, Region, convert, number, runs
from backend.sources.finding import ImageFiles, subset_of
from models.errors import DataError
from models.masks.rasterising import fill_polygon, fill_rectangle


def is_coco(content: Any) -> bool:
    """Whether a JSON file has COCO's shape."""
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def convert_coco(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write COCO files as a data folder; see `convert`. Each file is a subset, after its name or its folder's.

    An annotation with a box and no outline is a filled box. Groups are read from the first of the fields patient,
    study, series and group that all images have.

    Raises:
        DataError: a file's tables do not fit together.
    """
    # Exports of several kinds have the same images; only instances have outlines.
    files = {path: content for path, content in files.items() if path.stem.startswith("instances")} or files
    field = group_field(image for content in files.values() for image in content["images"])
    exported: list[Exported] = []
    classes: dict[str, None] = {}
    for path, content in files.items():
        try:
            names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
            exported += _images(content, names, _subset(path), field)
        except (KeyError, TypeError) as error:
            raise DataError(f"{path.name} is not COCO: an image, annotation or category lacks {error}") from error
        classes |= dict.fromkeys(names.values())
    return convert(exported, tuple(classes), images, out)


def _subset(path: Path) -> str:
    return subset_of(path.stem, path.parent.name)


def _images(content: Mapping[str, Any], names: Mapping[Any, str], subset: str, field: str | None) -> Iterator[Exported]:
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        name = str(image["file_name"]).replace("\\", "/")
        try:
            width, height = number(image, "width", "height")
        except DataError as error:
            raise DataError(f"image {name!r}: {error}") from error
        regions = [Region(_name(entry, names, name), _drawing(entry)) for entry in annotations.pop(image["id"], [])]
        yield Exported(name, regions, (int(height), int(width)), subset=subset, group=group_of(image, field))
    if annotations:
        raise DataError(f"it has annotations of image {next(iter(annotations))!r}, which it does not list")


def _name(annotation: Mapping[str, Any], names: Mapping[Any, str], image: str) -> str:
    if annotation["category_id"] not in names:
        raise DataError(f"{image} has an annotation of category {annotation['category_id']!r}, which is not listed")
    return names[annotation["category_id"]]


def _drawing(annotation: Mapping[str, Any]) -> Callable[[tuple[int, int]], Mask] | None:
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        return partial(_mask, outline)
    if outline:
        return partial(_polygons, outline)
    return partial(_box, annotation["bbox"]) if annotation.get("bbox") else None


def _polygons(polygons: Any, shape: tuple[int, int]) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    try:
        for polygon in polygons:
            corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
            if not np.isfinite(corners).all():
                raise ValueError("a number is infinite or none")
            mask |= fill_polygon(corners, shape)
    except (TypeError, ValueError) as error:
        raise DataError(f"its polygons must be lists x, y, x, y ...: {error}") from error
    return mask


def _box(box: Any, shape: tuple[int, int]) -> Mask:
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise DataError(f"its bbox must be x, y, width, height, it is {box!r}") from error
    return fill_rectangle(np.array([x, y]), np.array([width, height]), 0, shape)


def _mask(rle: Mapping[str, Any], shape: tuple[int, int]) -> Mask:
    """COCO's run-length encoding, column after column, with counts as a list or as a string.

    pycocotools is not used: it writes beyond its memory where the counts do not fit the size.
    """
    counts = rle.get("counts")
    try:
        if list(rle["size"]) != list(shape):
            raise DataError(f"its RLE is of size {rle['size']}, the image is {list(shape)}")
        lengths = _lengths(counts) if isinstance(counts, str) else [int(count) for count in counts or ()]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"its RLE cannot be read: {error!r}") from error
    return np.ascontiguousarray(runs(lengths, (shape[1], shape[0])).T)


def _lengths(counts: str) -> list[int]:
    """The run lengths of a compressed RLE: six bits a sign, five of them value, from the third on as differences.

    The same as rleFrString of pycocotools' maskApi.c.
    """
    lengths: list[int] = []
    signs = iter(counts)
    for sign in signs:
        value, shift, bits = 0, 0, ord(sign) - 48
        value = bits & 31
        while bits & 32:
            shift += 5
            if shift > 40:
                raise ValueError("a count is longer than any image")
            bits = ord(next(signs, "0")) - 48
            value |= (bits & 31) << shift
        if bits & 16:
            value -= 1 << (shift + 5)
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    return lengths
