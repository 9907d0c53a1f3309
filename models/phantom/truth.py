"""The classes and their masks: outlines evaluated at the picture's own pixels, so exact at every size."""

from collections.abc import Sequence

import numpy as np

from models.phantom.anatomy import Anatomy, Hole
from models.phantom.polar import Mask, pixel_grid, wrap_angle

LUMEN, FIBROUS_CAP, LIPID_CORE, VASA_VASORUM = CLASSES = ("Lumen", "Fibrous cap", "Lipid core", "Vasa vasorum")


def exact_masks(anatomy: Anatomy, size: int) -> dict[str, Mask]:
    """One mask per class present, shape (size, size), bool; no two of them overlap."""
    _, _, radius, angle, entry = pixel_grid(size)
    seen = radius < anatomy.field_of_view
    depth = radius - np.take(anatomy.lumen.astype(np.float32), entry)
    masks = {LUMEN: seen & (depth < 0)}
    lipid = anatomy.lipid
    if lipid is not None:
        beyond_cap = depth - np.take(lipid.cap.astype(np.float32), entry)
        sector = seen & (depth >= 0) & (np.abs(lipid.side(angle, depth)) <= 1)
        # The cap ends at the sector's straight sides; only the core flares.
        straight = np.abs(wrap_angle(angle - lipid.centre)) <= lipid.half
        masks[FIBROUS_CAP] = sector & straight & (beyond_cap < 0)
        masks[LIPID_CORE] = sector & (beyond_cap >= 0) & (depth < np.take(lipid.reach.astype(np.float32), entry))
    if anatomy.vessels:
        masks[VASA_VASORUM] = holes_mask(anatomy.vessels, size) & seen & (depth >= 0)
    return {label: mask for label, mask in masks.items() if mask.any()}


def holes_mask(holes: Sequence[Hole], size: int, half_width: float = 1.0) -> Mask:
    """The pixels inside any of the holes, (size, size); `half_width` of the picture, in the holes' unit."""
    x, y, _, _, _ = pixel_grid(size)
    scale = np.float32(half_width)
    mask = np.zeros((size, size), dtype=bool)
    for hole in holes:
        rows, columns = (_span(at / half_width, hole.a / half_width, size) for at in (hole.y, hole.x))
        mask[rows, columns] |= hole.level(x[rows, columns] * scale, y[rows, columns] * scale) <= 1
    return mask


def _span(at: float, reach: float, size: int) -> slice:
    """The pixels within `reach` of a coordinate."""
    first, last = ((at + sign * reach + 1) * size / 2 for sign in (-1, 1))
    return slice(max(0, int(first) - 1), max(0, int(last) + 2))
