"""Scan conversion: A-lines of a turning catheter as the cross-section that a viewer shows."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_SIDE = 1024  # pixels of a cross-section; finer samples are averaged along the A-line


@dataclass(frozen=True)
class Scan:
    """How the A-lines of one frame lie about the catheter.

    Attributes:
        offset: samples between the catheter's centre and the first sample; negative where the first ones are before it.
        padded: lines at the end that hold no data.
        line: index of the A-line whose direction is known.
        angle: its direction, in degrees clockwise from the top.
        clockwise: whether the lines that follow are clockwise of it.
    """

    offset: int = 0
    padded: int = 0
    line: int = 0
    angle: float = 0.0
    clockwise: bool = True


def scan_convert(polar: NDArray[np.uint8], scan: Scan, radius: int) -> NDArray[np.uint8]:
    """A-lines as a cross-section, bilinear, black where there is no sample.

    Args:
        polar: shape (A, R) or (A, R, 3), a row an A-line, the sample nearest to the catheter first.
        scan: how the lines lie.
        radius: samples from the centre to the edge of the cross-section.

    Returns:
        Array of shape (S, S) or (S, S, 3), where S is `side_of(radius)`.

    Raises:
        ValueError: no line is left without the padded ones, or `radius` is below 1.
    """
    lines = polar.shape[0] - scan.padded
    if lines < 1 or radius < 1:
        raise ValueError(f"it has {polar.shape[0]} A-lines, {scan.padded} of them padded, and a radius of {radius}")
    side, samples = side_of(radius), polar.shape[1]
    shrink = max(1.0, 2 * radius / side)
    kept = max(1, round(samples / shrink))
    rows = np.ascontiguousarray(polar[:lines])
    if kept < samples:
        rows = np.asarray(cv2.resize(rows, (kept, lines), interpolation=cv2.INTER_AREA))
    rows = np.concatenate([rows, rows[:1]])  # the turn closes
    columns, angles = _grid(side, radius, samples, kept, scan.offset)
    turn = (angles - np.float32(scan.angle)) / np.float32(360)
    line = (scan.line + (turn if scan.clockwise else -turn) * lines) % lines
    found = cv2.remap(rows, columns, line.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    found[(columns < -0.5) | (columns > kept - 0.5)] = 0
    return np.asarray(found, np.uint8)


def side_of(radius: int) -> int:
    """Pixels of the side of a cross-section of so many samples from centre to edge."""
    return min(2 * radius, MAX_SIDE)


@lru_cache(maxsize=4)
def _grid(side: int, radius: int, samples: int, kept: int, offset: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of every pixel: the column of its sample, and its direction in degrees clockwise from the top."""
    axis = np.arange(side, dtype=np.float32) + 0.5 - side / 2
    x, y = np.meshgrid(axis, axis)
    distance = np.hypot(x, y) * np.float32(2 * radius / side)
    columns = (distance - offset) * np.float32(kept / samples) - np.float32(0.5)
    angles = np.degrees(np.arctan2(x, -y))
    for grid in (columns, angles):
        grid.setflags(write=False)  # the cache hands them out again
    return columns.astype(np.float32), angles.astype(np.float32)
