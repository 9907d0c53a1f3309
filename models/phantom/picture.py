"""From scan to picture, as a console shows it: the warp, gain, colours, and what is drawn over the frame."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.phantom.anatomy import Anatomy
from models.phantom.polar import Floats, Rng, pixel_grid


def render_picture(polar: Floats, anatomy: Anatomy, rng: Rng, size: int, difficulty: float) -> NDArray[np.uint8]:
    """Warp the scan to the frame, (size, size, 3) uint8 RGB, with the display's gain, colours and drawings."""
    _, _, radius, angle, _ = pixel_grid(size)
    beams, samples = polar.shape
    column = radius * np.float32(samples / anatomy.field_of_view) - np.float32(0.5)
    wrapped = np.concatenate([polar, polar[:1]])
    frame = cv2.remap(wrapped, column, angle * np.float32(beams / (2 * np.pi)), cv2.INTER_LINEAR, borderValue=0)
    blur = (0.2 + 0.9 * difficulty * rng.uniform(0.8, 1.2)) * size / 512
    frame = cv2.GaussianBlur(frame, (0, 0), max(blur, 0.2))
    levels = np.clip(np.linspace(0, 1, 256) * rng.uniform(0.8, 1.12), 0, 1) ** rng.uniform(0.85, 1.4)
    colours, paper = _colours(rng, levels)
    image: NDArray[Any] = cv2.LUT(cv2.merge([(frame * 255 + 0.5).astype(np.uint8)] * 3), colours[None])
    image[radius >= anatomy.field_of_view] = paper
    _draw(image, anatomy, rng)
    return np.asarray(image, dtype=np.uint8)


def _colours(rng: Rng, levels: Floats) -> tuple[NDArray[np.uint8], int]:
    """A colour map, (256, 3) uint8 RGB, and the grey level outside the field of view."""
    kind, warmth = rng.random(), rng.uniform(0.8, 1.2)
    paper = 0
    if kind < 0.6:  # gold, the commonest display of these instruments
        table = np.stack([levels**0.9, levels ** (2.2 * warmth), 0.7 * levels ** (9 * warmth)], axis=1)
    elif kind < 0.8:
        table = np.stack([levels] * 3, axis=1)
    elif kind < 0.88:
        table = np.stack([1 - levels] * 3, axis=1)
        paper = int(rng.choice([0, 255]))
    elif kind < 0.94:  # hot
        table = np.clip(3 * levels[:, None] - np.array([0, 1, 2]), 0, 1)
    else:  # sepia and other tints
        table = levels[:, None] ** rng.uniform(0.6, 1.8, 3)
    return np.asarray(np.rint(table * 255), dtype=np.uint8), paper


def _draw(image: NDArray[np.uint8], anatomy: Anatomy, rng: Rng) -> None:
    """What a console burns into the frame: the plane of the long view, and marks about the catheter."""
    middle, size = image.shape[0] / 2, image.shape[0]
    thick = max(1, round(size / 750))

    def point(radius: float, angle: float) -> tuple[int, int]:
        return (
            round(middle + radius * middle * np.cos(angle)),
            round(middle + radius * middle * np.sin(angle)),
        )

    if rng.random() < 0.6:
        angle, dot = rng.uniform(0, 2 * np.pi), max(1, round(size / 160))
        for turn, colour in ((0.0, (20, 110, 125)), (np.pi, (125, 125, 20))):
            cv2.line(image, (round(middle), round(middle)), point(1, angle + turn), colour, thick)
            for at in (0.4, 0.8):
                bright = tuple(min(255, 2 * channel) for channel in colour)
                cv2.circle(image, point(at, angle + turn), dot, bright, -1)
        cv2.circle(image, (round(middle), round(middle)), dot, (240, 225, 100), -1)
    if rng.random() < 0.6:
        turned = np.radians(rng.uniform(0, 90))
        for quarter in range(4):
            at = turned + quarter * np.pi / 2
            ends = (point(anatomy.catheter * 1.04, at + offset) for offset in (-0.18, 0.18))
            cv2.line(image, next(ends), next(ends), (40, 215, 225), thick)
