"""What is in a scan and is not tissue of a class: look-alikes, guide wire, catheter and speckle."""

from collections.abc import Iterator

import cv2
import numpy as np

from models.phantom.anatomy import Anatomy, Hole
from models.phantom.polar import Floats, Rng, angle_between, at_angle
from models.phantom.texture import ramp


def lookalikes(anatomy: Anatomy, rng: Rng, difficulty: float) -> Iterator[Hole]:
    """Calcium and side branches: sharp dark areas in the wall, larger than vessels, that carry no mask."""
    lipid = anatomy.lipid
    for _ in range(2):
        wanted, angle, size, ratio = (
            rng.random(),
            rng.uniform(0, 2 * np.pi),
            rng.uniform(0.09, 0.16),
            rng.uniform(1, 1.5),
        )
        clear = lipid is None or angle_between(angle, lipid.centre) > lipid.half * 1.35 + 2 * size
        radius = at_angle(anatomy.lumen, angle) + rng.uniform(0.03, 0.12) + size / ratio
        x, y = radius * np.cos(angle), radius * np.sin(angle)
        apart = all(np.hypot(x - vessel.x, y - vessel.y) > size + 2 * vessel.a for vessel in anatomy.vessels)
        if wanted < 0.6 * difficulty and clear and apart:
            yield Hole(x, y, size, size / ratio, angle + np.pi / 2)


def add_wire(level: Floats, wire: Hole, rng: Rng, x: Floats, y: Floats) -> None:
    """The guide wire shows the side that faces the catheter: a crescent."""
    at = np.hypot(wire.x, wire.y)
    facing = -((x - wire.x) * wire.x + (y - wire.y) * wire.y) / at / wire.a
    rim = np.exp(-(((wire.level(x, y) - 1) * wire.a / rng.uniform(0.011, 0.024)) ** 2))
    np.maximum(level, rim * ramp(facing - rng.uniform(0, 0.4), 0.5) * rng.uniform(0.65, 1), out=level)


def add_catheter(level: Floats, catheter: float, rng: Rng, radius: Floats, theta: Floats) -> None:
    """Sheath, optics and their reflections: concentric rings over a dark disc."""
    across = (radius / catheter)[0]  # (samples,)
    profile = 0.12 * (across < 1) + rng.uniform(0.1, 0.35) * ((across > rng.uniform(0.65, 0.85)) & (across < 1))
    for at in (*rng.uniform(0.15, 0.9, rng.integers(1, 5)), 0.98):
        profile += rng.uniform(0.08, 0.4) * np.exp(-(((across - at) / rng.uniform(0.015, 0.05)) ** 2))
    shade = 1 + rng.uniform(0, 0.3) * np.cos(theta - rng.uniform(0, 2 * np.pi))  # (beams, 1)
    inner = across < 1.03
    level[:, inner] = np.maximum(level[:, inner] * (across[inner] > 1), (profile[inner] * shade).astype(np.float32))


def speckle(level: Floats, rng: Rng, difficulty: float) -> Floats:
    """Multiplicative noise of coherent light; in the log-compressed display it adds, with a tail into the dark."""
    grain = rng.uniform(0.4, 0.9), rng.uniform(0.5, 1.1)  # across the beams, along them
    white = rng.standard_normal(level.shape, dtype=np.float32)
    smooth: Floats = cv2.GaussianBlur(white, (5, 5), sigmaX=grain[1], sigmaY=grain[0])
    noise = smooth / smooth.std()
    noise = noise - np.float32(0.2) * (noise * noise - 1)
    strength = (0.05 + 0.09 * difficulty) * rng.uniform(0.6, 1.15)
    return np.asarray(np.clip(level + np.float32(strength) * noise * (0.3 + level), 0, 1), dtype=np.float32)
