"""The shapes of CVAT's XML as regions: boxes, polygons, ellipses, masks; tags, points and lines have no area."""

from collections.abc import Iterable, Mapping
from functools import partial
from xml.etree.ElementTree import Element

import numpy as np

from backend.sources.conversion import Mask, Region, number, runs
from backend.sources.drawing import draw_box, draw_polygons
from models.errors import DataError
from models.masks.rasterising import fill_ellipse

BACKGROUND = "background"


def is_background(label: str) -> bool:
    """Whether a label is that of CVAT's background: no class, and a hole in what lies below it."""
    return label.strip().casefold() == BACKGROUND


def regions(shapes: Iterable[tuple[str, Element]]) -> list[Region]:
    """What labelled shapes draw, from the lowest to the topmost."""
    return [region(label, shape) for label, shape in sorted(shapes, key=lambda pair: _z_order(pair[1]))]


def labelled(parent: Element) -> list[tuple[str, Element]]:
    """The shapes within an image, with their labels: "" for a shape that lacks it."""
    return [(shape.get("label", ""), shape) for shape in parent]


def region(label: str, shape: Element) -> Region:
    """What one shape draws."""
    draw = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}.get(shape.tag)
    drawn = None if draw is None else partial(draw, shape.attrib)
    return Region(None if is_background(label) else label, drawn)


def size_of(fields: Mapping[str, str | None]) -> tuple[int, int] | None:
    """(H, W) of fields width and height, None where they are no positive whole numbers."""
    try:
        height, width = int(fields.get("height") or ""), int(fields.get("width") or "")
    except ValueError:
        return None
    return (height, width) if min(height, width) > 0 else None


def _z_order(shape: Element) -> int:
    try:
        return int(shape.get("z_order", "0"))
    except ValueError:
        return 0


def _box(fields: Mapping[str, str], shape: tuple[int, int]) -> Mask:
    left, top, right, bottom = number(fields, "xtl", "ytl", "xbr", "ybr")
    return draw_box([left, top, right - left, bottom - top], shape, _rotation(fields))


def _polygon(fields: Mapping[str, str], shape: tuple[int, int]) -> Mask:
    try:
        corners = [[float(value) for value in pair.split(",")] for pair in fields["points"].split(";")]
        if any(len(pair) != 2 for pair in corners):
            raise ValueError("a point is not x,y")
    except (KeyError, ValueError) as error:
        raise DataError(f"its points must be x,y;x,y ...: {error}") from error
    return draw_polygons([corners], shape)


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
