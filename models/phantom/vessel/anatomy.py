"""The geometry of a frame, drawn at random: lumen, guide wire, stent, shadows, lipid cores, calcium and vessels.

Lengths in mm. Depth is measured from the lumen's edge: along the beam, or across the wall (perpendicular to the edge).
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from models.phantom.anatomy import Hole
from models.phantom.polar import ANGLES, THETA, Floats, Rng, angle_between, at_angle, wave, wrap_angle
from models.phantom.vessel.style import Style

STEEPEST = 0.4  # least cosine between a beam and the wall's normal that thicknesses are corrected for


@dataclass(frozen=True, eq=False)
class Lipid:
    """A lipid core and the cap over it, in sectors about `centre`; the core's is wider by `flare` at its far end."""

    centre: float
    half: float  # half the core's angle
    flare: float
    cap_half: float  # half the cap's angle
    cap: Floats  # (ANGLES,) thickness of the cap
    end: Floats  # (ANGLES,) depth across the wall at which the lipid ends
    drawn_end: Floats  # (ANGLES,) the same as the annotator draws it

    def side(self, theta: Floats, across: Floats) -> Floats:
        """Signed position between the core's side borders: |side| <= 1 is inside."""
        half: Floats = self.half * (1 + self.flare * np.clip(across, 0, 1))
        return np.asarray(wrap_angle(theta - self.centre) / half)


@dataclass(frozen=True)
class Plaque:
    """A diseased sector: beams within `half` of `centre`."""

    centre: float
    half: float


@dataclass(frozen=True)
class Shadow:
    """A dark sector: beams within `half` of `angle`, from a radius outwards."""

    angle: float
    half: float
    start: float


@dataclass(eq=False)
class Anatomy:
    """The geometry of one frame: everything that decides a mask, and what must keep clear of it."""

    half_width: float
    field_of_view: float
    sheath: float
    lumen: Floats  # (ANGLES,) radius of the lumen's edge as seen from the catheter
    cosine: Floats  # (ANGLES,) between beam and wall's normal: depth across the wall = depth along the beam * cosine
    wire: Hole | None
    shadows: list[Shadow]
    plaques: list[Plaque]  # where the wall is diseased; some of them hold lipid
    struts: list[float]  # angles of a stent's struts, at the lumen's edge
    thrombus: Floats | None  # (ANGLES,) its thickness, at the lumen's edge
    lipids: list[Lipid] = field(default_factory=list)
    vessels: list[Hole] = field(default_factory=list)
    calcium: list[Hole] = field(default_factory=list)


def sample_anatomy(rng: Rng, style: Style) -> Anatomy:
    """Every frame has a lumen and a catheter, most a guide wire, about half of them lipid, half vessels."""
    plaques = _sample_plaques(rng)
    lumen = _sample_lumen(rng, style, plaques)
    if rng.random() < 0.15:
        lumen = _branch(rng, lumen, style.field_of_view)
    wire = _sample_wire(rng, lumen, style.sheath, plaques) if rng.random() < 0.88 else None
    shadows = []
    if wire is not None:
        at = float(np.hypot(wire.x, wire.y))
        angle, half = (
            float(np.arctan2(wire.y, wire.x)),
            float(np.arcsin(min(wire.a / at, 0.9)) * rng.uniform(0.75, 1.2)),
        )
        shadows.append(Shadow(angle, half, at))
        if style.chord:
            lumen = _chord(lumen, angle, half)
    if rng.random() < 0.12:  # blood or a bubble at the catheter
        angle = rng.uniform(0, 2 * np.pi)
        shadows.append(Shadow(angle, rng.uniform(0.03, 0.2), style.sheath))
    struts: list[float] = []
    if rng.random() < 0.07:
        count = int(rng.integers(7, 15))
        struts = list(
            rng.uniform(0, 2 * np.pi) + (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
        )
        shadows += [
            Shadow(angle, rng.uniform(0.06, 0.11) / at_angle(lumen, angle), at_angle(lumen, angle)) for angle in struts
        ]
    thrombus = None
    if rng.random() < 0.05:
        bump = np.exp(-((wrap_angle(THETA - rng.uniform(0, 2 * np.pi)) / rng.uniform(0.15, 0.5)) ** 2))
        thrombus = rng.uniform(0.1, 0.4) * bump * (1 + 0.2 * wave(rng, range(3, 20), 0.6))
    anatomy = Anatomy(
        style.half_width, style.field_of_view, style.sheath, lumen, _cosine(lumen), wire, shadows, plaques, struts,
        thrombus,
    )  # fmt: skip
    has_lipid, has_vessels, has_calcium = rng.random() < 0.6, rng.random() < 0.5, rng.random() < 0.2
    if has_lipid and not struts and thrombus is None:
        _add_lipids(rng, anatomy, style)
    if has_vessels:
        anatomy.vessels = _sample_vessels(rng, anatomy)
    if has_calcium:
        _add_calcium(rng, anatomy)
    return anatomy


def _sample_plaques(rng: Rng) -> list[Plaque]:
    plaques: list[Plaque] = []
    for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.65, 0.25])):
        half = float(np.radians(np.clip(np.exp(rng.normal(np.log(36), 0.42)), 15, 135)))
        plaque = Plaque(rng.uniform(0, 2 * np.pi), half)
        if all(angle_between(plaque.centre, other.centre) > 1.4 * (half + other.half) for other in plaques):
            plaques.append(plaque)
    return plaques


def _sample_lumen(rng: Rng, style: Style, plaques: list[Plaque]) -> Floats:
    """The lumen's edge as seen from the catheter, (ANGLES,): an irregular outline about an eccentric centre."""
    mean = float(np.clip(np.exp(rng.normal(np.log(1.4), 0.25)), 0.75, min(0.68 * style.field_of_view, 2.4)))
    outline = mean * (1 + rng.uniform(0.02, 0.14) * wave(rng, range(2, 14), 1.8))
    for _ in range(rng.integers(0, 3)):  # local bulges and notches, as plaque makes them
        at, width = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.6)
        outline *= 1 - rng.uniform(-0.12, 0.22) * np.exp(-((wrap_angle(THETA - at) / width) ** 2))
    part = rng.uniform(0.88, 1.0) if rng.random() < 0.35 else rng.uniform(0, 0.9)  # of the way from centre to wall
    direction, offset = rng.uniform(0, 2 * np.pi), part * max(0.0, mean - 0.8 * style.sheath)
    while True:
        x = outline * np.cos(THETA) + offset * np.cos(direction)
        y = outline * np.sin(THETA) + offset * np.sin(direction)
        angle = np.unwrap(np.arctan2(y, x))
        if (np.diff(angle) > 0).all():  # every beam meets the edge once
            break
        offset, outline = offset * 0.9, outline + 0.1 * (mean - outline)
    lumen = np.interp(THETA, angle, np.hypot(x, y), period=2 * np.pi)
    for plaque in plaques:  # it flattens the wall, or bulges into the lumen
        bulge = np.exp(-((wrap_angle(THETA - plaque.centre) / (plaque.half * rng.uniform(0.6, 1.2))) ** 2))
        lumen = lumen * (1 - rng.uniform(-0.05, 0.3) * bulge)
    if rng.random() < 0.3:  # the catheter moved within a turn: the last beam does not meet the first
        turn = (THETA - rng.uniform(0, 2 * np.pi)) % (2 * np.pi) / (2 * np.pi) - 0.5
        lumen = lumen * (1 + rng.uniform(-0.05, 0.05) * turn)
    return np.asarray(np.clip(lumen, style.sheath, 0.95 * style.field_of_view))


def _branch(rng: Rng, lumen: Floats, field_of_view: float) -> Floats:
    """Open the lumen into a side branch."""
    centre, half = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.4)
    open_ = np.clip((half - np.abs(wrap_angle(THETA - centre))) / rng.uniform(0.02, 0.12) + 0.5, 0, 1)
    far = field_of_view if rng.random() < 0.6 else min(at_angle(lumen, centre) + rng.uniform(0.4, 1.5), field_of_view)
    return np.asarray(lumen + open_ * np.maximum(far - lumen, 0) * (1 + 0.05 * wave(rng, range(5, 30), 0.5)))


def _sample_wire(rng: Rng, lumen: Floats, sheath: float, plaques: list[Plaque]) -> Hole:
    """A guide wire between catheter and wall, mostly clear of plaques."""
    radius = rng.uniform(0.11, 0.19)
    for angle in rng.uniform(0, 2 * np.pi, 12):
        if all(angle_between(angle, plaque.centre) > plaque.half + 0.3 for plaque in plaques):
            break
    gap = at_angle(lumen, angle) - sheath
    at = sheath + np.clip(gap * rng.uniform(0, 1), radius * 0.8, max(gap - 0.5 * radius, radius * 0.8))
    return Hole(at * np.cos(angle), at * np.sin(angle), radius, radius, angle)


def _chord(lumen: Floats, angle: float, half: float) -> Floats:
    """The lumen's edge, straight between the beams at angle - half and angle + half."""
    first, last = at_angle(lumen, angle - half), at_angle(lumen, angle + half)
    offset = wrap_angle(THETA - angle)
    inside = np.abs(offset) < half
    along = first * np.sin(offset[inside] + half) + last * np.sin(half - offset[inside])
    result = lumen.copy()
    result[inside] = first * last * np.sin(2 * half) / along
    return result


def _cosine(lumen: Floats) -> Floats:
    """Of the angle between every beam and the normal of the lumen's edge, smoothed over some degrees."""
    wrapped = np.concatenate([lumen[-64:], lumen, lumen[:64]]).astype(np.float32)
    smooth = cv2.GaussianBlur(wrapped[None], (0, 0), 14, sigmaY=1)[0]
    slope = np.gradient(smooth, THETA[1])[64:-64] / smooth[64:-64]
    return np.asarray(np.maximum(1 / np.hypot(1, slope), STEEPEST))


def _lit(anatomy: Anatomy, angle: float, margin: float) -> bool:
    """Whether no shadow falls within `margin` of an angle."""
    return all(angle_between(angle, shadow.angle) > shadow.half + margin for shadow in anatomy.shadows)


def _add_lipids(rng: Rng, anatomy: Anatomy, style: Style) -> None:
    """A core in every plaque that has room for one."""
    depth = style.core_depth * rng.uniform(0.85, 1.15)
    room = (anatomy.field_of_view - anatomy.lumen) * anatomy.cosine
    for plaque in anatomy.plaques:
        inside = np.abs(wrap_angle(THETA - plaque.centre)) <= plaque.half
        # A wide core goes on behind shadows; a small one beside them is all that an annotator can tell.
        if room[inside].min() > 0.25 and (plaque.half > 0.9 or _lit(anatomy, plaque.centre, plaque.half)):
            anatomy.lipids.append(_sample_lipid(rng, style, plaque, room, depth))


def _sample_lipid(rng: Rng, style: Style, plaque: Plaque, room: Floats, depth: float) -> Lipid:
    centre, half = plaque.centre, plaque.half
    side = np.abs(wrap_angle(THETA - centre)) / half
    thickness = np.clip(np.exp(rng.normal(np.log(0.16), 0.45)), 0.04, 0.4)
    shoulder = 1 + rng.uniform(0, 2.5) * np.minimum(side, 1.1) ** rng.uniform(2, 5)
    cap = thickness * (1 + rng.uniform(0.05, 0.3) * wave(rng, range(2, 24), 0.8)) * shoulder
    cap = np.clip(cap, 0.03, np.maximum(np.minimum(0.55, 0.6 * room), 0.03))
    rounded = 1 - rng.uniform(0, 0.45) * np.minimum(side**2, 1)
    end = np.maximum(cap + rng.uniform(0.35, 1.4) * rounded * (1 + 0.06 * wave(rng, range(3, 16), 0.7)), cap + 0.1)
    if style.core_end == "depth":
        drawn = np.maximum(depth * rounded * (1 + 0.04 * wave(rng, range(2, 12), 0.7)), cap + 0.1)
    else:
        drawn = end if style.core_end == "core" else np.full(ANGLES, np.inf)
    flare = rng.uniform(-0.2, 0.25)
    return Lipid(centre, half, flare, half * rng.uniform(0.95, 1.25), cap, end, drawn)


def _clear(anatomy: Anatomy, angle: float, reach: float) -> bool:
    """Whether no lipid lies within `reach` of an angle."""
    return all(angle_between(angle, lipid.centre) > lipid.half * 1.3 + reach for lipid in anatomy.lipids)


def _sample_vessels(rng: Rng, anatomy: Anatomy) -> list[Hole]:
    vessels: list[Hole] = []
    wanted = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    least = max(0.02, 0.006 * anatomy.half_width)  # smaller ones cannot be seen
    for _ in range(80):
        angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.06, 0.7)
        if vessels and rng.random() < 0.4:  # they come in clusters, some of them joined
            near = vessels[-1]
            angle = np.arctan2(near.y, near.x) + rng.normal(0, 0.07)
            depth = np.hypot(near.x, near.y) - at_angle(anatomy.lumen, angle) + rng.normal(0, 0.06)
        b = least + rng.uniform(0, 0.08)
        a = min(b * (rng.uniform(1, 1.4) if rng.random() < 0.6 else rng.uniform(1.4, 3.5)), 0.24)
        radius = at_angle(anatomy.lumen, angle) + depth
        nearest = anatomy.lumen[np.abs(wrap_angle(THETA - angle)) < a / radius + 0.02].max()
        inside = nearest + a + 0.03 < radius < min(anatomy.field_of_view, anatomy.half_width) - a
        if not inside or not _clear(anatomy, angle, 0.1) or not _lit(anatomy, angle, 0.06):
            continue
        tilt = angle + np.pi / 2 + rng.normal(0, 0.5)
        vessels.append(Hole(radius * np.cos(angle), radius * np.sin(angle), a, b, tilt))
        if len(vessels) == wanted:
            break
    return vessels


def _add_calcium(rng: Rng, anatomy: Anatomy) -> None:
    """Calcium, and round holes larger than vessels: dark areas with a sharp edge that carry no mask."""
    for _ in range(rng.integers(1, 3)):
        angle, size, ratio = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.65), rng.uniform(1, 2.5)
        radius = at_angle(anatomy.lumen, angle) + rng.uniform(0.05, 0.25) + size / ratio
        hole = Hole(radius * np.cos(angle), radius * np.sin(angle), size, size / ratio, angle + np.pi / 2)
        apart = all(np.hypot(hole.x - other.x, hole.y - other.y) > size + 2 * other.a for other in anatomy.vessels)
        if apart and _clear(anatomy, angle, 1.5 * size / radius):
            anatomy.calcium.append(hole)
