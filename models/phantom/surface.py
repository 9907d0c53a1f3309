"""Synthetic grey pictures of steel and ceramic surfaces: thin and tiny defects, and many pictures without any."""

import cv2
import numpy as np

from models.phantom.canvas import Canvas, blob, camera, paint, wander
from models.phantom.frame import Phantom
from models.phantom.polar import Floats, Mask, Rng

SCRATCH, PIT, CRACK = CLASSES = ("Scratch", "Pit", "Crack")


def render_surface(seed: int, size: int = 1000, difficulty: float = 0.5) -> Phantom:
    """One surface; the same arguments give the same bytes.

    Args:
        seed: not negative.
        size: longer side of the largest pictures, in pixels; many are long strips.
        difficulty: in [0, 1]; more of it lowers the defects' contrast and adds texture, blur and look-alikes.
    """
    form, look = (np.random.default_rng([seed, stream]) for stream in range(2))
    canvas = Canvas(form, size, 0.35)
    plain = (0.3 - 0.14 * difficulty) * look.uniform(0.8, 1.3)
    picture = _material(canvas, look, difficulty)
    scratches = _scratches(canvas, form)
    pits = _pits(canvas, form)
    cracks = _cracks(canvas, form)
    level = float(picture.mean())
    for mask in scratches:
        bright = look.choice([-1, 1])
        shifted = np.roll(mask, (1, 1), axis=(0, 1))
        paint(picture, shifted & ~mask, level - bright * plain, 0.5)
        paint(picture, mask, level + bright * plain * 1.3, look.uniform(0.7, 1))
    for mask in pits:
        rim = np.roll(mask, (2, 2), axis=(0, 1)) & ~mask
        paint(picture, rim, level + plain * 0.8, 0.6)
        paint(picture, mask, level - plain * 1.2, look.uniform(0.7, 1))
    for mask in cracks:
        paint(picture, mask, level - plain * 1.5, look.uniform(0.75, 1))
    masks = {SCRATCH: scratches, PIT: pits, CRACK: cracks}
    image = camera(picture * canvas.light(look, 0.35), look, difficulty)
    return Phantom(image, {label: np.any(parts, axis=0) for label, parts in masks.items() if parts})


def _material(canvas: Canvas, rng: Rng, difficulty: float) -> Floats:
    """Brushed steel or glazed ceramic, with what is no defect: grinding lines, stains, dust, a reflection."""
    level = rng.uniform(0.35, 0.65)
    grain: Floats = rng.standard_normal(canvas.shape).astype(np.float32)
    heading = rng.normal(0, 0.1) + (np.pi / 2 if rng.random() < 0.3 else 0)
    if rng.random() < 0.6:
        reach = max(int(0.05 * canvas.long), 3)
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        way = np.array([np.cos(heading), np.sin(heading)]) * reach
        cv2.line(kernel, np.rint(reach - way).astype(int).tolist(), np.rint(reach + way).astype(int).tolist(), 1.0)
        grain = cv2.filter2D(grain, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
    else:
        grain = cv2.GaussianBlur(grain, (0, 0), 1.2) + 0.5 * canvas.noise(rng, 0.006)
    rough = (0.02 + 0.035 * difficulty) * grain / grain.std()
    picture = np.asarray(level + rough + 0.03 * canvas.noise(rng, 0.3, 0.08), dtype=np.float32)
    for _ in range(int(rng.uniform(0, 3 + 8 * difficulty))):  # straight and right across: no scratches
        start = canvas.somewhere(rng)
        way = np.array([np.cos(heading), np.sin(heading)]) * 2
        line = canvas.stroke(np.stack([start - way, start + way]), np.array([rng.uniform(0.001, 0.003)]))
        paint(picture, line, level + rng.choice([-1, 1]) * 0.15, rng.uniform(0.2, 0.5))
    for _ in range(rng.integers(0, 4)):
        stain = canvas.fill(
            blob(rng, canvas.somewhere(rng), rng.uniform(0.02, 0.12), ratio=rng.uniform(1, 2), rough=0.3)
        )
        paint(picture, stain, level * rng.uniform(0.6, 0.85), rng.uniform(0.3, 0.6), soft=0.012 * canvas.long)
    for _ in range(int(rng.uniform(0, 10 + 20 * difficulty))):
        dust = canvas.fill(blob(rng, canvas.somewhere(rng), rng.uniform(0.001, 0.004)))
        paint(picture, dust, level + rng.uniform(0.1, 0.3), 0.7)
    return picture


def _scratches(canvas: Canvas, rng: Rng) -> list[Mask]:
    return [
        canvas.stroke(
            wander(rng, canvas.somewhere(rng), rng.uniform(0, 2 * np.pi), rng.uniform(0.08, 0.5), 0.035),
            rng.uniform(0.002, 0.005) * np.sin(np.linspace(0.4, 2.7, 24)),
        )
        for _ in range(rng.integers(1, 4) * (rng.random() < 0.32))
    ]


def _pits(canvas: Canvas, rng: Rng) -> list[Mask]:
    centre, spread = canvas.somewhere(rng), rng.uniform(0.03, 0.3)
    outlines = [
        blob(rng, centre + rng.normal(0, spread, 2), rng.uniform(0.005, 0.014), ratio=rng.uniform(1, 1.5), rough=0.2)
        for _ in range(rng.integers(1, 9) * (rng.random() < 0.32))
    ]
    return [mask for mask in map(canvas.fill, outlines) if mask.any()]


def _cracks(canvas: Canvas, rng: Rng) -> list[Mask]:
    """A jagged path that opens and closes, with branches."""
    masks = []
    for _ in range(int(rng.random() < 0.28)):
        heading, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.7)
        start = canvas.somewhere(rng)
        for _ in range(rng.integers(1, 4)):
            path = wander(rng, start, heading, length, 0.4, steps=40)
            masks.append(canvas.stroke(path, rng.uniform(0.0015, 0.006, 40)))
            start = path[rng.integers(8, 32)]
            heading, length = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1), length * rng.uniform(0.3, 0.6)
    return masks
