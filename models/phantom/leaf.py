"""Synthetic photographs of leaves on soil, with lesions: large, tiny, and one kind that is rare."""

import numpy as np

from models.phantom.canvas import Canvas, blob, camera, paint, wander
from models.phantom.frame import Phantom
from models.phantom.polar import Floats, Mask, Rng

LEAF, BLIGHT, RUST, HOLE = CLASSES = ("Leaf", "Blight", "Rust", "Hole")


def render_leaf(seed: int, size: int = 1100, difficulty: float = 0.5, *, holes: bool = False) -> Phantom:
    """One leaf; the same arguments give the same bytes. Leaf is on every picture and holds its lesions, not its holes.

    Args:
        seed: not negative.
        size: longer side of the largest pictures, in pixels; they have many sizes and proportions.
        difficulty: in [0, 1]; more of it lowers the lesions' contrast and adds blur, noise and look-alikes.
        holes: the leaf was eaten at.
    """
    form, look = (np.random.default_rng([seed, stream]) for stream in range(2))
    canvas = Canvas(form, size, 0.5)
    soil = _soil(canvas, look, difficulty)
    outline, ribs = _leaf(canvas, form)
    leaf = canvas.fill(outline)
    lesions = {BLIGHT: _blights(canvas, form, leaf), RUST: _rusts(canvas, form, leaf)}
    bites = [canvas.fill(blob(form, canvas.somewhere(form, leaf), form.uniform(0.012, 0.04))) for _ in range(3)]
    hole = leaf & np.any(bites, axis=0) if holes else np.zeros_like(leaf)
    picture = soil.copy()
    shadow = canvas.fill(outline + look.uniform(-0.02, 0.02, 2))
    paint(picture, shadow, soil * 0.45, 0.8, soft=0.008 * canvas.long)
    blade = _blade(canvas, look, ribs)
    _paint_lesions(canvas, blade, lesions, leaf, look, difficulty)
    paint(picture, leaf, blade)
    paint(picture, hole, np.array([0.35, 0.27, 0.12]), soft=1.2)  # the bite's brown edge; the soil behind it covers it
    paint(picture, hole, soil * 0.5, 0.95, soft=0.6)
    masks = {LEAF: leaf & ~hole, **{label: mask & ~hole for label, mask in lesions.items()}, HOLE: hole}
    image = camera(picture * canvas.light(look, 0.3)[..., None], look, difficulty)
    return Phantom(image, {label: mask for label, mask in masks.items() if mask.any()})


def _soil(canvas: Canvas, rng: Rng, difficulty: float) -> Floats:
    """Earth with pebbles, straw, grass, and crumbs in the colours of the lesions."""
    base = np.array([0.36, 0.27, 0.19]) * rng.uniform(0.6, 1.3) * rng.uniform(0.9, 1.1, 3)
    soil = np.asarray(base * (1 + 0.3 * canvas.noise(rng, 0.2, 0.05, 0.012, 0.004)[..., None]), dtype=np.float32)
    for _ in range(rng.integers(15, 50)):
        pebble = canvas.fill(blob(rng, canvas.somewhere(rng), rng.uniform(0.004, 0.03), ratio=rng.uniform(1, 2)))
        paint(soil, pebble, rng.uniform(0.25, 0.65) * rng.uniform(0.9, 1.1, 3), rng.uniform(0.4, 0.9))
    for _ in range(rng.integers(4, 14)):
        green = rng.random() < 0.4
        colour = np.array([0.3, 0.45, 0.15]) if green else np.array([0.68, 0.55, 0.32])
        path = wander(rng, canvas.somewhere(rng), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.4), 0.06)
        paint(soil, canvas.stroke(path, np.full(24, rng.uniform(0.003, 0.015))), colour * rng.uniform(0.7, 1.2), 0.9)
    for _ in range(int(40 * difficulty)):
        crumb = canvas.fill(blob(rng, canvas.somewhere(rng), rng.uniform(0.003, 0.01)))
        paint(soil, crumb, np.array([0.62, 0.34, 0.12]) * rng.uniform(0.7, 1.2), 0.8)
    return np.clip(soil, 0, 1)


def _leaf(canvas: Canvas, rng: Rng) -> tuple[Floats, list[tuple[Floats, float]]]:
    """Its outline, and its ribs: path and width."""
    along = 0.0 if canvas.width > canvas.height else np.pi / 2
    turn = along + rng.normal(0, 0.35) + np.pi * rng.integers(2)
    half = 0.5 * min(rng.uniform(0.75, 1.05), 1.7 * min(canvas.width, canvas.height))
    wide, bend, taper = rng.uniform(0.36, 0.6), rng.normal(0, 0.25), rng.uniform(0.6, 0.9)
    middle = np.array([canvas.width, canvas.height]) / 2 + rng.normal(0, 0.03, 2)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])

    def place(u: Floats, v: Floats) -> Floats:
        return np.asarray(np.stack([u, v + bend * u**2], axis=1) * half @ rotation + middle)

    def width(u: Floats) -> Floats:
        return np.asarray(wide * np.maximum(1 - u**2, 0) ** taper * (1 - 0.35 * u))

    u = np.linspace(-1, 1, 120)
    teeth = 1 + 0.03 * np.sin(rng.uniform(60, 110) * u) + 0.02 * rng.normal(0, 1, u.size)
    edge = width(u) * teeth
    outline = place(np.concatenate([u, u[::-1]]), np.concatenate([edge, -edge[::-1]]))
    ribs = [(place(np.linspace(-1, 0.97, 25), np.zeros(25)), 0.006)]
    for at in np.linspace(-0.85, 0.7, rng.integers(7, 12)):
        for side in (-1, 1):
            run = np.linspace(0, 1, 25)
            across = side * run * 0.92 * width(np.minimum(at + 0.35, 0.95))
            ribs.append((place(at + 0.35 * run**1.3, across), 0.003))
    return outline, ribs


def _blade(canvas: Canvas, rng: Rng, ribs: list[tuple[Floats, float]]) -> Floats:
    green = np.array([rng.uniform(0.2, 0.36), rng.uniform(0.36, 0.5), rng.uniform(0.14, 0.24)])
    yellow = np.array([0.62, 0.6, 0.22])
    ageing = np.clip(0.18 + 0.18 * canvas.noise(rng, 0.35, 0.1), 0, 0.7)[..., None]
    blade = (green + ageing * (yellow - green)) * (1 + 0.09 * canvas.noise(rng, 0.1, 0.02, 0.005)[..., None])
    blade = np.asarray(blade, dtype=np.float32)
    for path, width in ribs:
        paint(blade, canvas.stroke(path, np.linspace(width, width / 3, 24)), green + 0.18, 0.55, soft=1.0)
    glare = np.clip(canvas.noise(rng, 0.25, 0.06) - 1.2, 0, 1)[..., None] * rng.uniform(0, 0.35)
    return np.clip(blade + glare, 0, 1)


def _blights(canvas: Canvas, rng: Rng, leaf: Mask) -> Mask:
    number = int(rng.choice([0, 1, 2, 3], p=[0.4, 0.3, 0.2, 0.1]))
    return _united(
        canvas, leaf, [
            blob(rng, canvas.somewhere(rng, leaf), rng.uniform(0.035, 0.11), ratio=rng.uniform(1, 2.2), rough=0.3)
            for _ in range(number)
        ]
    )  # fmt: skip


def _rusts(canvas: Canvas, rng: Rng, leaf: Mask) -> Mask:
    """Pustules of a few pixels, in clusters."""
    spots = []
    if rng.random() < 0.6:
        for _ in range(rng.integers(1, 4)):
            focus, spread = canvas.somewhere(rng, leaf), rng.uniform(0.02, 0.08)
            for _ in range(rng.integers(3, 14)):
                spots.append(blob(rng, focus + rng.normal(0, spread, 2), rng.uniform(0.004, 0.011), rough=0.2))
    return _united(canvas, leaf, spots)


def _united(canvas: Canvas, leaf: Mask, outlines: list[Floats]) -> Mask:
    mask = np.zeros_like(leaf)
    for outline in outlines:
        mask |= canvas.fill(outline)
    return mask & leaf


def _paint_lesions(
    canvas: Canvas, blade: Floats, lesions: dict[str, Mask], leaf: Mask, rng: Rng, difficulty: float
) -> None:
    plain = 1 - 0.35 * difficulty * rng.uniform(0.6, 1)
    for _ in range(int(rng.uniform(4, 10) + 14 * difficulty)):  # dirt and drops, of the size of rust
        spot = canvas.fill(blob(rng, canvas.somewhere(rng, leaf), rng.uniform(0.003, 0.012)))
        colour, strength = ((0.2, 0.15, 0.1), 0.7) if rng.random() < 0.6 else ((0.75, 0.8, 0.75), 0.45)
        paint(blade, spot, colour, strength)
    blight = lesions[BLIGHT]
    paint(blade, blight, (0.66, 0.6, 0.2), 0.6, soft=0.012 * canvas.long)  # a yellow halo beyond the lesion
    tan = np.array([0.5, 0.38, 0.24]) * rng.uniform(0.75, 1.2)
    dead = tan * (1 + 0.25 * canvas.noise(rng, 0.05, 0.015, 0.005)[..., None])
    paint(blade, blight, np.array([0.25, 0.17, 0.09]), plain, soft=1.0)  # the dark rim stays where the middle fades out
    paint(blade, blight & (canvas.noise(rng, 0.03, 0.01) > -1.2), dead, plain, soft=0.004 * canvas.long)
    paint(blade, lesions[RUST], (0.62, 0.55, 0.2), 0.5, soft=0.004 * canvas.long)
    paint(blade, lesions[RUST], np.array([0.58, 0.3, 0.1]) * rng.uniform(0.75, 1.15), plain)
