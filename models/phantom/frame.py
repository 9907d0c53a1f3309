"""One frame and its truth, from a seed.

A frame is scanned as the instrument does it: a beam rotates about the catheter, so tissue, shadows and speckle are
painted in polar coordinates and warped to the picture once. The masks never see that warp: the same outlines are
evaluated at the picture's own pixels.

A seed fixes the anatomy; `difficulty` changes only how plainly it shows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.phantom.anatomy import sample_anatomy
from models.phantom.picture import render_picture
from models.phantom.polar import Mask
from models.phantom.scan import paint_scan
from models.phantom.truth import exact_masks


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic image and its truth.

    Attributes:
        image: shape (H, W, 3), uint8, RGB.
        masks: one per class present, shape (H, W), bool, never empty; no two of an OCT frame overlap.
    """

    image: NDArray[np.uint8]
    masks: dict[str, Mask]


def render_phantom(seed: int, size: int = 512, difficulty: float = 0.5) -> Phantom:
    """Draw the frame of a seed; the same arguments give the same bytes.

    Args:
        seed: not negative; chooses anatomy, artefacts, colours and noise.
        size: width and height in pixels, at least 64.
        difficulty: in [0, 1]; more of it lowers the contrast of lipid and vessels and adds speckle, blur and
            look-alikes without a mask. The masks do not depend on it.

    Raises:
        ValueError: an argument is out of its range.
    """
    if seed < 0 or size < 64 or not 0 <= difficulty <= 1:
        raise ValueError(f"need seed >= 0, size >= 64 and 0 <= difficulty <= 1, got {seed=}, {size=}, {difficulty=}")
    shape, paint, look = (np.random.default_rng([seed, stream]) for stream in range(3))
    anatomy = sample_anatomy(shape)
    polar = paint_scan(anatomy, paint, size, difficulty)  # (beams, samples) display level in [0, 1]
    return Phantom(render_picture(polar, anatomy, look, size, difficulty), exact_masks(anatomy, size))
