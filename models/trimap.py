"""From a class's activation map to a trimap: the paper's six steps, with kernels that scale with the object."""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import connected_components

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
SIZE = 1024  # step 1 of the paper


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
    resized = cv2.resize(cam.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    mask = (resized >= threshold).astype(np.uint8)
    labels, objects = connected_components(mask)
    smoothed = np.zeros_like(mask)
    # The frame's border is no edge of an object: beyond it, what touches it goes on.
    reach = int(config.smoothing * SIZE) + 2
    wide = np.pad(labels, reach, mode="edge")
    for i, x, y, w, h, area in objects:
        if area < config.min_component * SIZE * SIZE:
            continue
        part = (labels[y : y + h, x : x + w] == i).astype(np.uint8)
        radius = config.smoothing * float(_distance(np.pad(part, 1)).max())
        if radius >= 1:
            margin = int(radius) + 2  # room for the closing to work across the box's edge
            start = reach - margin
            part = (wide[y + start :, x + start :][: h + 2 * margin, : w + 2 * margin] == i).astype(np.uint8)
            part = _eroded(_dilated(_dilated(_eroded(part, radius), radius), radius), radius)
            part = part[margin:-margin, margin:-margin]
        smoothed[y : y + h, x : x + w] |= part
    return smoothed


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
    trimap = np.full(mask.shape, BACKGROUND, dtype=np.uint8)
    x, y, w, h = cv2.boundingRect(mask)
    if not w:
        return trimap
    # Only the objects' surroundings are worked on; the band cannot reach further.
    reach = int(config.band_max) + 2
    rows = slice(max(y - reach, 0), y + h + reach)
    columns = slice(max(x - reach, 0), x + w + reach)
    near = np.ascontiguousarray(mask[rows, columns])
    labels, objects = connected_components(near)
    # The frame's border is no edge of the object: what touches it is not eroded from there.
    inside = _distance(near)
    outside, nearest = cv2.distanceTransformWithLabels(
        1 - near, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    radius = np.zeros(len(objects) + 1, dtype=np.float32)
    for found in objects:
        radius[found.number] = inside[found.box][labels[found.box] == found.number].max()
    band = np.clip(config.band * radius, config.band_min, config.band_max)
    eroded = np.minimum(band, config.core * radius)
    object_of = np.zeros(int(nearest.max()) + 1, dtype=np.int32)  # label of an object's pixel -> the object
    object_of[nearest[near > 0]] = labels[near > 0]
    part = trimap[rows, columns]
    part[outside <= band[object_of][nearest]] = UNKNOWN
    part[(near > 0) & (inside > eroded[labels])] = FOREGROUND
    return trimap


# Morphology by Euclidean discs, read off distance transforms: the cost does not grow with the radius.


def _distance(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Distance of each pixel of the mask from the nearest outside it, in pixels."""
    return np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), dtype=np.float32)


def _eroded(mask: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    return (_distance(mask) > radius).astype(np.uint8)


def _dilated(mask: NDArray[np.uint8], radius: float) -> NDArray[np.uint8]:
    if not mask.any():
        return mask
    return (_distance(1 - mask) <= radius).astype(np.uint8)
