"""Images with one object to be found, for the prompt network: phantoms, labelled images, and collages.

What a network learns here must hold for images that it has never seen, so variety counts, not likeness to any project:
shapes of all kinds, filled from another picture or only changed a little from what is around them, among others like
them, on procedural textures, photographs and phantoms.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import largest_component
from models.phantom.canvas import blob, wander
from models.training.augmentation import random_colours
from models.training.prompting import Labelled, Rgb, Rng, view

Floats = NDArray[np.float32]

CANVAS = 160  # side of a collage, in pixels


@dataclass
class Sources:
    """Where scenes come from.

    Attributes:
        labelled: images with objects.
        pictures: images to take textures from.
        collages: share of scenes that are collages.
    """

    labelled: list[Labelled]
    pictures: list[Rgb]
    collages: float = 0.5

    def scene(self, size: int, rng: Rng) -> tuple[Rgb, NDArray[np.bool_]]:
        """An image of shape (size, size, 3), uint8 RGB, and the object that is meant on it, never empty."""
        while True:
            if not self.labelled or rng.random() < self.collages:
                image, target = collage(self, rng)
            else:
                chosen = self.labelled[rng.integers(len(self.labelled))]
                if not chosen.objects:
                    continue
                image, target = chosen.image, chosen.objects[rng.integers(len(chosen.objects))]
            seen, found = view(image, target, size, rng)
            if found.sum() >= 12:
                return look(seen, rng), found

    def picture(self, rng: Rng) -> Rgb:
        """A texture of CANVAS x CANVAS pixels: part of a picture, or made up."""
        if not self.pictures or rng.random() < 0.45:
            return made_up(rng)
        return _part(self.pictures[rng.integers(len(self.pictures))], rng)


def look(image: Rgb, rng: Rng) -> Rgb:
    """The same image as another camera or screen would show it."""
    image = random_colours(image, rng)
    if rng.random() < 0.25:
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < 0.1:
        image = 255 - image
    if rng.random() < 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5)), dtype=np.uint8)
    if rng.random() < 0.2:
        noise = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * rng.uniform(2, 15)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.15:
        quality = int(rng.integers(25, 90))
        coded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), dtype=np.uint8)
    return image


def collage(sources: Sources, rng: Rng) -> tuple[Rgb, NDArray[np.bool_]]:
    """Some shapes on a ground, one of them the target; shape (CANVAS, CANVAS, 3), uint8 RGB, and its mask."""
    image = sources.picture(rng).astype(np.float32)
    shapes: list[NDArray[np.bool_]] = []
    largest = np.exp(rng.uniform(np.log(0.03), np.log(0.4)))
    kind = str(rng.choice(KINDS, p=KIND_SHARES))
    fill = _Fill(sources, rng)
    count = int(rng.integers(1, 6))
    if rng.random() < 0.3:  # what it lies on is an object itself
        outer = shape_of(sources, "blob", rng.uniform(0.3, 0.5), rng, middle=True)
        _paint(image, outer, _Fill(sources, rng), rng)
    for _ in range(count):
        alike = rng.random() < 0.6
        radius = largest * rng.uniform(0.5, 1.2)
        mask = shape_of(sources, kind if alike else str(rng.choice(KINDS, p=KIND_SHARES)), radius, rng)
        if mask.any():
            _paint(image, mask, fill if alike else _Fill(sources, rng), rng)
            shapes = [shape & ~mask for shape in shapes] + [mask]
    if not shapes:
        return collage(sources, rng)
    target = largest_component(shapes[rng.integers(len(shapes))])
    if target.sum() < 0.0008 * target.size:
        return collage(sources, rng)
    if rng.random() < 0.35:
        image *= _light(rng)[..., None]
    if rng.random() < 0.2:
        speckle = cv2.GaussianBlur(rng.rayleigh(1, target.shape).astype(np.float32), (0, 0), rng.uniform(0.5, 1.5))
        image *= (1 + (speckle / speckle.mean() - 1) * rng.uniform(0.3, 1.2))[..., None]
    return np.clip(image, 0, 255).astype(np.uint8), target


class _Fill:
    """What a shape is filled with: another picture, or what is there already, changed."""

    def __init__(self, sources: Sources, rng: Rng) -> None:
        self.picture = sources.picture(rng).astype(np.float32) if rng.random() < 0.4 else None
        grey = rng.random() < 0.4
        contrast = rng.choice([-1, 1]) * np.exp(rng.uniform(np.log(12), np.log(110)))
        self.offset = contrast * (np.ones(3) if grey else rng.uniform(-0.4, 1, 3)).astype(np.float32)
        self.gain = np.float32(np.exp(rng.normal(0, 0.3)))
        self.blur = rng.uniform(0.5, 4) if rng.random() < 0.35 else 0.0
        self.grain = rng.uniform(3, 25) if rng.random() < 0.3 else 0.0
        self.patches = rng.uniform(5, 40) if rng.random() < 0.4 else 0.0
        self.rim = rng.uniform(-50, 50) if rng.random() < 0.3 else 0.0
        self.soft = np.exp(rng.uniform(np.log(0.4), np.log(4)))
        self.strength = rng.uniform(0.6, 1)

    def __call__(self, image: Floats, rng: Rng) -> Floats:
        if self.picture is not None:
            filled = np.roll(self.picture, tuple(rng.integers(0, CANVAS, 2)), axis=(0, 1))
        else:
            filled = np.asarray(cv2.GaussianBlur(image, (0, 0), self.blur) if self.blur else image, dtype=np.float32)
            mean = filled.mean(axis=(0, 1))
            filled = (filled - mean) * self.gain + mean + self.offset
        if self.grain:
            filled += rng.standard_normal((CANVAS, CANVAS, 1), dtype=np.float32) * self.grain
        if self.patches:
            filled += (smooth_noise(rng, rng.uniform(0.05, 0.3)) * self.patches)[..., None]
        return np.asarray(filled, dtype=np.float32)


def _paint(image: Floats, mask: NDArray[np.bool_], fill: _Fill, rng: Rng) -> None:
    """Fill a shape in place."""
    if fill.rim:
        wide = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8), iterations=int(rng.integers(1, 4)))
        image += cv2.GaussianBlur(wide.astype(np.float32), (0, 0), 2.0)[..., None] * np.float32(fill.rim)
    area = max(float(mask.sum()), 1.0)
    cover = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), min(fill.soft, 0.12 * area**0.5 + 0.3))
    cover = (cover * np.float32(fill.strength))[..., None]
    image *= 1 - cover
    image += cover * fill(image, rng)


KINDS = ("blob", "frayed", "polygon", "line", "noise", "cut")
KIND_SHARES = (0.3, 0.12, 0.1, 0.16, 0.16, 0.16)


def shape_of(sources: Sources, kind: str, radius: float, rng: Rng, *, middle: bool = False) -> NDArray[np.bool_]:
    """A random shape on the canvas; its radius is a fraction of the canvas."""
    mask = np.zeros((CANVAS, CANVAS), dtype=np.uint8)
    centre = rng.uniform(0.4, 0.6, 2) if middle else rng.uniform(0.05, 0.95, 2)
    if kind == "noise":
        noise = smooth_noise(rng, radius * rng.uniform(0.6, 1.5)) + 0.3 * smooth_noise(rng, radius * 0.3)
        rows, columns = (np.mgrid[:CANVAS, :CANVAS] + 0.5) / CANVAS
        far = np.hypot(columns - centre[0], rows - centre[1]) / radius
        return largest_component(noise - (far - 0.8) * 2 > 0)
    if kind == "cut" and sources.labelled:
        for _ in range(5):
            chosen = sources.labelled[rng.integers(len(sources.labelled))]
            if chosen.objects:
                return _cut(chosen.objects[rng.integers(len(chosen.objects))], centre, radius, rng)
    if kind == "line":
        length = radius * rng.uniform(2, 5)
        path = wander(rng, centre, rng.uniform(0, 2 * np.pi), length, rng.uniform(0.02, 0.4))
        thick = max(radius * CANVAS * np.exp(rng.uniform(np.log(0.04), np.log(0.3))), 1.0)
        for start, end in pairwise(path):
            width = max(round(thick * rng.uniform(0.6, 1.4)), 1)
            ends = [np.rint(point * CANVAS).astype(int).tolist() for point in (start, end)]
            cv2.line(mask, ends[0], ends[1], 1, width)
        return mask > 0
    if kind == "polygon":
        count = int(rng.integers(3, 8))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        reach = radius * rng.uniform(0.6, 1.3, count)
        outline = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
    else:
        outline = blob(rng, centre, radius, ratio=np.exp(rng.uniform(0, 1.3)), rough=rng.uniform(0, 0.35))
    cv2.fillPoly(mask, [np.rint(outline * CANVAS).astype(np.int32)], 1)
    if kind == "frayed":
        sway = np.stack([smooth_noise(rng, rng.uniform(0.02, 0.06)) for _ in range(2)], axis=-1)
        grid = np.dstack(np.meshgrid(np.arange(CANVAS), np.arange(CANVAS))).astype(np.float32)
        grid += sway * np.float32(rng.uniform(1, 0.25 * radius * CANVAS + 1.5))
        mask = np.asarray(cv2.remap(mask, grid[..., 0], grid[..., 1], cv2.INTER_NEAREST), dtype=np.uint8)
    return mask > 0


def _cut(target: NDArray[np.bool_], centre: NDArray[np.float64], radius: float, rng: Rng) -> NDArray[np.bool_]:
    """The shape of a labelled object, turned and scaled."""
    x, y, w, h = cv2.boundingRect(target.astype(np.uint8))
    zoom = 2 * radius * CANVAS / max(w, h)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    affine = np.column_stack([turn, centre * CANVAS - turn @ np.array([x + w / 2, y + h / 2])])
    moved = cv2.warpAffine(target.astype(np.uint8) * 255, affine, (CANVAS, CANVAS), flags=cv2.INTER_LINEAR)
    return np.asarray(moved >= 128)


def made_up(rng: Rng) -> Rgb:
    """A texture of CANVAS x CANVAS pixels: noise of some grains, maybe in stripes, in grey or three colours."""
    field_ = np.zeros((CANVAS, CANVAS), dtype=np.float32)
    for _ in range(rng.integers(1, 4)):
        cell = np.exp(rng.uniform(np.log(0.008), np.log(0.5)))
        stripes = np.exp(rng.uniform(0, 3)) if rng.random() < 0.3 else 1.0
        field_ += smooth_noise(rng, cell, stripes) * np.float32(rng.uniform(0.3, 1))
    kind = rng.random()
    if kind < 0.12:  # cells
        count = int(rng.integers(20, 200))
        places = rng.uniform(0, CANVAS, (count, 2)).astype(np.float32)
        tones = rng.standard_normal(count).astype(np.float32)
        seeds = np.full((CANVAS, CANVAS), 255, dtype=np.uint8)
        columns, rows = places.astype(int).T
        seeds[rows, columns] = 0
        labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
        field_ = tones[labels % count] * rng.uniform(0.3, 1) + 0.3 * field_
    elif kind < 0.22:  # speckle
        grain = cv2.GaussianBlur(rng.rayleigh(1, (CANVAS, CANVAS)).astype(np.float32), (0, 0), rng.uniform(0.5, 1.8))
        field_ = (1.5 + 0.5 * field_) * grain / grain.std()
    field_ = (field_ - field_.mean()) / max(float(field_.std()), 1e-6)
    if rng.random() < 0.3:
        field_ = cv2.blur(field_, (int(rng.integers(1, 16)), 1)) if rng.random() < 0.5 else cv2.blur(field_, (1, 9))
    level, spread = rng.uniform(40, 215), np.exp(rng.uniform(np.log(3), np.log(60)))
    if rng.random() < 0.45:
        return np.repeat(np.clip(level + field_ * spread, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    tones = np.clip(rng.uniform(20, 235, 3) + rng.normal(0, 1, (3, 3)) * rng.uniform(10, 70), 0, 255)
    place = np.clip(field_ * rng.uniform(0.2, 0.5) + 0.5, 0, 1)
    channels = [np.interp(place, (0, 0.5, 1), tones[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def smooth_noise(rng: Rng, cell: float, stripes: float = 1.0) -> Floats:
    """Noise of CANVAS x CANVAS pixels with grains as large as a fraction of it; mean about 0, deviation about 1."""
    rows, columns = (min(max(int(1 / size), 1) + 3, CANVAS) for size in (cell, cell * stripes))
    if rng.random() < 0.5:
        rows, columns = columns, rows
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC))


def _part(picture: Rgb, rng: Rng) -> Rgb:
    """A square of a picture, turned, in changed colours."""
    height, width = picture.shape[:2]
    side = int(min(height, width) * rng.uniform(0.3, 1))
    y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
    part = np.rot90(picture[y : y + side, x : x + side], int(rng.integers(4)))
    way = cv2.INTER_AREA if side > CANVAS else cv2.INTER_LINEAR
    part = np.asarray(cv2.resize(np.ascontiguousarray(part), (CANVAS, CANVAS), interpolation=way), dtype=np.uint8)
    return random_colours(part, rng)


def _light(rng: Rng) -> Floats:
    """Factors about 1: brighter on one side."""
    rows, columns = np.mgrid[-1 : 1 : CANVAS * 1j, -1 : 1 : CANVAS * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    return np.asarray(1 + rng.uniform(0, 0.35) * (columns * np.cos(angle) + rows * np.sin(angle)), dtype=np.float32)
