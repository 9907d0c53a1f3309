"""One frame and its truth, from a seed.

A frame is scanned as the instrument does it: a beam rotates about the catheter, light is scattered back and lost on its
way through each tissue, and the console shows the logarithm of its power. All that happens in polar coordinates, which
are warped to the picture once. The masks never see that warp: the same outlines are evaluated at the picture's own
pixels.

Seed and style fix the anatomy; `difficulty` changes only how plainly it shows.
"""

import numpy as np

from models.phantom.frame import Phantom
from models.phantom.vessel.anatomy import sample_anatomy
from models.phantom.vessel.picture import render_picture
from models.phantom.vessel.scan import paint_scan
from models.phantom.vessel.style import STYLES, sample_style, style_of
from models.phantom.vessel.truth import exact_masks


def render_vessel(seed: int, size: int = 512, difficulty: float = 0.5, style: int | None = None) -> Phantom:
    """Draw the frame of a seed; the same arguments give the same bytes.

    Args:
        seed: not negative; chooses anatomy, artefacts and noise.
        size: width and height in pixels, at least 64.
        difficulty: in [0, 1]; more of it lowers the contrast of lipid and vessels and adds speckle, blur and
            blood in the lumen. The masks do not depend on it.
        style: number of the instrument, console and annotator, in [0, STYLES); None for the seed's own, `style_of`.

    Raises:
        ValueError: an argument is out of its range.
    """
    if seed < 0 or size < 64 or not 0 <= difficulty <= 1:
        raise ValueError(f"need seed >= 0, size >= 64 and 0 <= difficulty <= 1, got {seed=}, {size=}, {difficulty=}")
    if style is not None and not 0 <= style < STYLES:
        raise ValueError(f"need 0 <= style < {STYLES}, got {style=}")
    series = sample_style(style_of(seed) if style is None else style)
    shape, paint, look = (np.random.default_rng([seed, stream]) for stream in range(3))
    anatomy = sample_anatomy(shape, series)
    polar = paint_scan(anatomy, series, paint, size, difficulty)  # (beams, samples) display level in [0, 1]
    return Phantom(render_picture(polar, anatomy, series, look, size, difficulty), exact_masks(anatomy, size))
