"""The masks of the classes: outlines evaluated at the picture's own pixels, so exact at every size."""

import numpy as np

from models.phantom.polar import Mask, pixel_grid, wrap_angle
from models.phantom.truth import FIBROUS_CAP, LIPID_CORE, LUMEN, VASA_VASORUM, holes_mask
from models.phantom.vessel.anatomy import Anatomy


def exact_masks(anatomy: Anatomy, size: int) -> dict[str, Mask]:
    """One mask per class present, shape (size, size), bool; no two of them overlap."""
    _, _, radius, angle, entry = pixel_grid(size)
    scale = np.float32(anatomy.half_width)  # mm per unit of the grid
    seen = radius < anatomy.field_of_view / anatomy.half_width
    depth = radius * scale - np.take(anatomy.lumen.astype(np.float32), entry)
    masks = {LUMEN: seen & (depth < 0)}
    if anatomy.lipids:
        wall = seen & (depth >= 0)
        across = depth * np.take(anatomy.cosine.astype(np.float32), entry)
        cap_mask, core_mask = np.zeros((2, size, size), dtype=bool)
        for lipid in anatomy.lipids:
            beyond_cap = across - np.take(lipid.cap.astype(np.float32), entry)
            cap_mask |= wall & (np.abs(wrap_angle(angle - lipid.centre)) <= lipid.cap_half) & (beyond_cap < 0)
            ended = across >= np.take(lipid.drawn_end.astype(np.float32), entry)
            core_mask |= wall & (beyond_cap >= 0) & ~ended & (np.abs(lipid.side(angle, across)) <= 1)
        masks |= {FIBROUS_CAP: cap_mask, LIPID_CORE: core_mask & ~cap_mask}
    if anatomy.vessels:
        masks[VASA_VASORUM] = holes_mask(anatomy.vessels, size, anatomy.half_width) & seen & (depth >= 0)
    return {label: mask for label, mask in masks.items() if mask.any()}
