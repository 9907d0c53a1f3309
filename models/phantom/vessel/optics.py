"""From tissue to display: single scattering, confocal gate, roll-off, speckle and log compression."""

import cv2
import numpy as np

from models.phantom.polar import Floats, Rng, wave
from models.phantom.vessel.style import Style

DECIBEL = np.float32(np.log(10) / 10)  # a dB, in powers of e


def scattered_power(backscatter: Floats, attenuation: Floats, radius: Floats, style: Style, rng: Rng) -> Floats:
    """Power from every sample, relative to fibrous tissue at the catheter; all arrays (beams, samples).

    I(z) = b(z) exp(-2 integral of the attenuation), and a weak part that was scattered more than once and so fades
    more slowly; times the confocal gate and the detector's roll-off.

    Args:
        backscatter: dB.
        attenuation: per mm.
        radius: of the samples, (1, samples), mm.
        style: the instrument.
        rng: source of this frame's deviations from it.
    """
    step = np.float32(radius[0, 1] - radius[0, 0])
    travelled = np.cumsum(attenuation, axis=1, dtype=np.float32) * step
    often = np.float32(10 ** -rng.uniform(1.0, 2.4))
    power = np.exp(-2 * travelled) + often * np.exp(np.float32(-0.8) * travelled)
    focus = style.focus * rng.uniform(0.8, 1.25)
    gate = 1 / (1 + ((radius - focus) / style.rayleigh) ** 2) * np.exp(-((radius / style.rolloff) ** 2))
    return np.asarray(np.exp(backscatter * DECIBEL) * power * gate.astype(np.float32))


def speckled(power: Floats, noise: float, style: Style, rng: Rng, difficulty: float) -> Floats:
    """Fully developed speckle: the power of a complex field whose mean power is `power`, in noise of power `noise`.

    The field is white, seen through the point spread; images of several looks are averaged.
    """
    beams, samples = power.shape
    per_sample = 2 * style.half_width / beams  # mm; about one sample a pixel
    along, over = max(style.axial / per_sample, 0.3), style.lateral * beams / 512
    parts = []
    for _ in range(2):
        part: Floats = cv2.GaussianBlur(
            rng.standard_normal((beams, samples), dtype=np.float32), (0, 0), along, sigmaY=over
        )
        parts.append(part / part.std() * np.float32(0.5**0.5))
    if rng.random() < 0.2:  # the rotation was not uniform: some beams were taken twice
        turned = np.arange(beams) + rng.uniform(2, 8) * wave(rng, range(2, 12))[:: max(2048 // beams, 1)][:beams]
        parts = [part[np.rint(turned).astype(np.intp) % beams] for part in parts]
    amplitude, total = np.sqrt(power), np.zeros_like(power)
    for look in range(style.looks):
        # Far parts of one field are independent; to move it is faster than to draw another.
        shift, other = ((beams * part // 7, samples * part // 5) for part in (look, look + 3))
        for part in parts:
            total += (
                amplitude * np.roll(part, shift, (0, 1)) + np.float32(noise**0.5) * np.roll(part, other, (0, 1))
            ) ** 2
    total /= style.looks
    plain = np.float32(rng.uniform(0, 0.4) * (1 - 0.7 * difficulty))  # a console's smoothing
    return np.asarray(total * (1 - plain) + plain * (power + np.float32(noise)))


def compressed(power: Floats, noise: float, style: Style, rng: Rng) -> Floats:
    """The display level of a power, in [0, 1]: its logarithm between the style's black and white.

    Gain and offset of a frame wander about the style's; in some frames the light is low.
    """
    dim = rng.uniform(0.45, 0.8) if rng.random() < 0.12 else rng.uniform(0.85, 1.08)
    black = style.black + rng.uniform(-0.05, 0.04)
    above = np.log(np.maximum(power, noise * 1e-3) / np.float32(noise)) / (DECIBEL * np.float32(style.span))
    return np.clip(np.float32(black) + above * np.float32(style.white * dim - black), 0, 1)
