"""Shared by the painters: soft edges, smooth noise and dark holes, all on (beams, samples) arrays."""

import cv2
import numpy as np
from numpy.typing import NDArray

from models.phantom.anatomy import Hole
from models.phantom.polar import Floats, Rng


def ramp(value: Floats, width: Floats | float) -> Floats:
    """0 below -width/2, 1 above width/2, straight between."""
    return np.clip(value / width + 0.5, 0, 1)


def smooth_noise(rng: Rng, shape: tuple[int, ...], cells: tuple[int, int]) -> Floats:
    """Smooth noise of shape `shape`, periodic along the beams, from `cells` random values; deviation about 0.7."""
    coarse = rng.standard_normal(cells, dtype=np.float32)
    wrapped = np.concatenate([coarse, coarse[:1]])
    smooth = cv2.resize(wrapped, (shape[1], shape[0] * (cells[0] + 1) // cells[0]), interpolation=cv2.INTER_CUBIC)
    return smooth[: shape[0]]


def inside_hole(hole: Hole, x: Floats, y: Floats, edge: float) -> tuple[tuple[NDArray[np.intp], slice], Floats]:
    """Where a hole lies in (beams, samples) arrays of places, and there 1 inside of it, 0 outside.

    `edge` is the part of its radius over which it fades.
    """
    beams = x.shape[0]
    at, turn = np.hypot(hole.x, hole.y), np.arctan2(hole.y, hole.x)
    step = float(np.hypot(x[0, 1], y[0, 1]) - np.hypot(x[0, 0], y[0, 0]))
    columns = slice(max(0, int((at - hole.a) / step) - 1), int((at + hole.a) / step) + 2)
    reach = int(np.arcsin(min(1.0, hole.a / at)) / (2 * np.pi) * beams) + 2
    rows = (int(turn / (2 * np.pi) * beams) + np.arange(-reach, reach + 1)) % beams
    return (rows, columns), ramp(1 - edge / 2 - hole.level(x[rows, columns], y[rows, columns]), edge)


def darken(level: Floats, hole: Hole, x: Floats, y: Floats, edge: float, depth: float) -> None:
    """Paint a hole in place; see `inside_hole`."""
    where, inside = inside_hole(hole, x, y, edge)
    level[where] *= 1 - np.float32(depth) * inside
