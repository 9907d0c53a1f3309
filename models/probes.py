"""Synthetic input for a pipeline's networks, and how far the masks of two outputs agree."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.config import STRIDE
from models.refiner import Crop, Subject, network_input, refine
from models.seen import Output, floats, sigmoid
from models.trimap import TrimapConfig, coarse_mask, trimap_from_mask
from models.wall import STRIP_MARGIN, find_wall, unroll

PROBES = 4  # frames and strips on which runtimes are compared
FRAME = 512  # side of the synthetic frames that crops are cut from, in pixels
NOISE = 0.6  # of their maps, before it is blurred
NEAR = 0.05  # probability: presences that differ by no more are the same
SMALL = 0.01  # of a probe: smaller masks are compared as if they were that large, or a single cell would decide


def probes_of(size: int, side: int) -> dict[str, NDArray[np.float32]]:
    """Part -> its input: synthetic frames of shape (PROBES, 3, size, size), strips of them, and crops
    of `side`."""
    from models.phantom import render_phantom
    from models.phantom.truth import LUMEN

    frames, strips = list[NDArray[np.uint8]](), list[NDArray[np.uint8]]()
    for seed in range(PROBES):
        frame = render_phantom(seed, max(size, 64))
        frames.append(np.asarray(cv2.resize(frame.image, (size, size), interpolation=cv2.INTER_AREA), np.uint8))
        wall = find_wall(frame.masks[LUMEN] > 0)
        assert wall is not None  # of these seeds
        strips.append(unroll(frame.image, wall, STRIP_MARGIN))
    return {
        "classifier": floats(frames),
        "wall_reader": floats(strips),
        "refiner": object_crops(side, range(1)),
    }


def object_crops(side: int, seeds: Iterable[int]) -> NDArray[np.float32]:
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
    return np.stack([network_input(crop.image, crop.trimap, crop.cam) for crop in crops])


def agreement(expected: Output | NDArray[np.float32], found: Output | NDArray[np.float32]) -> float:
    """How far two outputs for the same probes agree: of the refiner its masks, of a classifier also who is present.

    Returns:
        The least IoU, over classes, of masks over all probes; small ones count as if they were SMALL of the probes. A
        class whose probability passes one half by no more than NEAR counts on either side.
    """
    if not isinstance(expected, Output):
        assert not isinstance(found, Output)
        return _iou(expected >= 0.5, found >= 0.5)
    assert isinstance(found, Output)
    one, other = expected.score_maps >= 0, found.score_maps >= 0  # (B, C, h, w)
    ious = [_iou(one[:, label], other[:, label]) for label in range(one.shape[1])]
    likely, seen = sigmoid(expected.logits), sigmoid(found.logits)
    seen = np.where(np.abs(likely - seen) <= NEAR, likely, seen)
    return min([*ious, _iou(likely >= 0.5, seen >= 0.5)])


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """IoU of masks of any shape."""
    differing, union = np.count_nonzero(one != other), np.count_nonzero(one | other)
    return 1 - float(differing) / max(float(union), SMALL * one.size)
