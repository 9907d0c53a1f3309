"""Synthetic ultrasound pictures of soft tissue: speckle, one large nodule, and cysts."""

import cv2
import numpy as np

from models.phantom.canvas import Canvas, blob, camera, paint, wander
from models.phantom.frame import Phantom
from models.phantom.polar import Floats, Mask, Rng

NODULE, CYST = CLASSES = ("Nodule", "Cyst")


def render_ultrasound(seed: int, size: int = 800, difficulty: float = 0.5) -> Phantom:
    """One picture; the same arguments give the same bytes.

    Args:
        seed: not negative.
        size: longer side of the largest pictures, in pixels.
        difficulty: in [0, 1]; more of it brings the nodule's echo near the tissue's and adds speckle and look-alikes.
    """
    form, look = (np.random.default_rng([seed, stream]) for stream in range(2))
    canvas = Canvas(form, size, 0.65)
    margin = form.uniform(0.02, 0.14) * canvas.width  # a console's black border, on both sides
    screen = canvas.fill(_box(margin, 0.02, canvas.width - margin, canvas.height - 0.02))
    nodules = [_round(canvas, form, form.uniform(0.1, 0.2), margin)] if form.random() < 0.85 else []
    cysts = [_round(canvas, form, form.uniform(0.018, 0.05), margin) for _ in range(form.integers(1, 3))]
    masks = {NODULE: nodules, CYST: cysts if form.random() < 0.5 else []}
    echo = _tissue(canvas, look, difficulty)
    dark = 0.3 + 0.35 * difficulty * look.uniform(0.7, 1)
    for mask in masks[NODULE]:
        inner = echo.mean() * dark * (1 + 0.35 * canvas.noise(look, 0.06, 0.02))
        paint(echo, cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))) > 0, echo.mean() * 1.5, look.uniform(0, 0.5), 3)
        paint(echo, mask, inner, 1, soft=0.004 * canvas.long * (0.5 + difficulty))
    for mask in masks[CYST]:
        columns = np.nonzero(mask.any(axis=0))[0]
        below = np.zeros_like(mask)
        below[np.nonzero(mask)[0].max() :, columns.min() : columns.max() + 1] = True
        paint(echo, below, echo * 1.7, 0.8, soft=0.006 * canvas.long)  # sound passes water undimmed
        paint(echo, mask, 0.02, 1, soft=0.8)
    picture = _display(canvas, echo, look, difficulty) * screen
    _marks(canvas, picture, look)
    found = {label: np.any(parts, axis=0) & screen for label, parts in masks.items() if parts}
    return Phantom(camera(picture, look, difficulty / 4), {label: mask for label, mask in found.items() if mask.any()})


def _round(canvas: Canvas, rng: Rng, radius: float, margin: float) -> Mask:
    room = np.array([margin + radius * 0.6, 0.12 + radius]), np.array([canvas.width - margin - radius * 0.6, 0.9])
    centre = rng.uniform(room[0], np.maximum(room[1] * (1, canvas.height), room[0] + 1e-3))
    return canvas.fill(blob(rng, centre, radius, ratio=rng.uniform(1, 1.7), rough=0.12))


def _tissue(canvas: Canvas, rng: Rng, difficulty: float) -> Floats:
    """Echo of skin, fat, fasciae and muscle from top to bottom, with vessels, fat lobules and shadows."""
    depth = np.linspace(0, canvas.height, canvas.shape[0], dtype=np.float32)[:, None]
    sway = 0.02 * canvas.noise(rng, 0.5)[:1] + 0.006 * canvas.noise(rng, 0.12)
    at = depth + sway
    echo = np.asarray(0.45 + 0.1 * canvas.noise(rng, 0.25, 0.07) + 0 * at, dtype=np.float32)
    echo[at < 0.05] = 0.9
    echo = np.where((at >= 0.05) & (at < rng.uniform(0.12, 0.2)), echo * 0.75, echo)
    for line in rng.uniform(0.1, 1.0, rng.integers(3, 8)):
        echo += 0.5 * rng.uniform(0.4, 1) * np.exp(-(((at - line) / rng.uniform(0.003, 0.01)) ** 2))
    for _ in range(rng.integers(1, 3) + int(4 * difficulty)):
        lobule = canvas.fill(blob(rng, canvas.somewhere(rng), rng.uniform(0.02, 0.08), ratio=rng.uniform(1, 2.5)))
        paint(echo, lobule, echo * rng.uniform(0.6, 0.85), 1, soft=0.01 * canvas.long)
    for _ in range(int(rng.uniform(0, 1 + 3 * difficulty))):  # vessels: black as a cyst, but long
        path = wander(rng, canvas.somewhere(rng), rng.normal(0, 0.3), rng.uniform(0.2, 0.5), 0.05)
        paint(echo, canvas.stroke(path, np.full(24, rng.uniform(0.006, 0.016))), 0.04, 0.9, soft=1.0)
    for _ in range(int(rng.uniform(0, 1 + 3 * difficulty))):  # a bright spot and the shadow behind it
        x, y = canvas.somewhere(rng).tolist()
        wide = rng.uniform(0.01, 0.05)
        paint(echo, canvas.fill(_box(x - wide, y, x + wide, canvas.height)), echo * 0.4, 0.8, soft=0.01 * canvas.long)
        paint(echo, canvas.fill(_box(x - wide, y - 0.006, x + wide, y)), 1.3, 0.8, soft=2)
    gain = np.exp(-depth * rng.uniform(0.2, 1.2)) * (
        1 + 0.12 * np.interp(depth, np.linspace(0, 1, 8), rng.normal(0, 1, 8))
    )
    return np.asarray(np.clip(echo * gain, 0.01, None))


def _display(canvas: Canvas, echo: Floats, rng: Rng, difficulty: float) -> Floats:
    """Speckle, the sum of many scatterers (Rayleigh), wider across than along the beam; then log compression."""
    grain = canvas.long / 800
    waves = rng.standard_normal((2, *canvas.shape)).astype(np.float32)
    real, imaginary = (cv2.GaussianBlur(wave, (0, 0), 2.4 * grain, sigmaY=1.1 * grain) for wave in waves)
    speckle = np.hypot(real, imaginary)
    speckle = (speckle / speckle.mean()) ** (0.5 + 0.5 * difficulty)
    reach = rng.uniform(2.2, 3.2)  # dynamic range, in powers of e
    return np.asarray(np.clip(1 + np.log(np.maximum(echo * speckle, 1e-3) / 1.3) / reach, 0, 1), dtype=np.float32)


def _marks(canvas: Canvas, picture: Floats, rng: Rng) -> None:
    """A ruler and a few letters, as a console burns them in."""
    for y in np.arange(0.05, canvas.height, rng.uniform(0.04, 0.08)).tolist():
        picture[canvas.fill(_box(0.004, y, 0.014, y + 0.003))] = 0.8
    scale, thick = canvas.long / 1600, max(canvas.long // 800, 1)
    where = (int(0.02 * canvas.long), int(0.03 * canvas.long))
    cv2.putText(
        picture, f"L{rng.integers(3, 18)}-{rng.integers(2, 9)}", where, cv2.FONT_HERSHEY_SIMPLEX, scale, 0.8, thick
    )


def _box(left: float, top: float, right: float, bottom: float) -> Floats:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
