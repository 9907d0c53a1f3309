"""What networks that answer prompts learn by: views of objects, a robot that points at them as annotators do, and the
loss of what is drawn."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from models.masks.components import largest_component
from models.phantom.canvas import wander
from models.prompt_network import PADDING, STRIDE, Prompts

Rgb = NDArray[np.uint8]
Rng = np.random.Generator

ROOM = 40  # points of an input


@dataclass(frozen=True, eq=False)
class Labelled:
    """An image and its objects.

    Attributes:
        image: shape (H, W, 3), uint8 RGB.
        objects: masks of shape (H, W), bool, one connected component each.
    """

    image: Rgb
    objects: tuple[NDArray[np.bool_], ...]


def view(image: Rgb, target: NDArray[np.bool_], size: int, rng: Rng) -> tuple[Rgb, NDArray[np.bool_]]:
    """A square of an image around an object, or all of it: turned, mirrored, scaled to size x size."""
    height, width = target.shape
    x, y, w, h = cv2.boundingRect(target.astype(np.uint8))
    long = max(height, width)
    side = max(w, h) * np.exp(rng.uniform(np.log(1.15), np.log(6)))
    side = long if rng.random() < 0.2 else min(side, 1.25 * long)
    centre = np.array([x + w / 2, y + h / 2])
    room = np.maximum(side - np.array([w, h]), 0.2 * side) / 2
    centre = centre + rng.uniform(-1, 1, 2) * room
    # A view shows as much of the image as it can, as the views of a server do.
    low, high = np.minimum(side / 2, np.array([width, height]) / 2), np.array([width, height])
    if rng.random() < 0.8:
        centre = np.clip(centre, low, np.maximum(high - side / 2, high / 2))
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.4 else rng.integers(4) * np.pi / 2
    zoom = size / side
    stretch = np.exp(rng.normal(0, 0.08, 2)) * (rng.choice([-1, 1]), 1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag(stretch) * zoom
    affine = np.column_stack([turn, np.array([size / 2, size / 2]) - turn @ centre])
    if zoom < 0.6:  # else small things alias
        factor = min(zoom * 1.2, 1.0)
        image = np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        shrunk = image.shape[1] / width, image.shape[0] / height
        pixels = affine @ np.array([[1 / shrunk[0], 0, 0], [0, 1 / shrunk[1], 0], [0, 0, 1]])
    else:
        pixels = affine
    seen = cv2.warpAffine(image, pixels, (size, size), flags=cv2.INTER_LINEAR, borderValue=(PADDING,) * 3)
    found = cv2.warpAffine(target.astype(np.uint8) * 255, affine, (size, size), flags=cv2.INTER_LINEAR)
    return np.asarray(seen, dtype=np.uint8), largest_component(found >= 128)


def mask_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy and Dice loss of logits of shape (B, 1, h, w) against masks in [0, 1]."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth)
    probability = logits.sigmoid()
    both = (probability * truth).sum((1, 2, 3))
    dice = (2 * both + 1) / (probability.sum((1, 2, 3)) + truth.sum((1, 2, 3)) + 1)
    return 2 * entropy + (1 - dice).mean()


def first_prompts(truths: NDArray[np.bool_], rng: Rng) -> tuple[Prompts, list[str]]:
    """How annotators may begin on objects of shape (B, S, S): a click, a box, a scribble, or an outline."""
    batch, side = len(truths), truths.shape[1]
    points = np.full((batch, ROOM, 3), np.nan, dtype=np.float32)
    boxes = np.full((batch, 4), np.nan, dtype=np.float32)
    earlier = np.zeros((batch, 1, side // STRIDE, side // STRIDE), dtype=np.float32)
    known = np.zeros(batch, dtype=np.float32)
    kinds = []
    for index, truth in enumerate(truths):
        kind = str(rng.choice(["click", "box", "scribble", "outline"], p=[0.6, 0.27, 0.06, 0.07]))
        kinds.append(kind)
        if kind == "click":
            points[index, 0] = (*place_inside(truth, rng), 1)
        elif kind == "box":
            x, y, w, h = cv2.boundingRect(truth.astype(np.uint8))
            loose = rng.uniform(0, 0.08) if rng.random() < 0.6 else 0.0
            slack = rng.normal(0, loose, 4) * (w, h, w, h)
            boxes[index] = np.array([x, y, x + w, y + h]) + slack
            if rng.random() < 0.15:
                points[index, 0] = (*place_inside(truth, rng), 1)
        elif kind == "scribble":
            line = scribble(truth, rng)
            points[index, : len(line), :2], points[index, : len(line), 2] = line, 1
        else:
            earlier[index, 0], known[index] = rough_outline(truth, rng), 1
    tensors = (torch.from_numpy(array) for array in (points, boxes, earlier, known))
    return Prompts(*tensors), kinds


def with_next_clicks(prompts: Prompts, found: Tensor, truths: NDArray[np.bool_], rng: Rng) -> Prompts:
    """Prompts with what was found as earlier mask, and mostly a click on its largest error."""
    points = prompts.points.numpy().copy()
    side = truths.shape[1]
    for index, truth in enumerate(truths):
        if rng.random() < 0.15:  # a closer look without another click
            continue
        drawn = cv2.resize(found[index, 0].numpy(), (side, side), interpolation=cv2.INTER_LINEAR) >= 0.5
        errors = [largest_component(error) for error in (truth & ~drawn, drawn & ~truth)]
        sizes = [int(error.sum()) for error in errors]
        free = int(np.isnan(points[index, :, 0]).argmax())
        if max(sizes) < 4 or not np.isnan(points[index, free, 0]):
            continue
        worst = int(np.argmax(sizes))
        points[index, free] = (*place_inside(errors[worst], rng), 1 - worst)
    known = torch.ones_like(prompts.has_earlier)
    return prompts._replace(points=torch.from_numpy(points), earlier=found, has_earlier=known)


def place_inside(mask: NDArray[np.bool_], rng: Rng) -> tuple[float, float]:
    """Where a person may click on a region: its middle, somewhere well inside, or anywhere."""
    inner = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    chance = rng.random()
    share = 1.0 if chance < 0.5 else 0.35 if chance < 0.85 else 0.0
    rows, columns = np.nonzero(mask & (inner >= share * inner.max()))
    pick = rng.integers(len(rows))
    return columns[pick] + 0.5, rows[pick] + 0.5


def scribble(mask: NDArray[np.bool_], rng: Rng) -> NDArray[np.float64]:
    """Points along a stroke inside a mask, shape (n, 2), at most `ROOM` - 8 of them."""
    height, width = mask.shape
    _, _, w, h = cv2.boundingRect(mask.astype(np.uint8))
    start = np.array(place_inside(mask, rng))
    path = wander(rng, start, rng.uniform(0, 2 * np.pi), max(w, h) * rng.uniform(0.2, 0.8), 0.2, ROOM - 9)
    columns, rows = np.clip(path.astype(int), 0, (width - 1, height - 1)).T
    return np.asarray(path[mask[rows, columns]] if mask[rows, columns].any() else start[None])


def rough_outline(mask: NDArray[np.bool_], rng: Rng) -> NDArray[np.float32]:
    """A mask that was drawn in haste: moved, too wide or too narrow, or with a part missing; shape (S/4, S/4)."""
    side = mask.shape[0]
    area = float(mask.sum()) ** 0.5
    reach = max(int(area * rng.uniform(0, 0.12)), 1)
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    rough = (cv2.dilate if rng.random() < 0.6 else cv2.erode)(mask.astype(np.uint8), element)
    shift = rng.normal(0, 0.05 * area, 2)
    rough = cv2.warpAffine(rough, np.array([[1, 0, shift[0]], [0, 1, shift[1]]]), (side, side))
    if rng.random() < 0.3:
        x, y = place_inside(mask, rng)
        cv2.circle(rough, (int(x), int(y)), int(area * rng.uniform(0.1, 0.35)), int(rng.integers(2)), cv2.FILLED)
    if not rough.any():
        rough = mask.astype(np.uint8)
    cells = side // STRIDE
    return np.asarray(cv2.resize(rough.astype(np.float32), (cells, cells), interpolation=cv2.INTER_AREA))
