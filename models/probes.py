"""Synthetic input for a pipeline's networks, and how far the masks of two outputs agree."""

from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.classifier import STRIDE, ClassifierOutput
from models.fba_net import network_input
from models.refiner import Crop, Subject, refine
from models.trimap import TrimapConfig, coarse_mask, trimap_from_mask
from models.wall import STRIP_MARGIN, find_wall, unroll

PROBES = 4  # frames and strips on which runtimes are compared
FRAME = 512  # side of the synthetic frames that crops are cut from, in pixels
NOISE = 0.6  # of their maps, before it is blurred
NEAR = 0.05  # probability: presences that differ by no more are the same
SMALL = 0.01  # of a probe: smaller masks are compared as if they were that large, or a single cell would decide


def probes_of(size: int, side: int) -> dict[str, Tensor]:
    """Part -> its input: synthetic frames of shape (PROBES, 3, size, size), strips of them, and crops
    of `side`."""
    from models.phantom import render_phantom
    from models.phantom.truth import LUMEN

    frames, strips = [], []
    for seed in range(PROBES):
        frame = render_phantom(seed, max(size, 64))
        frames.append(cv2.resize(frame.image, (size, size), interpolation=cv2.INTER_AREA))
        wall = find_wall(frame.masks[LUMEN] > 0)
        assert wall is not None  # of these seeds
        strips.append(unroll(frame.image, wall, STRIP_MARGIN))
    return {
        "classifier": _as_batch(frames),
        "wall_reader": _as_batch(strips),
        "refiner": object_crops(side, range(1)),
    }


def object_crops(side: int, seeds: Iterable[int]) -> Tensor:
    """FBANet's input for the objects of synthetic frames of every kind, shape (N, 12, side, side).

    Maps are the blurred truth with noise, at a quarter of a frame's size, as a classifier's are.

    Args:
        side: of a crop, in pixels.
        seeds: each stands for a frame of each kind.
    """
    from models.phantom import KINDS

    rng, crops = np.random.default_rng(0), list[Crop]()

    def keep(found: Sequence[Crop]) -> list[NDArray[np.float32]]:
        crops.extend(found)
        return [crop.cam for crop in found]

    for frame in (kind.render(seed, FRAME, 0.5) for seed in seeds for kind in KINDS.values()):
        subjects = []
        for mask in (mask.astype(np.float32) for mask in frame.masks.values() if mask.any()):
            small = np.asarray(cv2.resize(mask, None, fx=1 / STRIDE, fy=1 / STRIDE, interpolation=cv2.INTER_AREA))
            noise = cv2.GaussianBlur(np.asarray(rng.normal(0, NOISE, small.shape), np.float32), (0, 0), 3)
            # Brighter, so that of a crack, too, something reaches one half.
            cam = np.asarray(np.clip(3 * cv2.GaussianBlur(small, (0, 0), 1) + noise, 0, 1), dtype=np.float32)
            trimap = trimap_from_mask(coarse_mask(cam, 0.5, TrimapConfig()), TrimapConfig())
            subjects.append(Subject(frame.image, trimap, cam))
        refine(keep, subjects, side)
    return torch.from_numpy(np.stack([network_input(crop.image, crop.trimap, crop.cam) for crop in crops]))


def _as_batch(images: Sequence[Any]) -> Tensor:
    """Images of shape (H, W, 3), uint8, as floats in [0, 1] of shape (B, 3, H, W)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def agreement(expected: ClassifierOutput | Tensor, found: ClassifierOutput | Tensor) -> float:
    """How far two outputs for the same probes agree: of the refiner its masks, of a classifier also who is present.

    Returns:
        The least IoU, over classes, of masks over all probes; small ones count as if they were SMALL of the probes. A
        class whose probability passes one half by no more than NEAR counts on either side.
    """
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        return _iou(expected.float() >= 0.5, found.float() >= 0.5)
    assert not isinstance(found, Tensor)
    one, other = expected.score_maps.float() >= 0, found.score_maps.float() >= 0  # (B, C, h, w)
    ious = [_iou(mask, same) for mask, same in zip(one.unbind(dim=1), other.unbind(dim=1), strict=True)]
    likely, seen = expected.logits.float().sigmoid(), found.logits.float().sigmoid()
    seen = torch.where((likely - seen).abs() <= NEAR, likely, seen)
    return min([*ious, _iou(likely >= 0.5, seen >= 0.5)])


def _iou(one: Tensor, other: Tensor) -> float:
    """IoU of masks of any shape."""
    differing, union = int((one != other).sum()), int((one | other).sum())
    return 1 - differing / max(union, SMALL * one.numel())
