"""From scan to picture, as a console shows it: the warp, colours, and what is drawn over the frame."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.phantom.polar import Floats, Rng, pixel_grid
from models.phantom.vessel.anatomy import Anatomy
from models.phantom.vessel.style import Style


def render_picture(
    polar: Floats, anatomy: Anatomy, style: Style, rng: Rng, size: int, difficulty: float
) -> NDArray[np.uint8]:
    """Warp the scan to the frame, (size, size, 3) uint8 RGB, with the display's colours and drawings."""
    _, _, radius, angle, _ = pixel_grid(size)
    beams, samples = polar.shape
    reach = anatomy.field_of_view / anatomy.half_width
    column = radius * np.float32(samples / reach) - np.float32(0.5)
    wrapped = np.concatenate([polar, polar[:1]])
    frame = cv2.remap(wrapped, column, angle * np.float32(beams / (2 * np.pi)), cv2.INTER_LINEAR, borderValue=0)
    blur = style.blur * (0.4 + 1.2 * difficulty) * rng.uniform(0.8, 1.2) * size / 512
    frame = cv2.GaussianBlur(frame, (0, 0), max(blur, 0.2))
    levels = np.linspace(0, 255, 256) / 255
    bent = np.rint(levels ** rng.uniform(0.9, 1.12) * 255).astype(np.intp)
    image: NDArray[Any] = cv2.LUT(cv2.merge([(frame * 255 + 0.5).astype(np.uint8)] * 3), style.colours[bent][None])
    image[radius >= reach] = style.paper
    _draw(image, anatomy, style, rng)
    return np.asarray(image, dtype=np.uint8)


def _draw(image: NDArray[np.uint8], anatomy: Anatomy, style: Style, rng: Rng) -> None:
    """Burn in what a console does: the plane of the long view, marks about the catheter, a scale."""
    middle, size = image.shape[0] / 2, image.shape[0]
    thick = max(1, round(size / 750))

    def point(radius: float, angle: float) -> tuple[int, int]:
        return (
            round(middle + radius * middle * np.cos(angle)),
            round(middle + radius * middle * np.sin(angle)),
        )

    if style.plane:
        angle, dot = rng.uniform(0, 2 * np.pi), max(1, round(size / 160))
        marks = np.arange(1, 6) * rng.uniform(0.25, 0.45)
        for turn, colour in ((0.0, (20, 110, 125)), (np.pi, (125, 125, 20))):
            cv2.line(image, (round(middle), round(middle)), point(1, angle + turn), colour, thick)
            for at in marks[marks < 1].tolist():
                bright = tuple(min(255, 2 * channel) for channel in colour)
                cv2.circle(image, point(at, angle + turn), dot, bright, -1)
        cv2.circle(image, (round(middle), round(middle)), dot, (240, 225, 100), -1)
    if style.quarters:
        turned = np.radians(rng.uniform(0, 90))
        for quarter in range(4):
            at = turned + quarter * np.pi / 2
            ends = (point(anatomy.sheath / anatomy.half_width * 1.04, at + offset) for offset in (-0.18, 0.18))
            cv2.line(image, next(ends), next(ends), (40, 215, 225), thick)
    if style.bar:
        grey, length = int(rng.integers(150, 256)), round(size / 2 / anatomy.half_width)  # of 1 mm
        x, y = round(size * rng.uniform(0.02, 0.1)), round(size * rng.uniform(0.9, 0.97))
        cv2.line(image, (x, y), (x + length, y), (grey, grey, grey), thick)
        cv2.putText(
            image, "1 mm", (x, y - round(size / 100)), cv2.FONT_HERSHEY_SIMPLEX, size / 1400, (grey,) * 3, thick
        )  # fmt: skip
