"""The scan: tissue, vessels, blood, shadows and artefacts, painted beam by beam in the order of their physics."""

import numpy as np

from models.phantom.anatomy import Anatomy
from models.phantom.artefacts import add_catheter, add_wire, lookalikes, speckle
from models.phantom.polar import ANGLES, Floats, Rng, wrap_angle
from models.phantom.texture import darken, ramp, smooth_noise
from models.phantom.tissue import paint_wall


def paint_scan(anatomy: Anatomy, rng: Rng, size: int, difficulty: float) -> Floats:
    """What the instrument records: (beams, samples) display level (log-compressed) in [0, 1], float32."""
    beams, samples = max(128, size), max(32, size // 2)
    entry = np.arange(beams) * ANGLES // beams
    theta = (entry * (2 * np.pi / ANGLES)).astype(np.float32)[:, None]  # (beams, 1)
    radius = ((np.arange(samples, dtype=np.float32) + 0.5) * (anatomy.field_of_view / samples))[None]
    lumen = anatomy.lumen.astype(np.float32)[entry, None]
    depth = radius - lumen  # (beams, samples)
    level = paint_wall(anatomy, rng, depth, theta, entry, difficulty)
    x, y = radius * np.cos(theta), radius * np.sin(theta)
    for hole in anatomy.vessels:
        darken(level, hole, x, y, edge=0.3 + 0.3 * difficulty, depth=0.95 - 0.35 * difficulty)
    for hole in lookalikes(anatomy, rng, difficulty):
        darken(level, hole, x, y, edge=0.1 + 0.2 * rng.random(), depth=rng.uniform(0.4, 0.9))

    blood = rng.uniform(0.03, 0.09)
    if rng.random() < 0.1 + 0.4 * difficulty:  # swirls of blood, densest at the wall
        swirl = np.clip(smooth_noise(rng, depth.shape, (18, 9)), 0, 1)
        level_in = blood + swirl * np.exp(depth / rng.uniform(0.05, 0.2)) * rng.uniform(0.1, 0.4)
    else:
        level_in = np.float32(blood) + 0 * depth
    edge = ramp(depth, rng.uniform(0.006, 0.02))
    level = level_in + edge * (level - level_in)
    for index, (at, half) in enumerate(anatomy.shadows):
        sector = ramp(half - np.abs(wrap_angle(theta - at)), rng.uniform(0.02, 0.08))
        wire = anatomy.wire if index == 0 else None
        start = depth if wire is None else radius - np.float32(np.hypot(wire.x, wire.y))
        level *= 1 - sector * ramp(start, 0.03) * rng.uniform(0.8, 0.97)
    if anatomy.wire is not None:
        add_wire(level, anatomy.wire, rng, x, y)
    add_catheter(level, anatomy.catheter, rng, radius, theta)
    level = np.maximum(level, rng.uniform(0.02, 0.07))
    return speckle(level, rng, difficulty)
