"""The vessel wall, unrolled along rays from the lumen: a view in which vessels of all sizes look alike.

Published work that segments fibrous caps reads frames in polar coordinates (Sci Rep 14:4393, 2024). Here the rays begin
at the lumen's edge instead of the catheter, so that the size, the eccentricity and the catheter's place, which differ
between patients, are gone, and rows near the edge are finer, so that a thin cap covers several cells of a map.

    frame, mask of the lumen -> Wall (the edge's distance per ray) -> strip (rows x rays) -> maps -> back over the frame
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

RAYS = 768  # columns of a strip; the circumference of a lumen at a usual frame's size, in pixels
ROWS = 256
DEPTH = 0.36  # of the frame's longer side, from the lumen's edge outwards: 3.5 mm and more
INWARD = 0.01  # of the frame's longer side, from the edge inwards: the edge may be drawn too wide
FINE = 0.3  # rows at the edge are finer than the mean by this factor
HIGHER = 0.6  # weight of the higher of two maps; chosen on the val split of data/oct and two frames of other patients
STRIP_MARGIN = 64  # rays that a network sees beyond the place where a strip is cut open
MIN_AREA = 0.0005  # of the frame: a smaller lumen is none to unroll from


@dataclass(frozen=True)
class WallView:
    """Which classes are read on the unrolled wall; stored in the checkpoint.

    Attributes:
        lumen: the class whose mask the wall surrounds; it is read on the frame.
        classes: the classes that lie on the wall alone.
        alone: the wall's pass alone says of them whether and where they are; else it and the frame's pass do so
            together, see `both_maps`, for two classifiers that miss different ones.
    """

    lumen: str
    classes: tuple[str, ...]
    alone: bool = True


@dataclass(frozen=True, eq=False)
class Wall:
    """Where a frame's wall begins, as seen from inside the lumen.

    Attributes:
        x, y: where the rays begin, in pixels of the frame.
        edge: how far the lumen's edge is along each ray, shape (RAYS,), float32, pixels; ray i has the angle
            2 pi i / RAYS, clockwise from the right.
        side: the frame's longer side, in pixels.
    """

    x: float
    y: float
    edge: NDArray[np.float32]
    side: int

    def scaled(self, side: int) -> "Wall":
        """The same wall on the frame at another size, given by its longer side in pixels."""
        factor = side / self.side
        return Wall((self.x + 0.5) * factor - 0.5, (self.y + 0.5) * factor - 0.5, self.edge * np.float32(factor), side)


def find_wall(lumen: NDArray[np.bool_]) -> Wall | None:
    """The wall around a lumen.

    Args:
        lumen: mask of shape (H, W), bool; of several objects the largest counts.

    Returns:
        None where the lumen is too small to be one (MIN_AREA).
    """
    count, labels, stats, centroids = cv2.connectedComponentsWithStats(lumen.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[largest, cv2.CC_STAT_AREA] < MIN_AREA * lumen.size:
        return None
    mask = (labels == largest).view(np.uint8)
    x, y = centroids[largest]
    if not mask[min(round(y), len(mask) - 1), min(round(x), mask.shape[1] - 1)]:  # of a crescent
        inside = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        y, x = np.unravel_index(int(inside.argmax()), inside.shape)
    left, top, width, height = stats[largest, :4]
    # No part of the lumen is further away, and between a pixel of it and the next it is seen for half a pixel.
    reach = np.hypot(max(x - left, left + width - x), max(y - top, top + height - y)) + 1
    distances = np.arange(0, reach, 0.5, dtype=np.float32)
    angles = ray_angles()
    map_x = (x + distances[:, None] * np.cos(angles)).astype(np.float32)  # (R, RAYS)
    map_y = (y + distances[:, None] * np.sin(angles)).astype(np.float32)
    seen = cv2.remap(mask * 255, map_x, map_y, cv2.INTER_LINEAR) >= 128
    last = len(distances) - 1 - seen[::-1].argmax(axis=0)
    edge = np.where(seen.any(axis=0), distances[last], 0.0)
    return Wall(float(x), float(y), _smooth(edge), max(lumen.shape))


def ray_angles(rays: int = RAYS) -> NDArray[np.float32]:
    """The angle of each ray in radians, shape (rays,), float32, in [0, 2 pi)."""
    return (np.arange(rays) * (2 * np.pi / rays)).astype(np.float32)


def depths(rows: int = ROWS) -> NDArray[np.float32]:
    """Depth of each row behind the lumen's edge, shape (rows,), float32, as a fraction of the frame's longer side.

    From -INWARD to DEPTH; the step grows linearly from FINE of the mean step on.

    >>> [round(float(depth), 3) for depth in depths(3)]
    [-0.01, 0.081, 0.36]
    """
    u = np.linspace(0, 1, rows)
    return np.asarray(-INWARD + (DEPTH + INWARD) * (FINE * u + (1 - FINE) * u**2), dtype=np.float32)


def row_of(depth: NDArray[np.float32], rows: int = ROWS) -> NDArray[np.float32]:
    """The row, with its fraction, at a depth: the inverse of `depths`; below 0 or beyond rows - 1 outside of it."""
    bend = 2 * (1 - FINE)
    u = np.maximum((depth + INWARD) * (2 * bend / (DEPTH + INWARD)) + FINE**2, 0)
    np.sqrt(u, out=u)
    u -= FINE
    u *= (rows - 1) / bend
    return np.asarray(u, dtype=np.float32)


def unroll(picture: NDArray[np.uint8], wall: Wall, margin: int = 0) -> NDArray[np.uint8]:
    """The wall of an image or mask as a strip.

    Args:
        picture: shape (H, W[, C]), uint8, of the wall's own size.
        wall: where the wall begins.
        margin: rays that are repeated at either end, where the strip goes on.

    Returns:
        Shape (ROWS, RAYS + 2 margin[, C]), uint8; black beyond the picture.
    """
    rays = np.arange(-margin, RAYS + margin)
    return cut_strip(picture, wall, ray_angles()[rays % RAYS], wall.edge[rays % RAYS] + depths()[:, None] * wall.side)


def cut_strip(
    picture: NDArray[np.uint8], wall: Wall, angles: NDArray[np.floating], radius: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """A picture sampled at polar places around a wall's centre.

    Args:
        picture: shape (H, W[, C]), uint8.
        wall: gives the centre.
        angles: of each column, shape (n,), radians.
        radius: of each cell, shape (m, n), pixels.

    Returns:
        Shape (m, n[, C]), uint8; black beyond the picture.
    """
    map_x = (wall.x + radius * np.cos(angles)).astype(np.float32)
    map_y = (wall.y + radius * np.sin(angles)).astype(np.float32)
    return np.asarray(cv2.remap(picture, map_x, map_y, cv2.INTER_LINEAR), dtype=np.uint8)


def roll_up(strips: Sequence[NDArray[np.float32]], wall: Wall, shape: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Values of strips back over the frame.

    Args:
        strips: each of the same shape (h, w), floats; stretches over all rows and rays.
        wall: that the strips were unrolled by.
        shape: (H, W) of the frame, or of any picture of it of the same proportions.

    Returns:
        For each shape (H, W), float32; 0 where no cell of the strip comes.
    """
    if not strips:
        return []
    height, width = shape
    scale = wall.side / max(shape)
    dx = (np.arange(width, dtype=np.float32) + 0.5) * scale - 0.5 - wall.x  # (W,)
    dy = ((np.arange(height, dtype=np.float32) + 0.5) * scale - 0.5 - wall.y)[:, None]  # (H, 1)
    ray = np.arctan2(dy, dx)
    np.add(ray, 2 * np.pi, out=ray, where=ray < 0)
    ray *= RAYS / (2 * np.pi)  # [0, RAYS], the same place at either end
    whole = np.floor(ray)
    low = whole.astype(np.int32)
    edges = np.append(wall.edge, wall.edge[:2])
    share = ray - whole
    edge = edges.take(low) * (1 - share) + edges.take(low + 1) * share
    row = row_of(((np.sqrt(dx * dx + dy * dy) - edge) / wall.side).astype(np.float32))
    within = (row >= 0) & (row <= ROWS - 1)
    # A strip wraps around: a column more on either side, so that its ends meet.
    h, w = strips[0].shape
    map_x = ((ray + 0.5) * (w / RAYS) + 0.5).astype(np.float32)
    map_y = np.clip(((row + 0.5) * (h / ROWS) - 0.5).astype(np.float32), 0, h - 1)
    rolled = []
    for strip in strips:
        wrapped = np.concatenate([strip[:, -1:], strip, strip[:, :1]], axis=1).astype(np.float32)
        values = np.asarray(cv2.remap(wrapped, map_x, map_y, cv2.INTER_LINEAR), dtype=np.float32)
        rolled.append(np.multiply(values, within, out=values))
    return rolled


def both_present(frame: NDArray[np.float32], wall: NDArray[np.float32]) -> NDArray[np.float32]:
    """Presence by the frame's and the wall's pass together, any shape, probabilities: the mean of their logits.

    >>> both_present(np.float32([0.1, 0.5]), np.float32([0.9, 0.9])).round(2).tolist()
    [0.5, 0.75]
    """
    known = np.clip([frame, wall], 1e-6, 1 - 1e-6)
    logit = np.log(known / (1 - known)).mean(axis=0)
    return np.asarray(1 / (1 + np.exp(-logit)), dtype=np.float32)


def both_maps(frame: NDArray[np.float32], wall: NDArray[np.float32]) -> NDArray[np.float32]:
    """A map by the frame's and the wall's pass together, any shape, floats in [0, 1].

    Where one pass misses an object the other draws it if it is sure; where both draw it its edge is about their mean.

    >>> both_maps(np.float32([0.0, 0.4]), np.float32([0.9, 0.6])).round(2).tolist()
    [0.54, 0.52]
    """
    higher, lower = np.maximum(frame, wall), np.minimum(frame, wall)
    return np.asarray(HIGHER * higher + (1 - HIGHER) * lower, dtype=np.float32)


def _smooth(edge: NDArray[np.float64], reach: int = 9) -> NDArray[np.float32]:
    """A median over neighbouring rays, then a mean: single rays that leak into a side branch do not tear the strip."""
    wrapped = np.concatenate([edge[-reach:], edge, edge[:reach]])
    windows = np.lib.stride_tricks.sliding_window_view(wrapped, 2 * reach + 1)
    medians = np.median(windows, axis=1)
    wrapped = np.concatenate([medians[-2:], medians, medians[:2]])
    return np.asarray(np.convolve(wrapped, np.full(5, 0.2), mode="valid"), dtype=np.float32)
