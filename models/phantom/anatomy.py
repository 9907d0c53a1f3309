"""The geometry of a frame, drawn at random: lumen, guide wire, shadows, lipid core and vessels.

Lengths are in units of half the picture's width. Depth is measured from the lumen's edge outwards along the beam.
"""

from dataclasses import dataclass, field

import numpy as np

from models.phantom.polar import THETA, Floats, Rng, angle_between, at_angle, wave, wrap_angle


@dataclass(frozen=True, eq=False)
class Lipid:
    """A lipid core and the cap over it: the sector |θ - centre| <= half, wider by `flare` at its far end."""

    centre: float
    half: float
    flare: float
    cap: Floats  # (ANGLES,) thickness of the cap
    reach: Floats  # (ANGLES,) depth at which the core ends

    def side(self, theta: Floats, depth: Floats) -> Floats:
        """Signed position between the side borders: |side| <= 1 is inside."""
        half: Floats = self.half * (1 + self.flare * np.clip(depth / self.reach.max(), 0, 1))
        return np.asarray(wrap_angle(theta - self.centre) / half)


@dataclass(frozen=True)
class Hole:
    """A dark ellipse at (x, y) with semi-axes a >= b, turned by `tilt`."""

    x: float
    y: float
    a: float
    b: float
    tilt: float

    def level(self, x: Floats, y: Floats) -> Floats:
        """Normalised distance from the centre: <= 1 is inside."""
        dx, dy, cos, sin = x - self.x, y - self.y, np.cos(self.tilt), np.sin(self.tilt)
        return np.asarray(np.hypot((dx * cos + dy * sin) / self.a, (dy * cos - dx * sin) / self.b))


@dataclass(eq=False)
class Anatomy:
    """The geometry of one frame: everything that decides a mask."""

    field_of_view: float
    catheter: float
    lumen: Floats  # (ANGLES,) radius of the lumen's edge as seen from the catheter
    shadows: list[tuple[float, float]]  # (angle, half width); the first belongs to the guide wire, if there is one
    wire: Hole | None
    lipid: Lipid | None = None
    vessels: list[Hole] = field(default_factory=list)


def sample_anatomy(rng: Rng) -> Anatomy:
    """Every frame has a lumen and a catheter, most a guide wire, about half of them lipid, half vessels."""
    fov, catheter = rng.uniform(0.93, 1.0), rng.uniform(0.12, 0.21)
    lumen = np.clip(_sample_lumen(rng, catheter), catheter, 1.2)
    angle = rng.uniform(0, 2 * np.pi)
    gap = at_angle(lumen, angle) - catheter
    radius = rng.uniform(0.04, 0.08)
    far = catheter + np.clip(gap * rng.uniform(0, 1), radius * 0.8, max(gap, radius * 0.8))
    wire = Hole(far * np.cos(angle), far * np.sin(angle), radius, radius, angle) if rng.random() < 0.9 else None
    shadows = [(angle, float(np.arcsin(radius / far) * rng.uniform(0.7, 1.0)))] if wire else []
    if rng.random() < 0.15:
        shadows.append((rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.12)))
    anatomy = Anatomy(fov, catheter, lumen, shadows, wire)
    has_lipid, has_vessels = rng.random() < 0.46, rng.random() < 0.46
    if has_lipid:
        anatomy.lipid = _sample_lipid(rng, anatomy)
    if has_vessels:
        anatomy.vessels = _sample_vessels(rng, anatomy)
    return anatomy


def _sample_lumen(rng: Rng, catheter: float) -> Floats:
    """The lumen's edge as seen from the catheter, (ANGLES,): an irregular outline about an eccentric centre."""
    mean = rng.uniform(0.3, 0.68)
    outline = mean * (1 + rng.uniform(0.02, 0.13) * wave(rng, range(2, 14), 1.8))
    if rng.random() < 0.4:  # a local bulge or notch, as plaque makes it
        outline *= 1 - rng.uniform(-0.08, 0.15) * np.exp(-((wrap_angle(THETA - rng.uniform(0, 6.28)) / 0.25) ** 2))
    direction, offset = rng.uniform(0, 2 * np.pi), rng.uniform(0, 1) * max(0.0, mean - 0.7 * catheter)
    while True:
        x = outline * np.cos(THETA) + offset * np.cos(direction)
        y = outline * np.sin(THETA) + offset * np.sin(direction)
        angle = np.unwrap(np.arctan2(y, x))
        if (np.diff(angle) > 0).all():  # every beam meets the edge once
            return np.asarray(np.interp(THETA, angle, np.hypot(x, y), period=2 * np.pi))
        offset, outline = offset * 0.85, outline + 0.1 * (mean - outline)


def _lit(anatomy: Anatomy, angle: float, margin: float) -> bool:
    """Whether no shadow falls within `margin` of an angle."""
    return all(angle_between(angle, at) > half + margin for at, half in anatomy.shadows)


def _sample_lipid(rng: Rng, anatomy: Anatomy) -> Lipid | None:
    room = anatomy.field_of_view - anatomy.lumen
    for _ in range(40):
        centre, half = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(15, 58))
        inside = np.abs(wrap_angle(THETA - centre)) <= half
        if not _lit(anatomy, centre, half) or room[inside].min() < 0.25:
            continue
        side = wrap_angle(THETA - centre) / half
        thickness = rng.uniform(0.04, 0.17) * (1 + 0.3 * wave(rng, range(2, 14), 0.8))
        cap = np.clip(thickness * (1 + rng.uniform(0, 0.9) * np.minimum(np.abs(side), 1) ** 3), 0.03, 0.21)
        rounded = 1 - rng.uniform(0.05, 0.4) * np.minimum(side**2, 1)  # the far border bulges in the middle
        reach = cap + rng.uniform(0.3, 0.7) * rounded * (1 + 0.06 * wave(rng, range(3, 16), 0.7))
        if rng.random() < 0.7:  # lipid takes the light: what is behind it cannot be told apart, and counts as core
            reach = np.maximum(room, cap)
        return Lipid(centre, half, rng.uniform(-0.1, 0.3), cap, np.maximum(reach, cap + 0.05))
    return None


def _sample_vessels(rng: Rng, anatomy: Anatomy) -> list[Hole]:
    vessels: list[Hole] = []
    wanted = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    for _ in range(80):
        angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.2)
        if vessels and rng.random() < 0.4:  # they come in clusters, some of them joined
            near = vessels[-1]
            angle = np.arctan2(near.y, near.x) + rng.normal(0, 0.05)
            depth = np.hypot(near.x, near.y) - at_angle(anatomy.lumen, angle) + rng.normal(0, 0.025)
        b = rng.uniform(0.01, 0.036)
        a = b * (rng.uniform(1, 1.4) if rng.random() < 0.6 else rng.uniform(1.4, 2.8))
        a = min(a, 0.07)  # calcium and side branches begin above
        radius = at_angle(anatomy.lumen, angle) + depth
        nearest = anatomy.lumen[np.abs(wrap_angle(THETA - angle)) < a / radius + 0.02].max()
        lipid = anatomy.lipid
        behind = lipid is not None and angle_between(angle, lipid.centre) < lipid.half * 1.35 + 0.1
        if behind or not _lit(anatomy, angle, 0.06) or not nearest + a + 0.015 < radius < anatomy.field_of_view - a:
            continue
        tilt = angle + np.pi / 2 + rng.normal(0, 0.5)
        vessels.append(Hole(radius * np.cos(angle), radius * np.sin(angle), a, b, tilt))
        if len(vessels) == wanted:
            break
    return vessels
