"""Parts of a scan that are no tissue: guide wire, stent and catheter."""

import numpy as np

from models.phantom.anatomy import Hole
from models.phantom.polar import Floats, Rng, at_angle, wrap_angle
from models.phantom.texture import ramp
from models.phantom.vessel.anatomy import Anatomy


def add_wire(power: Floats, wire: Hole, rng: Rng, x: Floats, y: Floats, at_wall: float) -> None:
    """The guide wire shows the side that faces the catheter: a crescent. Powers relative to `at_wall`, of tissue."""
    at = np.hypot(wire.x, wire.y)
    facing = -((x - wire.x) * wire.x + (y - wire.y) * wire.y) / at / wire.a
    rim = np.exp(-(((wire.level(x, y) - 1) * wire.a / rng.uniform(0.025, 0.05)) ** 2))
    power += rim * ramp(facing - rng.uniform(0, 0.4), 0.5) * np.float32(at_wall * 10 ** rng.uniform(-0.3, 0.8))


def add_struts(power: Floats, anatomy: Anatomy, rng: Rng, radius: Floats, theta: Floats, at_wall: float) -> None:
    """A stent's struts: short bright bars at the lumen's edge; their shadows are the anatomy's."""
    for angle in anatomy.struts:
        at, half = at_angle(anatomy.lumen, angle), rng.uniform(0.05, 0.09)
        bar = np.exp(-(((radius - at - rng.uniform(-0.02, 0.06)) / rng.uniform(0.02, 0.04)) ** 2))
        power += bar * ramp(half / at - np.abs(wrap_angle(theta - angle)), 0.03) * np.float32(at_wall * 10)


def add_catheter(level: Floats, sheath: float, rng: Rng, radius: Floats, theta: Floats) -> None:
    """Sheath, optics and their reflections: concentric rings over a dark disc, of display levels in [0, 1]."""
    across = (radius / sheath)[0]  # (samples,)
    profile = rng.uniform(0, 0.15) * (across < 1)
    profile += rng.uniform(0.05, 0.35) * ((across > rng.uniform(0.55, 0.9)) & (across < 1))
    for at in (*rng.uniform(0.15, 0.9, rng.integers(1, 5)), 0.98):
        profile += rng.uniform(0.08, 0.5) * np.exp(-(((across - at) / rng.uniform(0.015, 0.06)) ** 2))
    shade = 1 + rng.uniform(0, 0.3) * np.cos(theta - rng.uniform(0, 2 * np.pi))  # (beams, 1)
    inner = across < 1.03
    grain = 0.6 + level[:, inner] * rng.uniform(0.5, 2.5)  # the speckle of what it covers
    rings = np.clip(profile[inner] * shade * grain, 0, 1).astype(np.float32)
    level[:, inner] = np.maximum(level[:, inner] * (across[inner] > 1), rings)
    if rng.random() < 0.25:  # a reflection beyond the sheath
        ring = np.exp(-(((across - rng.uniform(1.1, 2.2)) / rng.uniform(0.02, 0.05)) ** 2)).astype(np.float32)
        level += ring * shade.astype(np.float32) * np.float32(rng.uniform(0.03, 0.2))
        np.minimum(level, 1, out=level)
