"""Pictures of masks and of the steps that lead to them."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.pipeline import Steps
from models.segment import Segment

Picture = NDArray[np.uint8]

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ((0, 158, 115), (213, 94, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (0, 114, 178), (230, 159, 0))


def overlay(image: Picture, segments: Sequence[Segment], classes: Sequence[str], opacity: float = 0.35) -> Picture:
    """The masks over the image, each with its outline, in its class's colour; shape (H, W, 3), uint8 RGB."""
    picture = image.astype(np.float32)
    for segment in segments:
        colour = np.array(COLOURS[classes.index(segment.label) % len(COLOURS)], dtype=np.float32)
        picture[segment.mask] = (1 - opacity) * picture[segment.mask] + opacity * colour
        picture[outline(segment.mask)] = colour
    return picture.astype(np.uint8)


def step_pictures(image: Picture, step: Steps) -> dict[str, Picture]:
    """The steps of one class as in the paper's Figure 5, each of the image's size: (H, W) or (H, W, 3), uint8.

    Returns:
        "1-map" (over the image), "2-trimap" (0, 128, 255), "3-boundary" (the unknown band's outline over the image),
        "4-alpha", "5-mask" (0 or 255).
    """
    height, width = image.shape[:2]
    trimap = np.asarray(cv2.resize(step.trimap, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    boundary = image.copy()
    boundary[outline(trimap > 0, line_width(image))] = COLOURS[1]
    boundary[outline(trimap == 255, line_width(image))] = COLOURS[0]
    return {
        "1-map": heat(image, step.cam),
        "2-trimap": trimap,
        "3-boundary": boundary,
        "4-alpha": (step.alpha * 255).astype(np.uint8),
        "5-mask": step.mask.astype(np.uint8) * 255,
    }


def heat(image: Picture, cam: NDArray[np.float32]) -> Picture:
    """A map of shape (h, w), floats in [0, 1], over the image it stretches over; shape (H, W, 3), uint8 RGB."""
    resized = cv2.resize(cam, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    colours = cv2.cvtColor(cv2.applyColorMap((resized * 255).astype(np.uint8), cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.addWeighted(image, 0.5, colours, 0.5, 0), dtype=np.uint8)


def outline(mask: NDArray[np.bool_], width: int = 1) -> NDArray[np.bool_]:
    """The pixels of a mask of shape (H, W) within `width` pixels of what is outside it."""
    filled = mask.astype(np.uint8)
    return np.asarray((filled - cv2.erode(filled, np.ones((2 * width + 1, 2 * width + 1), np.uint8))).astype(bool))


def line_width(image: Picture) -> int:
    """A line over an image of shape (H, W, 3) this wide, in pixels, is still seen when it is shown small."""
    longest: int = max(image.shape[:2])
    return max(1, round(longest / 400))
