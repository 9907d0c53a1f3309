"""What the painters of photographs share: shapes in parts of the longer side, noise, light and the camera.

Shapes are drawn at the picture's own pixels, so a mask is exactly what was painted, at every size.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.phantom.polar import Floats, Mask, Rng

SHIFT = 4  # OpenCV draws in sixteenths of a pixel


class Canvas:
    """A picture's size, and drawing in units of its longer side.

    Args:
        rng: source of the size.
        size: longer side of the largest picture, in pixels.
        narrow: shortest side allowed, as a fraction of the longer.
    """

    def __init__(self, rng: Rng, size: int, narrow: float) -> None:
        self.long = int(size * rng.uniform(0.6, 1.0))
        short = max(int(self.long * rng.uniform(narrow, 1.0)), 8)
        self.shape = (short, self.long) if rng.random() < 0.7 else (self.long, short)
        self.height, self.width = self.shape[0] / self.long, self.shape[1] / self.long

    def fill(self, outline: Floats) -> Mask:
        """The inside of a closed outline, points (n, 2) of x and y."""
        mask = np.zeros(self.shape, dtype=np.uint8)
        cv2.fillPoly(mask, [self._fixed(outline)], 1, shift=SHIFT)
        return mask.astype(bool)

    def stroke(self, points: Floats, widths: Floats) -> Mask:
        """A line through points (n, 2), of a width at each, never less than a pixel."""
        mask = np.zeros(self.shape, dtype=np.uint8)
        fixed = self._fixed(points)
        for start, end, width in zip(fixed, fixed[1:], widths, strict=False):
            thickness = max(round(width * self.long), 1)
            cv2.line(mask, start.tolist(), end.tolist(), 1, thickness, shift=SHIFT)
        return mask.astype(bool)

    def noise(self, rng: Rng, *cells: float) -> Floats:
        """Smooth noise of mean 0 and deviation 1, the sum of layers with grains of these sizes."""
        total = np.zeros(self.shape, dtype=np.float32)
        for cell in cells:
            grid = (max(int(self.height / cell), 1) + 3, max(int(self.width / cell), 1) + 3)
            coarse = rng.standard_normal(grid).astype(np.float32)
            layer = cv2.resize(coarse, self.shape[::-1], interpolation=cv2.INTER_CUBIC)
            total += layer * np.float32(cell**0.5)
        return np.asarray((total - total.mean()) / max(float(total.std()), 1e-6))

    def light(self, rng: Rng, strength: float) -> Floats:
        """Factors about 1: brighter on one side, darker in the corners."""
        rows, columns = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in self.shape), indexing="ij")
        angle = rng.uniform(0, 2 * np.pi)
        slope = strength * (columns * np.cos(angle) + rows * np.sin(angle))
        return np.asarray(1 + slope - rng.uniform(0, 0.5) * strength * (columns**2 + rows**2))

    def somewhere(self, rng: Rng, inside: Mask | None = None) -> Floats:
        """A random place, x and y; within a mask if there is one."""
        if inside is None or not inside.any():
            return rng.uniform(0, 1, 2) * (self.width, self.height)
        rows, columns = np.nonzero(inside)
        pick = rng.integers(len(rows))
        return np.array([columns[pick], rows[pick]]) / self.long

    def _fixed(self, points: Floats) -> NDArray[np.int32]:
        return np.asarray(np.rint((points * self.long - 0.5) * 2**SHIFT), dtype=np.int32)


def blob(rng: Rng, centre: Floats, radius: float, *, ratio: float = 1.0, rough: float = 0.15) -> Floats:
    """The outline of a roundish thing: an ellipse of any direction whose edge wavers; points (96, 2)."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    order = np.arange(2, 12)
    waves = np.cos(np.outer(angle, order) + rng.uniform(0, 2 * np.pi, order.size)) @ (
        rng.normal(0, 1, order.size) / order
    )
    reach = radius * np.maximum(1 + rough * 1.3 * waves, 0.3)
    x, y = reach * np.cos(angle) * ratio**0.5, reach * np.sin(angle) / ratio**0.5
    turn = rng.uniform(0, np.pi)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], axis=1) + centre


def wander(rng: Rng, start: Floats, heading: float, length: float, sway: float, steps: int = 24) -> Floats:
    """A path of points (steps + 1, 2) whose heading changes by about `sway` radians a step."""
    headings = heading + np.cumsum(rng.normal(0, sway, steps))
    moves = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / steps
    return np.concatenate([start[None], start + np.cumsum(moves, axis=0)])


def paint(picture: Floats, mask: Mask, colour: Any, strength: float = 1.0, soft: float = 0.6) -> None:
    """Mix a colour into a picture where the mask is, in place.

    Args:
        picture: shape (H, W) or (H, W, 3), floats.
        mask: shape (H, W).
        colour: a value, one a channel, or a picture of the same shape.
        strength: how much of it, in [0, 1].
        soft: blur of the edge in pixels.
    """
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return
    reach = int(4 * soft) + 1  # the blur goes no further
    near = slice(max(top - reach, 0), top + height + reach), slice(max(left - reach, 0), left + width + reach)
    cover = cv2.GaussianBlur(mask[near].astype(np.float32), (0, 0), soft) * np.float32(strength)
    cover = cover[..., None] if picture.ndim == 3 else cover
    tone = np.asarray(colour, dtype=np.float32)
    picture[near] += cover * ((tone[near] if tone.shape == picture.shape else tone) - picture[near])


def camera(picture: Floats, rng: Rng, difficulty: float) -> NDArray[np.uint8]:
    """Blur, gain, gamma and noise of a picture in [0, 1], (H, W) or (H, W, 3); returns (H, W, 3), uint8 RGB."""
    picture = cv2.GaussianBlur(picture, (0, 0), 0.3 + 0.7 * difficulty * rng.uniform(0.5, 1))
    picture = np.clip(picture * rng.uniform(0.85, 1.15), 0, 1) ** rng.uniform(0.85, 1.2)
    picture += rng.normal(0, 0.01 + 0.03 * difficulty, picture.shape)
    pixels = np.asarray(np.clip(picture * 255 + 0.5, 0, 255), dtype=np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
