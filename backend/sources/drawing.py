"""Outlines and run lengths as exports of several tools write them, each drawn as a mask.

A function takes the export's value and the shape (H, W) of the mask, and raises DataError where the value does not tell
a mask. Cost is linear in the value's length and in the pixels that the outline covers.
"""

import re
from collections.abc import Mapping
from itertools import chain
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.sources.conversion import Mask, runs
from models.errors import DataError
from models.masks.rasterising import MAX_COORDINATE, fill_ellipse, fill_polygon, turned

MAX_PIXEL = 32_000  # of a corner that OpenCV fills exactly
MAX_DEPTH = 8  # of lists of corners; those of a MultiPolygon lie within 4
# All that converting a value of any JSON type to numbers raises.
NO_NUMBERS = (TypeError, ValueError, ArithmeticError, KeyError, IndexError)


def draw_polygons(value: Any, shape: tuple[int, int], box: Any = None) -> Mask:
    """Fill polygons, united: [[x, y, x, y ...], ...], or with corners as pairs or {"x": x, "y": y}, or a single one.

    Lists may be within further lists, and numbers may be written as text, one or all of a polygon's.

    A polygon of fewer than three corners, or in a line, has no area: it is left out beside one that has, and
    raises DataError alone.

    Args:
        value: the polygons.
        shape: (H, W) of the mask.
        box: x, y, width, height around them, if it is known.
    """
    try:
        polygons = [corners for ring in _rings(plain_corners(value)) if len(corners := _corners(ring))]
    except NO_NUMBERS as error:
        raise DataError(f"its polygons must be lists x, y, x, y ...: {error}") from error
    if _are_contours(polygons, box):
        pixels = np.zeros(shape, dtype=np.uint8)
        for corners in polygons:
            cv2.fillPoly(pixels, [np.clip(corners, -MAX_PIXEL, MAX_PIXEL).astype(np.int32)], 1)
        return pixels.astype(bool)
    polygons = [corners for corners in polygons if _area(corners) > 0]
    if not polygons:
        raise DataError("its outline has no area")
    mask = np.zeros(shape, dtype=bool)
    for corners in polygons:
        top, left, bottom, right = _extent(corners, shape)
        part = mask[top:bottom, left:right]
        if part.size:
            part |= fill_polygon(corners - (left, top), part.shape)
    return mask


def draw_even_odd(value: Any, shape: tuple[int, int]) -> Mask:
    """Fill polygons of which one within another is its hole; `value` as `draw_polygons` has taken it."""
    mask = np.zeros(shape, dtype=bool)
    for ring in _rings(plain_corners(value)):
        if _area(_corners(ring)) > 0:
            mask ^= draw_polygons([ring], shape)
    return mask


def _are_contours(polygons: list[NDArray[np.float64]], box: Any) -> bool:
    """Whether polygons are contours as OpenCV finds them in a mask: their corners are the object's outermost pixels.

    Label Studio exports brushes so, and many scripts do. Such a contour goes from pixel to pixel in eight directions,
    and the wrong way round; and the box around it is a pixel wider and higher than its corners are apart.
    """
    corners = np.concatenate([np.zeros((0, 2)), *polygons])
    try:
        around = np.array(box, dtype=np.float64)
    except NO_NUMBERS:
        return False
    if around.shape != (4,) or not corners.size or (corners != np.round(corners)).any():
        return False
    first, last = corners.min(axis=0), corners.max(axis=0)
    if not np.array_equal(around, [*first, *(last - first + 1)]):
        return False
    for ring in polygons:
        following = np.roll(ring, -1, axis=0)
        across, down = np.abs(following - ring).T
        turn = (ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]).sum()
        if turn > 0 or ((across != 0) & (down != 0) & (across != down)).any():
            return False
    return True


def plain_corners(value: Any, depth: int = 0) -> Any:
    """Lists of numbers, in which numbers were written as text, or corners as {"x": x, "y": y}; the rest as it is.

    Raises:
        ValueError: text holds something else than numbers, or lists are within more than MAX_DEPTH others.
    """
    if isinstance(value, list):
        if depth > MAX_DEPTH:
            raise ValueError(f"lists lie within more than {MAX_DEPTH} others")
        return value if _are_numbers(value) else [plain_corners(entry, depth + 1) for entry in value]
    if isinstance(value, dict) and _are_numbers(corner := [plain_corners(value.get(axis)) for axis in ("x", "y")]):
        return corner
    if isinstance(value, str):
        numbers = [float(number) for number in re.split(r"[\s,;]+", value.strip(" \t\r\n,;[]"))]
        return numbers[0] if len(numbers) == 1 else numbers
    return value


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _rings(value: Any) -> list[list[Any]]:
    """Polygons of any of the forms, in lists of any depth, each as a flat list of numbers."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"they are {str(value)[:40]!r}")
    if not any(isinstance(entry, list) for entry in value):
        return [value]
    if others := [entry for entry in value if not isinstance(entry, list)]:
        raise ValueError(f"a polygon is {str(others[0])[:40]!r}")
    # One polygon of pairs looks like many polygons of one corner each, which would have no area.
    if all(len(pair) == 2 and not any(isinstance(entry, list) for entry in pair) for pair in value):
        return [[*chain.from_iterable(value)]]
    return [ring for entry in value if entry for ring in _rings(entry)]


def _corners(ring: list[Any]) -> NDArray[np.float64]:
    """Corners of a polygon as an array of shape (n, 2), x and y."""
    if any(isinstance(entry, bool) for entry in ring):
        raise ValueError("an entry is no number")
    if len(ring) % 2:
        raise ValueError(f"a polygon has {len(ring)} numbers")
    corners = np.array(ring, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(corners).all():
        raise ValueError("a number is infinite or none")
    return np.clip(corners, -MAX_COORDINATE, MAX_COORDINATE)


def _area(corners: NDArray[np.float64]) -> float:
    """Twice the area that the corners' triangles span about the first, whichever way round: 0 if they lie in a line."""
    if len(corners) < 3:
        return 0.0
    spokes = corners - corners[0]
    return float(np.abs(spokes[:-1, 0] * spokes[1:, 1] - spokes[1:, 0] * spokes[:-1, 1]).sum())


def _extent(corners: NDArray[np.float64], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of the pixels that a polygon may cover, within the mask."""
    left, top = np.floor(corners.min(axis=0)).astype(int)
    right, bottom = np.ceil(corners.max(axis=0)).astype(int)
    rows, columns = np.clip((top, bottom), 0, shape[0]), np.clip((left, right), 0, shape[1])
    return int(rows[0]), int(columns[0]), int(rows[1]), int(columns[1])


def draw_box(value: Any, shape: tuple[int, int], degrees: float = 0) -> Mask:
    """Fill a box [x, y, width, height], turned clockwise about its middle."""
    x, y, width, height = _four(value, "its bbox must be x, y, width, height")
    corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
    centre = np.array([x + width / 2, y + height / 2])
    return fill_polygon(turned(corners - centre, degrees) + centre, shape)


def draw_turned_box(value: Any, annotation: Mapping[str, Any], shape: tuple[int, int]) -> Mask:
    """Fill a box of an annotation, turned as its attributes say."""
    return draw_box(value, shape, rotation_of(annotation))


def rotation_of(annotation: Mapping[str, Any]) -> float:
    """CVAT writes the turn of a box as an attribute, in degrees clockwise, into Datumaro's JSON and into COCO."""
    attributes = annotation.get("attributes")
    value = attributes.get("rotation", 0) if isinstance(attributes, dict) else 0
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"its rotation must be a number, it is {value!r:.40}") from error


def draw_ellipse(value: Any, shape: tuple[int, int], degrees: float = 0) -> Mask:
    """Fill the ellipse within the box [left, top, right, bottom], turned clockwise about its middle."""
    left, top, right, bottom = _four(value, "its ellipse must be left, top, right, bottom")
    centre, radii = np.array([left + right, top + bottom]) / 2, np.array([right - left, bottom - top]) / 2
    return fill_ellipse(centre, radii, degrees, shape)


def _four(value: Any, wanted: str) -> tuple[float, float, float, float]:
    try:
        first, second, third, fourth = (float(entry) for entry in value)
    except NO_NUMBERS as error:
        raise DataError(f"{wanted}, it is {str(value)[:60]}") from error
    if not np.isfinite([first, second, third, fourth]).all():
        raise DataError(f"{wanted}, it is {str(value)[:60]}")
    return first, second, third, fourth


def draw_coco_rle(value: Mapping[str, Any], shape: tuple[int, int]) -> Mask:
    """Decode COCO's run lengths {"size": [H, W], "counts": list or string}, column after column.

    pycocotools decodes the same, but can be told only the size and the string: to check that the runs fit the size,
    they must be decoded first, and then they are the mask. Tests compare the two.
    """
    counts, size = value.get("counts"), value.get("size")
    if not isinstance(size, list) or not isinstance(counts, list | str):
        raise DataError(
            "its RLE cannot be read: it must have size, [height, width], and counts, a list or text; it has size "
            f"{str(size)[:40]} and counts {str(counts)[:40]}"
        )
    try:
        if [int(length) for length in size] != list(shape):
            raise DataError(f"its RLE is of size {size}, the image is {list(shape)}")
        lengths = decode_counts(counts) if isinstance(counts, str) else [_count(count) for count in counts]
    except NO_NUMBERS as error:
        raise DataError(f"its RLE cannot be read: {error!r}") from error
    return np.ascontiguousarray(runs(lengths, (shape[1], shape[0])).T)


def _count(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(f"a count is {value!r}")
    return int(value)


def decode_counts(counts: str) -> list[int]:
    """The run lengths of a compressed RLE: six bits a sign, five of them value, from the third on as differences.

    The same as rleFrString of pycocotools' maskApi.c.

    Raises:
        ValueError: a sign is none of them, or a number does not end.
    """
    lengths: list[int] = []
    signs = iter(counts)
    for sign in signs:
        bits, shift = _bits(sign), 0
        value = bits & 31
        while bits & 32:
            shift += 5
            if shift > 40:
                raise ValueError("a count is longer than any image")
            bits = _bits(next(signs, ""))
            value |= (bits & 31) << shift
        if bits & 16:
            value -= 1 << (shift + 5)
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    return lengths


def _bits(sign: str) -> int:
    if not "0" <= sign <= "o":
        raise ValueError(f"{sign!r} is no sign of a compressed RLE" if sign else "its last count does not end")
    return ord(sign) - 48
