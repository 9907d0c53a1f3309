"""The plain way to do what the product does near the objects only: every step on the whole grid, for comparison."""

import cv2
import numpy as np

from models.trimap import BACKGROUND, FOREGROUND, SIZE, UNKNOWN


def coarse_mask(cam, threshold, config):
    """As `models.trimap.coarse_mask`."""
    resized = cv2.resize(cam.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    labels, areas = components((resized >= threshold).astype(np.uint8), 8)
    smoothed = np.zeros((SIZE, SIZE), np.uint8)
    for number, area in enumerate(areas):
        if number == 0 or area < config.min_component * SIZE * SIZE:
            continue
        part = (labels == number).astype(np.uint8)
        radius = config.smoothing * float(distance(np.pad(part, 1)).max())
        if radius >= 1:
            rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
            reach = 2 * int(radius) + 4
            part = np.pad(part, reach, mode="edge")
            part = eroded(dilated(dilated(eroded(part, radius), radius), radius), radius)[reach:-reach, reach:-reach]
            box = np.zeros_like(part)
            box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
            part &= box
        smoothed |= part
    return smoothed


def trimap_from_mask(mask, config):
    """As `models.trimap.trimap_from_mask`."""
    trimap = np.full(mask.shape, BACKGROUND, np.uint8)
    if not mask.any():
        return trimap
    labels, areas = components(mask, 8)
    inside = distance(mask)
    outside, nearest = cv2.distanceTransformWithLabels(
        1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    radius = np.array([0, *(inside[labels == n].max() for n in range(1, len(areas)))], dtype=np.float32)
    band = np.clip(config.band * radius, config.band_min, config.band_max)
    core = np.minimum(band, config.core * radius)
    object_of = np.zeros(int(nearest.max()) + 1, dtype=np.int32)
    object_of[nearest[mask > 0]] = labels[mask > 0]
    trimap[outside <= band[object_of][nearest]] = UNKNOWN
    trimap[(mask > 0) & (inside > core[labels])] = FOREGROUND
    return trimap


def without_small_components(mask, min_share):
    """As `models.masks.components.without_small_components`."""
    cleaned = mask.copy()
    for value in (True, False):
        labels, areas = components((cleaned == value).astype(np.uint8), 4)
        small = areas < min_share * mask.size
        small[0] = False
        cleaned[small[labels]] = not value
    return cleaned


def components(mask, connectivity):
    """Labels of the whole grid, and the area of each."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity)
    return labels, stats[:, cv2.CC_STAT_AREA]


def distance(mask):
    """Exact: squared distances are whole numbers, and OpenCV's distances are wrong in the last bit."""
    found = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    return np.sqrt(np.rint(found**2)).astype(np.float32)


def eroded(mask, radius):
    """By a Euclidean disc."""
    return (distance(mask) > radius).astype(np.uint8)


def dilated(mask, radius):
    """By a Euclidean disc."""
    return (distance(1 - mask) <= radius).astype(np.uint8) if mask.any() else mask
