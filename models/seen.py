"""What a classifier says of frames: presence and activation maps. Where no gradients are needed, without torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from models.stages import stage

SHARPNESS = 4.0  # of the smooth maximum that pools score maps
STEP = 32  # sides that the classifier takes are multiples of it, in pixels

Floats = NDArray[np.float32]


class Output(NamedTuple):
    """Result of one forward pass, for B images of S x S pixels, C classes, K channels.

    Attributes:
        logits: shape (B, C), presence of each class on the frame.
        score_maps: shape (B, C, S/4, S/4), logits of the class in the cell.
        features: shape (B, K, S/4, S/4), what these are weighted sums of; None where they were not asked for.
    """

    logits: Floats
    score_maps: Floats
    features: Floats | None


class Forward(Protocol):
    """Computes a classifier."""

    def __call__(self, images: Floats, *, features: bool = False) -> Output:
        """The output for images of shape (B, 3, H, W), floats in [0, 1], H and W multiples of 32."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of B frames.

    Attributes:
        presence: probability of each class, shape (B, C).
        maps: method -> activation maps of all classes, shape (B, C, h, w), floats in [0, 1].
        features: of the finest layer that was looked at, shape (B, K, h, w); None where they were not asked for.
    """

    presence: Floats
    maps: dict[str, Floats]
    features: Floats | None


def see(forward: Forward, frames: NDArray[np.uint8], methods: Sequence[str], *, features: bool = False) -> Seen:
    """Look at frames by methods whose maps are the class score maps; `models.activation_maps` has all of them.

    Args:
        forward: computes the classifier.
        frames: shape (B, H, W, 3), uint8 RGB.
        methods: names of `models.config.SCORE_MAPS`.
        features: whether to keep them.
    """
    with stage("classifier"):
        output = forward(floats(frames), features=features)
    with stage("maps"):
        maps = sigmoid(output.score_maps)
    return Seen(sigmoid(output.logits), dict.fromkeys(methods, maps), output.features)


def judge(forward: Forward, frames: Sequence[NDArray[np.uint8]], side: int) -> Floats:
    """Presence of each class on squares made smaller, shape (B, C), probabilities.

    Args:
        forward: computes the classifier.
        frames: B squares of shape (S, S, 3), uint8 RGB.
        side: of the smaller squares, in pixels.
    """
    with stage("classifier"):
        return sigmoid(forward(_scaled(floats(frames), side)).logits)


def floats(frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]) -> Floats:
    """Frames of shape (H, W, 3), uint8, as the networks take them: shape (B, 3, H, W), floats in [0, 1]."""
    return np.asarray(cv2.dnn.blobFromImages(list(frames), 1 / 255), dtype=np.float32)


def presence_side(side: int, scale: float) -> int | None:
    """Side of the square at which presence is judged, in pixels; None if it is the whole square's own."""
    smaller = round(scale * side / STEP) * STEP
    return smaller if 0 < smaller < side else None


def pooled(score_maps: Floats, gain: Floats, bias: Floats) -> Floats:
    """Presence logits, shape (B, C), of class score maps of shape (B, C, h, w), by each class's line of shape (C,).

    As `models.classifier.pooled`.
    """
    cells = SHARPNESS * score_maps.reshape(*score_maps.shape[:2], -1)
    peak = cells.max(axis=2, keepdims=True)
    total = np.exp(cells - peak).sum(axis=2)
    logits = gain * ((np.log(total) + peak[..., 0] - math.log(cells.shape[2])) / SHARPNESS) + bias
    return np.asarray(logits, dtype=np.float32)


def _scaled(images: Floats, side: int) -> Floats:
    """Squares of shape (B, 3, S, S), smaller, each pixel an average of those it stands for, as torch has it."""
    from PIL import Image

    planes = [Image.fromarray(plane) for plane in images.reshape(-1, *images.shape[2:])]
    scaled = [np.asarray(plane.resize((side, side), Image.Resampling.BILINEAR)) for plane in planes]
    return np.stack(scaled).reshape(*images.shape[:2], side, side)


def sigmoid(logits: NDArray[Any]) -> Floats:
    """Probabilities of logits of any shape."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))), dtype=np.float32)  # beyond, exp overflows
