"""A style: the instrument, its console and the annotator, which all frames of one series have in common.

Styles are numbered, so that a network can be trained on phantoms of some and judged on those of others.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from models.phantom.polar import Floats, Rng

STYLES = 64


def style_of(seed: int) -> int:
    """The style of a seed's frame, in [0, STYLES)."""
    return seed % STYLES


@dataclass(frozen=True, eq=False)
class Style:
    """Properties that all frames of one series share.

    Lengths in mm, powers in dB relative to fibrous tissue at the lumen's edge.

    Attributes:
        half_width: from the picture's centre to its side; the console's zoom.
        field_of_view: radius of the scan.
        sheath: radius of the catheter.
        span: dB between the noise and fibrous tissue at the lumen's edge.
        white: display level of fibrous tissue at the lumen's edge, in [0, 1].
        black: display level of the noise; below 0 it is cut off.
        axial: deviation of the point spread along the beam.
        lateral: the same across the beams, in beams of 512 a turn.
        looks: independent images that are averaged.
        focus, rayleigh: of the confocal gate, from the catheter's axis and half its depth.
        rolloff: depth at which the detector's sensitivity has fallen to 1 / e.
        blur: of the display, in pixels of a picture of 512.
        colours: colour map, shape (256, 3), uint8 RGB.
        paper: grey level outside the scan.
        chord: the annotator draws the lumen straight across a guide wire's shadow.
        core_end: where the annotator ends a lipid core: at a "depth", at the "field"'s edge or at the "core"'s own end.
        core_depth: that depth from the lumen's edge.
        plane, quarters, bar: what the console burns in: the plane of the long view, marks about the catheter, a scale.
    """

    half_width: float
    field_of_view: float
    sheath: float
    span: float
    white: float
    black: float
    axial: float
    lateral: float
    looks: int
    focus: float
    rayleigh: float
    rolloff: float
    blur: float
    colours: NDArray[np.uint8]
    paper: int
    chord: bool
    core_end: str
    core_depth: float
    plane: bool
    quarters: bool
    bar: bool


@lru_cache
def sample_style(index: int) -> Style:
    """The style of a number; the same number gives the same style."""
    rng = np.random.default_rng([index, 7])
    half_width = rng.uniform(2.2, 3.2) if rng.random() < 0.65 else rng.uniform(3.2, 5.4)
    cropped = rng.random() < 0.2  # the console cuts the round scan to a square
    colours, paper = _colours(rng)
    return Style(
        half_width=half_width,
        field_of_view=half_width * (rng.uniform(1.05, 1.45) if cropped else rng.uniform(0.93, 1.0)),
        sheath=rng.uniform(0.38, 0.52),
        span=rng.uniform(20, 36),
        white=rng.uniform(0.6, 0.9),
        black=rng.uniform(-0.08, 0.16),
        axial=rng.uniform(0.005, 0.011),
        lateral=rng.uniform(0.4, 1.1),
        looks=int(rng.integers(1, 4)),
        focus=rng.uniform(0.8, 2.2),
        rayleigh=rng.uniform(1.0, 2.5),
        rolloff=rng.uniform(3.5, 8),
        blur=rng.uniform(0.25, 0.9),
        colours=colours,
        paper=paper,
        chord=rng.random() < 0.85,
        core_end=str(rng.choice(["depth", "field", "core"], p=[0.45, 0.4, 0.15])),
        core_depth=rng.uniform(0.65, 1.7),
        plane=rng.random() < 0.5,
        quarters=rng.random() < 0.5,
        bar=rng.random() < 0.3,
    )


def _colours(rng: Rng) -> tuple[NDArray[np.uint8], int]:
    """A colour map, (256, 3) uint8 RGB, and the grey level outside the scan."""
    levels: Floats = np.linspace(0, 1, 256) ** rng.uniform(0.85, 1.2)
    kind, warmth = rng.random(), rng.uniform(0.8, 1.2)
    paper = 0 if rng.random() < 0.85 else int(rng.integers(10, 60))
    if kind < 0.5:  # gold, the commonest display of these instruments
        table = np.stack([levels**0.9, levels ** (2.2 * warmth), 0.7 * levels ** (9 * warmth)], axis=1)
    elif kind < 0.7:
        table = np.stack([levels] * 3, axis=1)
    elif kind < 0.75:
        table = np.stack([1 - levels] * 3, axis=1)
        paper = int(rng.choice([0, 255]))
    elif kind < 0.83:  # hot
        table = np.clip(3 * levels[:, None] - np.array([0, 1, 2]), 0, 1)
    else:  # sepia and other tints
        table = levels[:, None] ** np.sort(rng.uniform(0.6, 2.2, 3))
    return np.asarray(np.rint(table * 255), dtype=np.uint8), paper
