"""The vessel's wall: backscatter and attenuation of every tissue, in the ranges that intravascular OCT has measured.

Attenuation per mm: fibrous 2 to 5, lipid 3 (mixed with fibres) to 12, calcium 1 to 2, red thrombus about 10.
"""

import numpy as np
from numpy.typing import NDArray

from models.phantom.polar import THETA, Floats, Rng, wave, wrap_angle
from models.phantom.texture import inside_hole, ramp, smooth_noise
from models.phantom.vessel.anatomy import Anatomy


def wall_optics(
    anatomy: Anatomy, rng: Rng, radius: Floats, theta: Floats, entry: NDArray[np.intp], difficulty: float
) -> tuple[Floats, Floats]:
    """Backscatter in dB relative to fibrous tissue and attenuation per mm, each (beams, samples).

    Tissue as if it also filled the lumen; `difficulty` brings lipid, calcium and vessels near to the tissue around.

    Args:
        anatomy: the geometry.
        rng: source of the tissues' properties.
        radius: of the samples, (1, samples), mm.
        theta: of the beams, (beams, 1).
        entry: of the beams in the tables of angles, (beams,).
        difficulty: in [0, 1].
    """

    def table(values: Floats) -> Floats:
        return values.astype(np.float32)[entry, None]

    across = (radius - table(anatomy.lumen)) * table(anatomy.cosine)  # (beams, samples)
    backscatter, attenuation = _layers(anatomy, rng, across, entry)
    for lipid in anatomy.lipids:
        cap, fuzz = table(lipid.cap), 0.02 + rng.uniform(0.02, 0.07) * (0.4 + difficulty)
        sides = ramp(1 - np.abs(lipid.side(theta, across)), rng.uniform(0.08, 0.4))
        within = np.asarray(sides * (1 - ramp(across - table(lipid.end), 0.15)), dtype=np.float32)
        core = ramp(across - cap - np.float32(0.3 * fuzz), fuzz)
        lobes = (int(rng.integers(24, 90)), int(rng.integers(10, 36)))
        mottle = rng.uniform(0.5, 4) * smooth_noise(rng, across.shape, lobes)
        front = rng.uniform(-3, 2) - (1 - difficulty) * rng.uniform(2, 8)
        cap_echo, cap_loss = rng.uniform(-0.5, 2), rng.uniform(0.8, 3.5)
        loss = np.exp(rng.uniform(np.log(2.8), np.log(8))) + (1 - difficulty) * rng.uniform(1, 5)
        backscatter += within * (cap_echo + core * (front - cap_echo + mottle) - backscatter)
        attenuation += within * (cap_loss + core * (loss - cap_loss) * np.clip(1 + 0.15 * mottle, 0.3, 2) - attenuation)
        for _ in range(rng.integers(0, 5)):  # strands of fibre: bright arcs that follow the cap
            at = cap + np.float32(rng.uniform(0, 0.6) * rng.random())
            arc = within * np.exp(-(((across - at) / rng.uniform(0.015, 0.07)) ** 2))
            backscatter += rng.uniform(1, 7) * arc * np.clip(0.5 + mottle, 0, 1)
        if rng.random() < 0.35:  # macrophages: bright specks at the core's front that throw shadows
            spots = np.clip(smooth_noise(rng, across.shape, (150, 24)) - 0.5, 0, 1)
            line = sides * np.exp(-(((across - cap) / 0.03) ** 2)) * spots
            backscatter += rng.uniform(4, 9) * line
            attenuation += rng.uniform(5, 15) * line
    x, y = radius * np.cos(theta), radius * np.sin(theta)
    for hole in anatomy.calcium:
        where, inside = inside_hole(hole, x, y, rng.uniform(0.05, 0.2))
        backscatter[where] -= rng.uniform(7, 15) * (1 - 0.4 * difficulty) * inside
        attenuation[where] += inside * (rng.uniform(0.7, 2) - attenuation[where])
    for hole in anatomy.vessels:
        where, inside = inside_hole(hole, x, y, 0.25 + 0.3 * difficulty)
        backscatter[where] -= rng.uniform(16, 26) * (1 - 0.5 * difficulty) * inside
        attenuation[where] *= 1 - 0.9 * inside
    if anatomy.thrombus is not None:
        red = rng.random() < 0.5
        inside = ramp(table(anatomy.thrombus) - across, 0.04)
        backscatter += inside * (rng.uniform(-1, 4) + smooth_noise(rng, across.shape, (40, 20)) - backscatter)
        attenuation += inside * ((rng.uniform(8, 14) if red else rng.uniform(1.5, 3.5)) - attenuation)
    return backscatter, np.maximum(attenuation, 0.1)


def _layers(anatomy: Anatomy, rng: Rng, across: Floats, entry: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Intima, media, adventitia and what is around it, by depth across the wall."""
    intima = rng.uniform(0.04, 0.3) * np.exp(rng.uniform(0.05, 0.3) * wave(rng, range(2, 12)))
    for plaque in anatomy.plaques:  # the intima is thick where it is diseased
        spread = np.abs(wrap_angle(THETA - plaque.centre)) / (plaque.half * rng.uniform(1, 1.6))
        intima += rng.uniform(0.1, 0.9) * np.exp(-(spread ** rng.uniform(2, 4)))
    media, adventitia = rng.uniform(0.05, 0.16), rng.uniform(0.12, 0.45) * np.exp(0.2 * wave(rng, range(1, 9)))
    plain = rng.random() < 0.3  # layers cannot always be told apart
    contrast = rng.uniform(0, 0.3) if plain else rng.uniform(0.4, 1.2)
    echoes = contrast * np.array([-rng.uniform(3, 9), rng.uniform(-2, 4), -rng.uniform(2, 9)])
    losses = rng.uniform(2, 6), rng.uniform(1, 3.5), rng.uniform(1.5, 4.5), rng.uniform(1, 4)
    backscatter = np.zeros_like(across)
    attenuation = np.full_like(across, losses[0])
    blend, before = rng.uniform(0.015, 0.05), 0.0
    for depth, echo, loss, loss_before in zip(
        (intima, intima + media, intima + media + adventitia), echoes, losses[1:], losses, strict=False
    ):
        beyond = ramp(across - depth.astype(np.float32)[entry, None], blend)
        backscatter += beyond * np.float32(echo - before)
        attenuation += beyond * np.float32(loss - loss_before)
        before, blend = echo, blend * 1.6
    # Fibres follow the lumen's edge, so they lie along the rows once depth across the wall is the column.
    lamellae = smooth_noise(rng, (across.shape[0], 256), (int(rng.integers(24, 70)), int(rng.integers(36, 90))))
    column = np.clip(across * rng.uniform(110, 170), 0, 255).astype(np.intp)
    fibres = np.take_along_axis(lamellae, column, axis=1)
    backscatter += fibres * rng.uniform(0.5, 4) * np.clip(across / 0.35, 0.1, 1).astype(np.float32)
    mottle = smooth_noise(rng, across.shape, (int(rng.integers(12, 60)), int(rng.integers(6, 24))))
    backscatter += rng.uniform(0.3, 2) * mottle
    if rng.random() < 0.3:  # the endothelium's specular echo
        backscatter += rng.uniform(1, 5) * np.exp(-((across / rng.uniform(0.02, 0.05)) ** 2)).astype(np.float32)
    # What scatters at the surface dims all that is behind it: streaks along the beams.
    streaks = rng.uniform(0.02, 0.12) * wave(rng, range(4, 120), 0.3) + rng.uniform(0, 0.25) * wave(rng, range(1, 7))
    for plaque in anatomy.plaques:  # fibrous plaque may dim light as fast as lipid does, but from the edge on
        spread = wrap_angle(THETA - plaque.centre) / plaque.half
        streaks += rng.uniform(0, 0.7) * np.exp(-(spread**2))
    attenuation *= np.exp(streaks)[entry, None].astype(np.float32)
    # Tissue near the surface is often as bright as the surface itself.
    attenuation *= 1 - rng.uniform(0, 0.9) * np.exp(-((across / rng.uniform(0.08, 0.25)) ** 2)).astype(np.float32)
    return backscatter, attenuation
