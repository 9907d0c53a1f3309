"""The plain way to do what the product does near the objects only: every step on the whole grid, for comparison."""

import cv2
import numpy as np

from models.refiner import DISTANCE_WIDTHS
from models.trimap import BACKGROUND, FOREGROUND, UNKNOWN
from models.wall import RAYS, ROWS, ray_angles, row_of


def coarse_mask(cam, threshold, config, size):
    """As `models.trimap.coarse_mask`."""
    resized = cv2.resize(cam.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    labels, areas = components((resized >= threshold).astype(np.uint8), 8)
    smoothed = np.zeros((size, size), np.uint8)
    for number, area in enumerate(areas):
        if number == 0 or area < config.min_component * size * size:
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


def edge_of(mask, x, y):
    """The edge of a mask along each ray from (x, y), as `models.wall.find_wall` says; looked for across the frame."""
    distances = np.arange(0, float(np.hypot(*mask.shape)), 0.5, dtype=np.float32)
    map_x = (x + distances[:, None] * np.cos(ray_angles())).astype(np.float32)
    map_y = (y + distances[:, None] * np.sin(ray_angles())).astype(np.float32)
    seen = cv2.remap(mask * 255, map_x, map_y, cv2.INTER_LINEAR) >= 128
    last = len(distances) - 1 - seen[::-1].argmax(axis=0)
    return np.where(seen.any(axis=0), distances[last], 0.0)


def roll_up(strip, wall, shape):
    """One strip, as `models.wall.roll_up`."""
    scale = wall.side / max(shape)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    dx, dy = (columns + 0.5) * scale - 0.5 - wall.x, (rows + 0.5) * scale - 0.5 - wall.y
    ray = np.mod(np.arctan2(dy, dx), 2 * np.pi) * (RAYS / (2 * np.pi))
    low = np.floor(ray).astype(np.int32) % RAYS
    share = (ray - np.floor(ray)).astype(np.float32)
    edge = wall.edge[low] * (1 - share) + wall.edge[(low + 1) % RAYS] * share
    row = row_of(((np.sqrt(dx**2 + dy**2) - edge) / wall.side).astype(np.float32))
    h, w = strip.shape
    wrapped = np.concatenate([strip[:, -1:], strip, strip[:, :1]], axis=1).astype(np.float32)
    map_x = ((ray + 0.5) * (w / RAYS) + 0.5).astype(np.float32)
    map_y = ((row + 0.5) * (h / ROWS) - 0.5).astype(np.float32)
    values = cv2.remap(wrapped, map_x, np.clip(map_y, 0, h - 1), cv2.INTER_LINEAR)
    return np.where((row >= 0) & (row <= ROWS - 1), values, 0)


def network_input(crop, trimap, cam):
    """As `models.fba_net.network_input`: plane by plane."""
    known = [trimap == BACKGROUND, trimap == FOREGROUND]
    planes = [((crop.astype(np.float32) / 255 - 0.45) / 0.25).transpose(2, 0, 1)]
    planes += [plane[None].astype(np.float32) for plane in known]
    sigmas = np.array(DISTANCE_WIDTHS, dtype=np.float32)[:, None, None] * trimap.shape[0]
    for plane in known:
        if plane.any():
            found = cv2.distanceTransform((~plane).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            planes.append(np.exp(-np.rint(found[None] ** 2) / (2 * sigmas**2)))
        else:
            planes.append(np.zeros((len(DISTANCE_WIDTHS), *trimap.shape), dtype=np.float32))
    return np.concatenate([*planes, cam[None]]).astype(np.float32)
