"""From a class's activation map to a trimap: the paper's six steps, with kernels that scale with the object.

What the kernels cannot reach is not looked at: each object is worked on in a box of its own, with a margin as wide as
its kernel, or in one with its neighbours where their bands may meet. The result is that of the whole grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import Component, connected_components
from models.masks.morphology import dilated, eroded, exact, inside_distance, just_above

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
SIZE = 1024  # step 1 of the paper
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


def trimap_config(values: Mapping[str, float]) -> TrimapConfig:
    """Kernel widths as a checkpoint's card holds them; cards of earlier releases say `speck` for `min_component`.

    Raises:
        TypeError: there is no such width.

    >>> trimap_config({"speck": 0.001}).min_component
    0.001
    """
    renamed = {"speck": "min_component"}
    return TrimapConfig(**{renamed.get(name, name): value for name, value in values.items()})


def coarse_mask(cam: NDArray[np.float32], threshold: float, config: TrimapConfig) -> NDArray[np.uint8]:
    """Steps 1 and 2: resize to 1024 x 1024 and threshold, then open and close each object.

    Args:
        cam: activation map, shape (h, w), floats in [0, 1].
        threshold: at or above this activation a pixel belongs to the object, in (0, 1).
        config: kernel widths.

    Returns:
        Shape (1024, 1024), uint8, 0 or 1.

    Raises:
        ValueError: `cam` is not 2-D or the threshold is not in (0, 1).
    """
    if cam.ndim != 2:
        raise ValueError(f"cam must have shape (h, w), got {cam.shape}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be in (0, 1), got {threshold}")
    resized = cv2.resize(cam.astype(np.float32, copy=False), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    mask = (resized >= threshold).view(np.uint8)
    labels, objects = connected_components(mask)
    smoothed = np.zeros_like(mask)
    for found in objects:
        if found.area >= config.min_component * SIZE * SIZE:
            smoothed[found.box] |= _smoothed(mask if len(objects) == 1 else labels, found, config)
    return smoothed


def _smoothed(labels: NDArray[np.integer[Any]], found: Component, config: TrimapConfig) -> NDArray[np.uint8]:
    """An object opened and closed, within its box; `labels` of shape (H, W) has its number on its pixels."""
    part = (labels[found.box] == found.number).view(np.uint8)
    radius = config.smoothing * exact(float(inside_distance(np.pad(part, 1)).max()))
    if radius < 1:
        return part
    margin = int(radius) + 2  # room for the closing to work across the box's edge
    top, left = max(found.y - margin, 0), max(found.x - margin, 0)
    around = labels[top : found.y + found.height + margin, left : found.x + found.width + margin] == found.number
    above, before = top - found.y + margin, left - found.x + margin
    below = found.height + 2 * margin - above - around.shape[0]
    after = found.width + 2 * margin - before - around.shape[1]
    # The frame's border is no edge of an object: beyond it, what touches it goes on.
    wide = cv2.copyMakeBorder(around.view(np.uint8), above, below, before, after, cv2.BORDER_REPLICATE)
    opened = dilated(eroded(np.asarray(wide, dtype=np.uint8), radius), radius)
    return eroded(dilated(opened, radius), radius)[margin:-margin, margin:-margin]


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
    labels, objects = connected_components(mask)
    reach = int(config.band_max) + 2  # the band cannot reach further
    for neighbours in _neighbourhoods(objects, reach, mask.shape):
        near = _around(neighbours, reach)
        numbers = labels[near] if len(neighbours) > 1 else (mask[near] > 0).astype(np.int32)
        _draw(trimap[near], numbers, config)
    return trimap


def _draw(trimap: NDArray[np.uint8], labels: NDArray[np.int32], config: TrimapConfig) -> None:
    """Steps 3 to 6 in place, on a part of the grid that holds some objects and all that their bands reach.

    Args:
        trimap: shape (h, w), uint8, all BACKGROUND.
        labels: shape (h, w), int32, the numbers of the objects.
        config: kernel widths.
    """
    mask = (labels > 0).view(np.uint8)
    # The frame's border is no edge of the object: what touches it is not eroded from there.
    inside = inside_distance(mask)
    numbers = np.flatnonzero(np.bincount(labels.ravel()))[1:] if labels.max() > 1 else np.array([1])
    radius = np.zeros(int(numbers[-1]) + 1, dtype=np.float32)
    for number in numbers:
        radius[number] = exact(float(inside.max() if len(numbers) == 1 else inside[labels == number].max()))
    band = np.clip(config.band * radius, config.band_min, config.band_max)
    core = np.array([just_above(float(width)) for width in np.minimum(band, config.core * radius)], dtype=np.float32)
    if len(numbers) == 1:
        trimap[cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5) <= band[1]] = UNKNOWN
        trimap[(mask > 0) & (inside > core[1])] = FOREGROUND
        return
    outside, nearest = cv2.distanceTransformWithLabels(
        1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    object_of = np.zeros(int(nearest.max()) + 1, dtype=np.int32)  # label of an object's pixel -> the object
    object_of[nearest[mask > 0]] = labels[mask > 0]
    trimap[outside <= band[object_of][nearest]] = UNKNOWN
    trimap[(mask > 0) & (inside > core[labels])] = FOREGROUND


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
