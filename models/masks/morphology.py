"""Morphology of masks by Euclidean discs, exact and without floating point where it decides.

Squared distances between pixels are whole numbers. OpenCV's distance transforms are wrong in the last bit, here and
there and from run to run, so what is exactly a radius away from an edge is decided by whole numbers.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray


def squared_reach(radius: float) -> int:
    """The largest squared distance between two pixels that are no further apart than `radius`, in pixels.

    >>> [squared_reach(radius) for radius in (0.5, 1.0, 1.5, 2.9999999999999996)]
    [0, 1, 2, 9]
    """
    # Radii are single floats times a fraction: what rounds to the same single float is the same distance.
    within, squared = np.float32(radius), int(radius * radius) + 2
    while np.float32(math.sqrt(squared)) > within:
        squared -= 1
    return squared


def dilated(mask: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """The pixels no further than `radius` from a mask of shape (H, W), uint8, 0 or 1.

    The disc is laid down row by row: each of its rows is the mask, widened and moved up and down. That costs 2 r + 1
    passes over single bytes, a fraction of a distance transform for the radii of smoothing.

    >>> dilated(np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]], np.uint8), radius=2.0)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0]], dtype=uint8)
    """
    squared = squared_reach(radius)
    found, row, half = np.zeros_like(mask), mask, 0
    for down in range(min(math.isqrt(squared), len(mask) - 1), -1, -1):
        width = math.isqrt(squared - down * down)  # grows as `down` falls, so each row is widened from the last
        if width > half:
            row = np.asarray(cv2.dilate(row, np.ones((1, 2 * (width - half) + 1), np.uint8)), dtype=np.uint8)
            half = width
        found[down:] |= row[: len(row) - down]
        if down:
            found[:-down] |= row[down:]
    return found


def eroded(mask: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    """The pixels further than `radius` from all outside of a mask, shape (H, W), uint8, 0 or 1.

    Beyond the array's border nothing is outside: what reaches the border goes on.
    """
    return 1 - dilated(1 - mask, radius)


def inside_distance(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance in pixels of each pixel of a mask from the nearest outside it; right but for its last bit."""
    return np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), dtype=np.float32)


def exact(distance: float) -> float:
    """A distance that a transform has found, with its last bit put right; without any outside it is huge, and stays."""
    squared = distance * distance
    return float(np.float32(math.sqrt(round(squared)))) if squared < 2**23 else distance


def just_above(radius: float) -> float:
    """A number between `radius` and the next distance that two pixels can have, to compare inexact distances with."""
    return math.sqrt(squared_reach(radius) + 0.5)
