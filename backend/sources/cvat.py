"""CVAT's own export, "CVAT for images 1.1": annotations.xml, and images/ if they were saved with it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from backend.sources.conversion import Conversion, Exported, Mask, Region, convert, number, runs
from backend.sources.finding import ImageFiles, subset_of
from models.errors import DataError
from models.masks.rasterising import fill_ellipse, fill_polygon, turned

# Labels that are made for one kind of shape, which has no area, are not learnt.
NO_AREA = ("points", "polyline", "skeleton", "cuboid")


def is_cvat(content: Any) -> bool:
    """Whether an XML file is an export of CVAT's."""
    return isinstance(content, Element) and content.tag == "annotations" and content.find("meta") is not None


def convert_cvat(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write CVAT exports as a data folder; see `convert`. A tag says that a class is on the image, not where.

    Raises:
        DataError: an export is of another kind.
    """
    labels: dict[str, str] = {}
    for path, root in files.items():
        if root.find("track") is not None:
            raise DataError(f'{path.name} is "CVAT for video"; export the task again as "CVAT for images 1.1"')
        # Parts of a skeleton are listed as labels with a parent.
        listed = [label for label in root.iterfind("meta//label") if label.find("parent") is None]
        labels |= {label.findtext("name", ""): label.findtext("type", "any") for label in listed}
    classes = tuple(name for name, kind in labels.items() if kind not in NO_AREA)
    return convert(_images(files, {*labels} - {*classes}), classes, images, out)


def _images(files: Mapping[Path, Element], ignored: set[str]) -> Iterator[Exported]:
    for root in files.values():
        for image in root.iterfind("image"):
            try:
                width, height = number(image.attrib, "width", "height")
            except DataError as error:
                raise DataError(f"image {image.get('name')!r}: {error}") from error
            regions = [
                Region(shape.get("label", ""), _drawing(shape)) for shape in image if shape.get("label") not in ignored
            ]
            subset = subset_of(image.get("subset", ""))
            yield Exported(image.get("name", ""), regions, (int(height), int(width)), subset=subset)


def _drawing(shape: Element) -> Callable[[tuple[int, int]], Mask] | None:
    draw = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}.get(shape.tag)
    return None if draw is None else lambda size: draw(shape.attrib, size)


def _box(fields: Mapping[str, str], shape: tuple[int, int]) -> Mask:
    left, top, right, bottom = number(fields, "xtl", "ytl", "xbr", "ybr")
    centre = np.array([left + right, top + bottom]) / 2
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    return fill_polygon(turned(corners - centre, _rotation(fields)) + centre, shape)


def _polygon(fields: Mapping[str, str], shape: tuple[int, int]) -> Mask:
    try:
        corners = np.array([pair.split(",") for pair in fields["points"].split(";")], dtype=np.float64)
    except (KeyError, ValueError) as error:
        raise DataError(f"its points must be x,y;x,y ...: {error}") from error
    if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise DataError(f"its points must be x,y;x,y ..., they are {fields['points'][:50]!r}")
    return fill_polygon(corners, shape)


def _ellipse(fields: Mapping[str, str], shape: tuple[int, int]) -> Mask:
    x, y, radius_x, radius_y = number(fields, "cx", "cy", "rx", "ry")
    return fill_ellipse(np.array([x, y]), np.array([radius_x, radius_y]), _rotation(fields), shape)


def _mask(fields: Mapping[str, str], shape: tuple[int, int]) -> Mask:
    left, top, width, height = (int(value) for value in number(fields, "left", "top", "width", "height"))
    if min(left, top) < 0 or min(width, height) < 1 or left + width > shape[1] or top + height > shape[0]:
        raise DataError(f"its box of {width}x{height} at {left}, {top} is not within the image")
    try:
        lengths = [int(length) for length in fields["rle"].split(",")]
    except (KeyError, ValueError) as error:
        raise DataError(f"its rle must be run lengths: {error}") from error
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = runs(lengths, (height, width))
    return mask


def _rotation(fields: Mapping[str, str]) -> float:
    return number(fields, "rotation")[0] if "rotation" in fields else 0.0
