"""Polar coordinates about the catheter: functions of the angle kept as tables, and where every pixel lies.

In the grid of pixels half the picture's width is 1.
"""

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

ANGLES = 2048  # entries of every outline's table, one turn
THETA = np.arange(ANGLES) * (2 * np.pi / ANGLES)

Floats = NDArray[Any]  # always floating; OpenCV's and numpy's stubs lose track of it
Mask = NDArray[np.bool_]
Rng = np.random.Generator


def wrap_angle(angle: Floats) -> Floats:
    """Bring angles into [-π, π)."""
    return np.asarray((angle + np.pi) % (2 * np.pi) - np.pi)


def angle_between(first: float, second: float) -> float:
    """The angle between two directions, in [0, π]."""
    return abs(math.remainder(first - second, 2 * math.pi))


def wave(rng: Rng, orders: range, decay: float = 1.0) -> Floats:
    """A random smooth periodic function over THETA, shape (ANGLES,), standard deviation about 1."""
    k = np.array(orders)
    weight = k**-decay / np.sqrt((k ** (-2 * decay)).sum() / 2)
    phase, strength = rng.uniform(0, 2 * np.pi, k.size), rng.uniform(0.5, 1.3, k.size)
    return np.asarray((weight * strength) @ np.cos(np.outer(k, THETA) + phase[:, None]))


def at_angle(table: Floats, angle: float) -> float:
    """The nearest entry of a table, shape (ANGLES,)."""
    return float(table[round(angle * ANGLES / (2 * np.pi)) % ANGLES])


@lru_cache(maxsize=4)
def pixel_grid(size: int) -> tuple[Floats, Floats, Floats, Floats, NDArray[np.intp]]:
    """Of every pixel: x, y, radius, angle in [0, 2π), and the angle's entry in the tables; each (size, size)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = np.meshgrid(axis, axis)
    radius, angle = cv2.cartToPolar(x, y)
    grids = (x, y, radius, angle, np.asarray(np.rint(angle * (ANGLES / (2 * np.pi))), dtype=np.intp) % ANGLES)
    for grid in grids:
        grid.setflags(write=False)  # the cache hands them out again
    return grids
