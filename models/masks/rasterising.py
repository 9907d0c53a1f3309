"""Shapes as masks: a pixel belongs to a shape if its centre does.

OpenCV's drawing functions are not used for this: they take in every pixel that an outline touches, half a pixel too
much all around. Points are x, y in pixels, (0, 0) being the outer corner of the first pixel.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Points = NDArray[np.float64]

MAX_COORDINATE = 1e6  # pixels: far outside of any image, near enough not to overflow


def fill_polygon(corners: Points, shape: tuple[int, int], holes: Sequence[Points] = ()) -> Mask:
    """Fill a polygon by the even-odd rule.

    Args:
        corners: shape (n, 2), x and y in pixels.
        shape: (H, W) of the mask.
        holes: polygons of the same form that are cut out of it.

    >>> fill_polygon(np.array([[1, 0], [4, 0], [4, 2], [1, 2]]), (2, 5)).astype(int)
    array([[0, 1, 1, 1, 0],
           [0, 1, 1, 1, 0]])
    """
    height, width = shape
    flips = np.zeros((height, width + 1), dtype=bool)  # where, from left to right, a row enters or leaves the polygon
    for ring in (corners, *holes):
        _flip(flips, np.clip(ring, -MAX_COORDINATE, MAX_COORDINATE))
    inside: Mask = np.logical_xor.accumulate(flips, axis=1)[:, :width]
    return inside


def _flip(flips: Mask, corners: Points) -> None:
    """Mark, in place, the first pixel of each row whose centre is to the right of each edge of a polygon."""
    height, width = flips.shape[0], flips.shape[1] - 1
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        top, bottom = np.clip(np.ceil(np.sort([y0, y1]) - 0.5), 0, height).astype(int)
        if top < bottom:
            rows = np.arange(top, bottom)
            crossings = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            flips[rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)] ^= True


def fill_ellipse(centre: Points, radii: Points, degrees: float, shape: tuple[int, int]) -> Mask:
    """Fill an ellipse; it is empty without two positive radii.

    Args:
        centre: x and y in pixels.
        radii: in pixels.
        degrees: of the first radius from the x axis, clockwise as seen on the screen.
        shape: (H, W) of the mask.

    >>> fill_ellipse(np.array([2.5, 1.5]), np.array([2.5, 1.5]), 0, (3, 5)).astype(int)
    array([[0, 1, 1, 1, 0],
           [1, 1, 1, 1, 1],
           [0, 1, 1, 1, 0]])
    """
    height, width = shape
    if (radii <= 0).any():
        return np.zeros(shape, dtype=bool)
    across = np.arange(width) + 0.5 - centre[0]  # (W,) from the centre to each pixel's
    down = (np.arange(height) + 0.5 - centre[1])[:, None]  # (H, 1)
    angle = np.deg2rad(degrees)
    along = (across * np.cos(angle) + down * np.sin(angle)) / radii[0]  # (H, W)
    beside = (down * np.cos(angle) - across * np.sin(angle)) / radii[1]  # (H, W)
    inside: Mask = along**2 + beside**2 <= 1
    return inside


def fill_rectangle(corner: Points, size: Points, degrees: float, shape: tuple[int, int]) -> Mask:
    """Fill a rectangle.

    Args:
        corner: x and y in pixels of the corner that it is turned about: the upper left one before the turn.
        size: width and height in pixels.
        degrees: of the turn, clockwise as seen on the screen.
        shape: (H, W) of the mask.

    >>> fill_rectangle(np.array([1.0, 0.0]), np.array([2.0, 1.0]), 0, (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
    return fill_polygon(turned(corners, degrees) + corner, shape)


def fill_box(corners: Sequence[Sequence[float]], shape: tuple[int, int]) -> Mask:
    """An upright box with every pixel that it touches; at least one pixel large, which lies within the mask.

    Args:
        corners: two opposite ones, x and y in pixels, in any order.
        shape: (H, W) of the mask.

    >>> fill_box([(2.5, 0.2), (1.0, 0.4)], (2, 4)).astype(int)
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]])
    """
    (left, right), (top, bottom) = (sorted(pair) for pair in zip(*corners, strict=True))
    column, row = (int(np.clip(np.floor(value), 0, size - 1)) for value, size in ((left, shape[1]), (top, shape[0])))
    mask = np.zeros(shape, dtype=bool)
    mask[row : max(int(np.ceil(bottom)), row + 1), column : max(int(np.ceil(right)), column + 1)] = True
    return mask


def turned(points: Points, degrees: float) -> Points:
    """Points of shape (n, 2), rotated clockwise, as seen on the screen, about the origin."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    result: Points = points @ np.array([[cos, sin], [-sin, cos]])
    return result
