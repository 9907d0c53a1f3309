"""The vessel's wall as the beam sees it: brightness by depth, layers, and the loss of light in lipid."""

import numpy as np
from numpy.typing import NDArray

from models.phantom.anatomy import Anatomy
from models.phantom.polar import THETA, Floats, Rng, wave, wrap_angle
from models.phantom.texture import ramp, smooth_noise


def paint_wall(
    anatomy: Anatomy, rng: Rng, depth: Floats, theta: Floats, entry: NDArray[np.intp], difficulty: float
) -> Floats:
    """Tissue as if it began at depth 0 everywhere: bright, then fading; layered; dark where lipid takes the light."""
    # Log compression turns the exponential decay of light into a straight fall behind a bright plateau.
    plateau = rng.uniform(0.08, 0.19) * np.exp(0.35 * wave(rng, range(1, 9)))
    bright = rng.uniform(0.6, 0.85) * (1 + rng.uniform(0, 0.1) * wave(rng, range(1, 6)))
    lipid = anatomy.lipid
    if lipid is not None:  # a cap is fibrous, bright through its whole thickness
        inside = np.abs(wrap_angle(THETA - lipid.centre)) <= lipid.half * 1.1
        plateau = np.where(inside, np.maximum(plateau, lipid.cap * 1.15), plateau)
    table = np.stack([plateau, bright])[:, entry, None].astype(np.float32)  # (2, beams, 1)
    slope = rng.uniform(1.3, 2.6) * np.exp(0.35 * wave(rng, range(1, 7)))[entry, None].astype(np.float32)
    soft = np.float32(rng.uniform(0.03, 0.1))
    over = (depth - table[0]) / soft
    level = table[1] - slope * soft * (np.maximum(over, 0) + np.log1p(np.exp(-np.abs(over))))
    tail = rng.uniform(0.08, 0.2)
    level = np.maximum(level, tail * np.exp(-np.maximum(depth, 0) / 0.6))

    # Layers follow the lumen's edge, so they lie along the rows once depth is the column.
    slant = np.hypot(1, np.gradient(anatomy.lumen, THETA[1]) / anatomy.lumen)[entry, None].astype(np.float32)
    across = depth / np.minimum(slant, 2.5)  # depth perpendicular to the wall
    media, width = rng.uniform(0.07, 0.16), rng.uniform(0.012, 0.03)
    for at, sign in ((media, -1), (media + 2.2 * width, 0.6)):
        level += sign * rng.uniform(0.0, 0.13) * np.exp(-(((across - at) / width) ** 2))
    lamellae = smooth_noise(rng, (depth.shape[0], 256), (40, 64))
    column = np.clip(across * 220, 0, 255).astype(np.intp)
    layers = np.take_along_axis(lamellae, column, axis=1)
    level -= np.maximum(layers, 0) * rng.uniform(0.02, 0.25) * np.clip(across / 0.25, 0.1, 1)
    level *= 1 + rng.uniform(0.03, 0.16) * smooth_noise(rng, depth.shape, (14, 7))

    if lipid is not None:
        loss = rng.uniform(0.82, 0.92) - rng.uniform(0.42, 0.56) * difficulty
        fuzz = 0.02 + rng.uniform(0.02, 0.05) * (0.4 + difficulty)
        cap = lipid.cap.astype(np.float32)[entry, None]
        sides = ramp(1 - np.abs(lipid.side(theta, depth)), rng.uniform(0.12, 0.45))
        core = ramp(depth - cap - np.float32(0.3 * fuzz), fuzz)
        mottle = 1 + np.float32(0.3) * smooth_noise(rng, depth.shape, (36, 14)) * sides * core
        level *= (1 - np.float32(loss) * sides * core) * mottle
    return np.asarray(np.maximum(level, 0), dtype=np.float32)
