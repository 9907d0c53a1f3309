"""From a class's activation map to a trimap: the paper's six steps, with kernels that scale with the object."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

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
        speck: objects smaller than this fraction of the frame are dropped.
    """

    smoothing: float = 0.1
    band: float = 0.3
    band_min: float = 10.0
    band_max: float = 40.0
    core: float = 0.6
    speck: float = 2e-4


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
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    smoothed = np.zeros_like(mask)
    for i in range(1, count):
        x, y, w, h, area = stats[i]
        if area < config.speck * SIZE * SIZE:
            continue
        part = np.pad((labels[y : y + h, x : x + w] == i).astype(np.uint8), 1)
        radius = config.smoothing * float(cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
        if radius >= 1:
            margin = int(radius) + 1  # room for the closing to work across the box's edge
            part = np.pad(part, margin)
            kernel = _disc(radius)
            part = cv2.morphologyEx(part, cv2.MORPH_OPEN, kernel)
            part = cv2.morphologyEx(part, cv2.MORPH_CLOSE, kernel)
            part = part[margin:-margin, margin:-margin]
        smoothed[y : y + h, x : x + w] |= part[1:-1, 1:-1]
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
    """
    trimap = np.full(mask.shape, BACKGROUND, dtype=np.uint8)
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    if count == 1:
        return trimap
    # The frame's border is no edge of the object: what touches it is not eroded from there.
    inside = np.asarray(cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), dtype=np.float32)
    outside, nearest = cv2.distanceTransformWithLabels(
        1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    radius = np.zeros(count, dtype=np.float32)
    np.maximum.at(radius, np.asarray(labels, dtype=np.intp).ravel(), inside.ravel())
    band = np.clip(config.band * radius, config.band_min, config.band_max)
    eroded = np.minimum(band, config.core * radius)
    object_of = np.zeros(int(nearest.max()) + 1, dtype=np.int32)  # zero pixel's label -> the object it belongs to
    object_of[nearest[mask > 0]] = labels[mask > 0]
    trimap[outside <= band[object_of[nearest]]] = UNKNOWN
    trimap[(mask > 0) & (inside > eroded[labels])] = FOREGROUND
    return trimap


def _disc(radius: float) -> NDArray[np.uint8]:
    side = 2 * int(radius) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), dtype=np.uint8)
