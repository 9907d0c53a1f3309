"""The scan as the instrument records it, beam by beam in the order of its physics."""

import numpy as np

from models.phantom.polar import ANGLES, Floats, Rng, wrap_angle
from models.phantom.texture import ramp, smooth_noise
from models.phantom.vessel.anatomy import Anatomy
from models.phantom.vessel.artefacts import add_catheter, add_struts, add_wire
from models.phantom.vessel.optics import compressed, scattered_power, speckled
from models.phantom.vessel.style import Style
from models.phantom.vessel.tissue import wall_optics


def paint_scan(anatomy: Anatomy, style: Style, rng: Rng, size: int, difficulty: float) -> Floats:
    """Record the scan: (beams, samples) display level (log-compressed) in [0, 1], float32."""
    beams, samples = max(128, size), max(32, round(size / 2 * style.field_of_view / style.half_width))
    entry = np.arange(beams) * ANGLES // beams
    theta = (entry * (2 * np.pi / ANGLES)).astype(np.float32)[:, None]  # (beams, 1)
    radius = ((np.arange(samples, dtype=np.float32) + 0.5) * np.float32(anatomy.field_of_view / samples))[None]
    backscatter, attenuation = wall_optics(anatomy, rng, radius, theta, entry, difficulty)

    depth = radius - anatomy.lumen.astype(np.float32)[entry, None]  # (beams, samples)
    edge = ramp(depth, rng.uniform(0.01, 0.04))
    blood, loss = rng.uniform(-45, -28), 0.0  # saline or contrast medium
    if rng.random() < 0.08 + 0.3 * difficulty:  # swirls of blood, densest at the wall
        swirl = np.clip(smooth_noise(rng, depth.shape, (24, 12)), 0, 2)
        blood += swirl * np.exp(depth / rng.uniform(0.1, 1)) * rng.uniform(5, 22)
        loss = rng.uniform(0, 0.35)
    backscatter = blood + edge * (backscatter - blood)
    attenuation = loss + edge * (attenuation - loss)
    power = scattered_power(backscatter, attenuation, radius, style, rng)
    at_wall = float(np.quantile(power[np.abs(depth) < 0.1], 0.8))  # the console's gain follows the tissue
    for shadow in anatomy.shadows:
        sector = ramp(shadow.half - np.abs(wrap_angle(theta - shadow.angle)), rng.uniform(0.01, 0.06))
        behind = ramp(radius - np.float32(shadow.start), 0.05)
        power *= 1 - sector * behind * (1 - 10 ** -rng.uniform(1.0, 2.6))
    if anatomy.wire is not None:
        add_wire(power, anatomy.wire, rng, radius * np.cos(theta), radius * np.sin(theta), at_wall)
    add_struts(power, anatomy, rng, radius, theta, at_wall)
    noise = at_wall * 10 ** (-style.span / 10)
    level = compressed(speckled(power, noise, style, rng, difficulty), noise, style, rng)
    add_catheter(level, anatomy.sheath, rng, radius, theta)
    return np.asarray(level, dtype=np.float32)
