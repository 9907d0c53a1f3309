"""The classes and their masks: outlines evaluated at the picture's own pixels, so exact at every size."""

import numpy as np

from models.phantom.anatomy import Anatomy
from models.phantom.polar import Mask, pixel_grid, wrap_angle

LUMEN, FIBROUS_CAP, LIPID_CORE, VASA_VASORUM = CLASSES = ("Lumen", "Fibrous cap", "Lipid core", "Vasa vasorum")


def exact_masks(anatomy: Anatomy, size: int) -> dict[str, Mask]:
    """One mask per class present, shape (size, size), bool; no two of them overlap."""
    x, y, radius, angle, entry = pixel_grid(size)
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
        holes = np.zeros((size, size), dtype=bool)
        for vessel in anatomy.vessels:
            rows, columns = (_span(at, vessel.a, size) for at in (vessel.y, vessel.x))
            holes[rows, columns] |= vessel.level(x[rows, columns], y[rows, columns]) <= 1
        masks[VASA_VASORUM] = holes & seen & (depth >= 0)
    return {label: mask for label, mask in masks.items() if mask.any()}


def _span(at: float, reach: float, size: int) -> slice:
    """The pixels within `reach` of a coordinate."""
    first, last = ((at + sign * reach + 1) * size / 2 for sign in (-1, 1))
    return slice(max(0, int(first) - 1), max(0, int(last) + 2))
