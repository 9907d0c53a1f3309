"""From a class's activation map to a trimap: the paper's six steps, with kernels that scale with the object.

The paper's first step scales to 1024 x 1024. That is kept as the scale of all widths; a smaller image, which could show
nothing of so fine a grid, gets a coarser one of its own (`grid_of`).

What the kernels cannot reach is not looked at: each object is worked on in a box of its own, with a margin as wide as
its kernel, or in one with its neighbours where their bands may meet. The result is that of the whole grid.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import Component, connected_components, only_component
from models.masks.morphology import dilated, eroded, exact, inside_distance, just_above

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
SIZE = 1024  # step 1 of the paper
GRIDS = (512, 768, SIZE)  # sides of the grids that stand for it
ROUNDING = 1e-4  # above the rounding of an interpolation
CELL = 8  # pixels of that grid: how finely it is told which objects are near each other


@dataclass(frozen=True)
class TrimapConfig:
    """Widths of the kernels, as fractions of an object's inscribed radius or in pixels of the 1024 x 1024 grid.

    Attributes:
        smoothing: radius of the opening and of the closing, a fraction of the inscribed radius.
        band: half width of the unknown zone, a fraction of the inscribed radius ...
        band_min, band_max: ... kept within these, in pixels.
        core: at most this fraction of the inscribed radius is eroded, so that no object loses its foreground.
        min_component: objects smaller than this fraction of the frame are dropped.
    """

    smoothing: float = 0.1
    band: float = 0.3
    band_min: float = 10.0
    band_max: float = 40.0
    core: float = 0.6
    min_component: float = 2e-4

    def on_grid(self, size: int) -> "TrimapConfig":
        """The same widths in pixels of a grid of `size` x `size`.

        >>> TrimapConfig(band_min=10).on_grid(512).band_min
        5.0
        """
        scale = size / SIZE
        return replace(self, band_min=self.band_min * scale, band_max=self.band_max * scale)


def grid_of(height: int, width: int) -> int:
    """Side of the grid for an image: the smallest that is no coarser than the image, or the finest; pixels.

    >>> grid_of(300, 512), grid_of(513, 10), grid_of(4000, 3000)
    (512, 768, 1024)
    """
    return next((side for side in GRIDS if side >= max(height, width)), SIZE)


def trimap_config(values: Mapping[str, float]) -> TrimapConfig:
    """Kernel widths as a checkpoint's card holds them; cards of earlier releases say `speck` for `min_component`.

    Raises:
        TypeError: there is no such width.

    >>> trimap_config({"speck": 0.001}).min_component
    0.001
    """
    renamed = {"speck": "min_component"}
    return TrimapConfig(**{renamed.get(name, name): value for name, value in values.items()})


def coarse_mask(
    cam: NDArray[np.float32], threshold: float, config: TrimapConfig, size: int = SIZE
) -> NDArray[np.uint8]:
    """Steps 1 and 2: resize to the grid and threshold, then open and close each object.

    Args:
        cam: activation map, shape (h, w), floats in [0, 1].
        threshold: at or above this activation a pixel belongs to the object, in (0, 1).
        config: kernel widths.
        size: side of the grid, see `grid_of`.

    Returns:
        Shape (size, size), uint8, 0 or 1.

    Raises:
        ValueError: `cam` is not 2-D or the threshold is not in (0, 1).
    """
    if cam.ndim != 2:
        raise ValueError(f"cam must have shape (h, w), got {cam.shape}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be in (0, 1), got {threshold}")
    mask = _thresholded(cam.astype(np.float32, copy=False), threshold, size)
    labels, objects = _objects(mask)
    smoothed = np.zeros_like(mask)
    for found in objects:
        if found.area >= config.min_component * mask.size:
            smoothed[found.box] |= _smoothed(labels, found, config)
    return smoothed


def _thresholded(cam: NDArray[np.float32], threshold: float, size: int) -> NDArray[np.uint8]:
    """Step 1: a map of shape (h, w) on the grid and thresholded; shape (size, size), uint8, 0 or 1."""
    mask = np.zeros((size, size), dtype=np.uint8)
    left, top, width, height = cv2.boundingRect((cam >= threshold - ROUNDING).view(np.uint8))
    if width:
        # Cut between pixels of the map that lie between pixels of the grid, the part is scaled as the whole is.
        rows, grid_rows = _blocks(top - 1, top + height + 1, cam.shape[0], size)
        columns, grid_columns = _blocks(left - 1, left + width + 1, cam.shape[1], size)
        sides = grid_columns.stop - grid_columns.start, grid_rows.stop - grid_rows.start
        part = np.ascontiguousarray(cam[rows, columns])
        mask[grid_rows, grid_columns] = cv2.resize(part, sides, interpolation=cv2.INTER_LINEAR) >= threshold
    return mask


def _blocks(start: int, stop: int, side: int, size: int) -> tuple[slice, slice]:
    """The part of a map's side from `start` to `stop`, rounded outwards to whole pixels of the grid; on both."""
    count = math.gcd(side, size)  # the blocks of a side
    own, grid = side // count, size // count  # pixels of a block
    first, last = max(start, 0) // own, -(-min(stop, side) // own)
    return slice(first * own, last * own), slice(first * grid, last * grid)


def _objects(mask: NDArray[np.uint8]) -> tuple[NDArray[np.integer[Any]], list[Component]]:
    """The objects of a mask, and a plane with their numbers: the mask itself if there is one."""
    only = only_component(mask)
    return connected_components(mask) if only is None else (mask, [only])


def _smoothed(labels: NDArray[np.integer[Any]], found: Component, config: TrimapConfig) -> NDArray[np.uint8]:
    """An object opened and closed, within its box; `labels` of shape (H, W) has its number on its pixels."""
    part: NDArray[np.uint8] = (labels[found.box] == found.number).view(np.uint8)
    inside = inside_distance(np.pad(part, 1))[1:-1, 1:-1]
    radius = config.smoothing * exact(float(inside.max()))
    if radius < 1:
        return part
    margin = int(radius) + 2  # room for the closing to work across the box's edge
    if found.x and found.y and found.x + found.width < labels.shape[1] and found.y + found.height < labels.shape[0]:
        shrunk = np.pad((inside > just_above(radius)).view(np.uint8), margin)
    else:
        shrunk = eroded(_continued(labels, found, margin), radius)
    closed: NDArray[np.uint8] = eroded(dilated(dilated(shrunk, radius), radius), radius)[margin:-margin, margin:-margin]
    return closed


def _continued(labels: NDArray[np.integer[Any]], found: Component, margin: int) -> NDArray[np.uint8]:
    """An object's box, `margin` pixels wider on every side; what touches the frame's border goes on beyond it."""
    top, left = max(found.y - margin, 0), max(found.x - margin, 0)
    around = labels[top : found.y + found.height + margin, left : found.x + found.width + margin] == found.number
    above, before = top - found.y + margin, left - found.x + margin
    below = found.height + 2 * margin - above - around.shape[0]
    after = found.width + 2 * margin - before - around.shape[1]
    wide = cv2.copyMakeBorder(around.view(np.uint8), above, below, before, after, cv2.BORDER_REPLICATE)
    return np.asarray(wide, dtype=np.uint8)


def trimap_from_mask(mask: NDArray[np.uint8], config: TrimapConfig) -> NDArray[np.uint8]:
    """Steps 3 to 6: a dilated copy is the unknown zone, an eroded copy the sure foreground, overlaid.

    Dilation and erosion are by Euclidean discs, read off distance transforms; each object has its own radius.

    Args:
        mask: shape (H, W), uint8, 0 or 1.
        config: kernel widths.

    Returns:
        Shape (H, W), uint8, BACKGROUND, UNKNOWN or FOREGROUND. All background for an empty mask; every object keeps
        some foreground.

    >>> mask = np.zeros((1, 9), np.uint8)
    >>> mask[:, 2:7] = 1
    >>> trimap_from_mask(mask, TrimapConfig(band_min=1, core=0.5))
    array([[  0, 128, 128, 255, 255, 255, 128, 128,   0]], dtype=uint8)
    """
    trimap = np.zeros(mask.shape, dtype=np.uint8)
    labels, objects = _objects(mask)
    reach = int(config.band_max) + 2  # the band cannot reach further
    for neighbours in _neighbourhoods(objects, reach, mask.shape):
        near = _around(neighbours, reach)
        if len(neighbours) == 1:
            zones = _band_of_one(mask[near], config)
        else:
            # Their box may hold objects of others, which are none of theirs.
            numbers = [found.number for found in neighbours]
            own = np.where(np.isin(labels[near], numbers), labels[near], 0).astype(np.int32)
            zones = _bands_of_many(own, numbers, config)
        np.maximum(trimap[near], zones, out=trimap[near])
    return trimap


def _band_of_one(mask: NDArray[np.uint8], config: TrimapConfig) -> NDArray[np.uint8]:
    """Trimap of an object, shape (h, w), on a part of the grid that holds all that its band reaches."""
    inside = _inside(mask)
    (band,), (core,) = _widths([float(inside.max())], config)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    return _zones(outside <= band, inside > core)


def _bands_of_many(labels: NDArray[np.int32], numbers: Sequence[int], config: TrimapConfig) -> NDArray[np.uint8]:
    """As `_band_of_one`, of objects whose bands may meet; `labels` has their numbers, which ascend."""
    mask = (labels > 0).view(np.uint8)
    inside = _inside(mask)
    bands, cores = _widths([float(inside[labels == number].max()) for number in numbers], config)
    band_of, core_of = np.zeros((2, numbers[-1] + 1), dtype=np.float32)
    band_of[list(numbers)], core_of[list(numbers)] = bands, cores
    foreground = (mask > 0) & (inside > core_of[labels])
    if (bands == bands[0]).all():  # so it matters not whose zone it is
        outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5)
        return _zones(outside <= bands[0], foreground)
    outside, nearest = cv2.distanceTransformWithLabels(
        1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    object_of = np.zeros(int(nearest.max()) + 1, dtype=np.int32)  # label of an object's pixel -> the object
    object_of[nearest[mask > 0]] = labels[mask > 0]
    return _zones(outside <= band_of[object_of][nearest], foreground)


def _inside(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each pixel of a mask of shape (h, w) from the nearest outside it, 0 outside."""
    left, top, width, height = cv2.boundingRect(mask)
    # The frame's border is no edge of the object: what touches it is not eroded from there.
    box = slice(max(top - 1, 0), top + height + 1), slice(max(left - 1, 0), left + width + 1)
    inside = np.zeros(mask.shape, dtype=np.float32)
    inside[box] = inside_distance(mask[box])
    return inside


def _widths(radii: Sequence[float], config: TrimapConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Half the unknown zone's width and, just above it, what is eroded, of objects of some inscribed radii."""
    radius = np.array([exact(found) for found in radii], dtype=np.float32)
    band = np.clip(config.band * radius, config.band_min, config.band_max)
    core = [just_above(float(width)) for width in np.minimum(band, config.core * radius)]
    return band, np.array(core, dtype=np.float32)


def _zones(unknown: NDArray[np.bool_], foreground: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A trimap of the unknown zone, the foreground that overlays it, and background elsewhere."""
    return np.asarray(unknown.view(np.uint8) * np.uint8(UNKNOWN) | foreground.view(np.uint8) * np.uint8(FOREGROUND))


def _neighbourhoods(objects: Sequence[Component], reach: int, shape: tuple[int, ...]) -> list[list[Component]]:
    """Objects in groups: two share one where the boxes around them, `reach` wider on every side, meet.

    Args:
        objects: on a grid of shape (H, W).
        reach: in pixels.
        shape: the grid's.
    """
    if len(objects) < 2:
        return [[found] for found in objects]
    # Boxes drawn on a grid of cells and rounded outwards: what meets there may meet.
    cells = np.zeros([side // CELL + 1 for side in shape], dtype=np.uint8)
    for found in objects:
        rows, columns = _around([found], reach)
        cells[rows.start // CELL : -(-rows.stop // CELL), columns.start // CELL : -(-columns.stop // CELL)] = 1
    group_of, groups = connected_components(cells)
    found_in: list[list[Component]] = [[] for _ in groups]
    for found in objects:
        found_in[group_of[found.y // CELL, found.x // CELL] - 1].append(found)
    return found_in


def _around(objects: Sequence[Component], reach: int) -> tuple[slice, slice]:
    """Rows and columns of the box around objects, `reach` pixels wider on every side, within the grid."""
    top, left = min(found.y for found in objects), min(found.x for found in objects)
    below = max(found.y + found.height for found in objects)
    after = max(found.x + found.width for found in objects)
    return slice(max(top - reach, 0), below + reach), slice(max(left - reach, 0), after + reach)
