"""Random views of a frame: geometry and colour changes that keep what is on it."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.wall import RAYS, ROWS, Wall, cut_strip, depths

EDGE_NOISE = 0.004  # of the longer side: how far a lumen's edge that was found lies from the true one


@dataclass(frozen=True, eq=False)
class WallFrame:
    """A labelled image whose wall can be unrolled.

    Attributes:
        image: shape (h, w, 3), uint8 RGB; finer than that of the frame.
        masks: shape (C, h, w), uint8, 0 or 255.
        wall: around the lumen, in pixels of the image.
        read: shape (C,), bool: the class is read on the wall, and its mask is known.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    wall: Wall
    read: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Frame:
    """A labelled image at training resolution.

    Attributes:
        image: shape (h, w, 3), uint8 RGB.
        masks: shape (C, h, w), uint8, 0 or 255.
        presence: shape (C,), float32: 1 on the frame, 0 not, NaN unknown.
        known: shape (C,), bool: the class's mask is known: drawn, or empty because the class is absent.
        unrolled: the same image for views of the wall; None where there are none.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    presence: NDArray[np.float32]
    known: NDArray[np.bool_]
    unrolled: WallFrame | None = None

    @property
    def open(self) -> NDArray[np.bool_]:
        """Shape (C,), bool: the class is somewhere on the frame, but its mask is unknown."""
        return np.asarray((self.presence == 1) & ~self.known)


def random_view(
    frame: Frame, size: int, rng: np.random.Generator, focus: int | None = None, *, whole: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A rotated, mirrored, scaled square of a frame, its colours changed.

    Args:
        frame: what to look at.
        size: side of the square in pixels.
        rng: source of all randomness.
        focus: index of a class whose object should be in view, half of the time.
        whole: show all of the frame, for labels that speak of all of it.

    Returns:
        Image of shape (size, size, 3), uint8, and masks of shape (C, size, size), uint8, 0..255.
    """
    height, width = frame.image.shape[:2]
    centre = np.array([width / 2, height / 2])
    angle, flip = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    if not whole:
        zoom = np.exp(rng.uniform(np.log(0.75), np.log(1.35), 2) * np.array([1.0, 0.15]))
        scale = np.array([zoom[0] * zoom[1], zoom[0] / zoom[1]])
        slack = np.maximum(np.array([width, height]) - size / zoom[0], 0) / 2
        centre = centre + rng.uniform(-1, 1, 2) * slack
        if focus is not None and rng.random() < 0.5:
            ys, xs = np.nonzero(frame.masks[focus])
            if len(xs):
                pick = rng.integers(len(xs))
                centre = np.array([xs[pick], ys[pick]]) + rng.uniform(-0.25, 0.25, 2) * size
    else:
        scale = np.full(2, size / max(height, width))
    # From view to frame: rotate, mirror, scale about the centre.
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([flip / scale[0], 1 / scale[1]])
    shift = centre - matrix @ np.array([size / 2, size / 2])
    affine = np.column_stack([matrix, shift])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    image = cv2.warpAffine(frame.image, affine, (size, size), flags=flags)
    masks = [cv2.warpAffine(mask, affine, (size, size), flags=flags) for mask in frame.masks]
    return random_colours(np.asarray(image, dtype=np.uint8), rng), np.stack(masks).astype(np.uint8)


def random_wall_view(
    frame: WallFrame, size: int, rng: np.random.Generator, focus: int | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A part of the unrolled wall, mirrored, stretched along and across it, its edge displaced, its colours changed.

    The stretch across (0.7 to 1.4) is that between annotators, who end what lies deep at different depths; the edge
    moves as much as the outline of a lumen that was found.

    Args:
        frame: what to look at.
        size: side of the square in pixels; its rows are those of a strip from the lumen's edge on.
        rng: source of all randomness.
        focus: index of a class whose object should be in view, half of the time.

    Returns:
        Image of shape (size, size, 3), uint8, and masks of shape (C, size, size), uint8, 0..255.
    """
    wall = frame.wall
    along, across = np.exp(rng.uniform(np.log(0.7), np.log(1.4), 2))
    centre = rng.uniform(0, RAYS)
    if focus is not None and frame.read[focus] and rng.random() < 0.5:
        ys, xs = np.nonzero(frame.masks[focus])
        if len(xs):
            pick = rng.integers(len(xs))
            centre = np.arctan2(ys[pick] - wall.y, xs[pick] - wall.x) / (2 * np.pi) * RAYS
            centre += rng.uniform(-0.25, 0.25) * size
    rays = centre + rng.choice([-1, 1]) * (np.arange(size) - size / 2) / along
    edge = np.interp(np.mod(rays, RAYS), np.arange(RAYS + 1), np.append(wall.edge, wall.edge[0]))
    knots = rng.normal(0, EDGE_NOISE, 8) + rng.normal(0, EDGE_NOISE / 2)
    edge = np.maximum(edge + np.interp(np.linspace(0, 7, size), np.arange(8), knots) * wall.side, 1)
    depth = np.interp(np.arange(size), np.arange(ROWS), depths(), right=np.inf)  # beyond the strip's last row: black
    depth = np.where(depth > 0, depth / across, depth)
    radius = np.minimum(edge + depth[:, None] * wall.side, 8.0 * wall.side)
    angles = rays * (2 * np.pi / RAYS)
    image = cut_strip(frame.image, wall, angles, radius)
    masks = np.stack([cut_strip(mask, wall, angles, radius) for mask in frame.masks])
    return random_levels(random_colours(random_shadows(image, rng), rng), rng), masks


def random_colours(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change gain, gamma, colour balance, sharpness and noise of an image of shape (H, W, 3), uint8 RGB."""
    factor: NDArray[np.float64] = np.ones(3)
    if rng.random() < 0.25:  # another colour map, or none
        image = np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), dtype=np.uint8)
        if rng.random() < 0.5:
            factor = np.exp(rng.normal(0, 0.4, 3))
    factor = factor * np.exp(rng.normal(0, 0.1, 3)) * np.exp(rng.normal(0, 0.2))
    gamma = np.exp(rng.normal(0, 0.2))
    # A table per channel: four times as fast as computing every pixel, and drawing views takes time from learning.
    levels = np.clip(np.arange(256)[:, None] / 255 * factor, 0, 1) ** gamma * 255  # (256, 3)
    image = np.asarray(cv2.LUT(image, levels.round().astype(np.uint8)[None]), dtype=np.uint8)
    if rng.random() < 0.3:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2)), dtype=np.uint8)
    if rng.random() < 0.3:
        noise = rng.standard_normal(image.shape[:2], dtype=np.float32) * np.float32(rng.uniform(0.02, 0.12))
        image = np.clip(image * (1 + noise[..., None]), 0, 255).astype(np.uint8)
    return image


def random_shadows(strip: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Another loss of light along the rays, and shadows of wires and blood, on a strip of shape (H, W, 3), uint8."""
    height, width = strip.shape[:2]
    gain = np.ones((height, width), dtype=np.float32)
    if rng.random() < 0.5:
        gain *= np.exp(rng.normal(0, 0.5) * np.linspace(-0.3, 0.7, height, dtype=np.float32))[:, None]
    for _ in range(rng.integers(1, 3) if rng.random() < 0.3 else 0):
        columns = np.abs(np.arange(width) - rng.uniform(0, width)) / rng.uniform(0.01, 0.12) / width
        gain *= (1 - rng.uniform(0.2, 0.9) / (1 + columns**4)).astype(np.float32)
    varied: NDArray[np.uint8] = np.clip(strip * gain[..., None], 0, 255).astype(np.uint8)
    return varied


def random_levels(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Half of the time another black level, gain and gamma, as consoles and displays differ in them."""
    if rng.random() < 0.5:
        return image
    black, gain, gamma = rng.uniform(0, 0.25), rng.uniform(0.5, 1.2), np.exp(rng.normal(0, 0.35))
    levels = np.clip(black + (1 - black) * gain * (np.arange(256) / 255) ** gamma, 0, 1) * 255
    return np.asarray(cv2.LUT(image, levels.round().astype(np.uint8)), dtype=np.uint8)
