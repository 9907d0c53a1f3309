"""From trimaps to masks: crop the region around each object, have a matting solve all crops, write alpha back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.fba_net import FBANetOutput, network_input
from models.masks.components import connected_components
from models.trimap import BACKGROUND, FOREGROUND, SIZE, UNKNOWN

MARGIN = 0.15  # of the object's box, on every side: FBANet wants to see some sure background
MAX_OBJECTS = 16  # per class and frame; smaller ones keep their coarse mask


@dataclass(frozen=True)
class Box:
    """A square in image pixels; may reach over the image's edge.

    Attributes:
        x, y: the top left corner.
        side: width and height, at least 1.
    """

    x: int
    y: int
    side: int


@dataclass(frozen=True, eq=False)
class Subject:
    """One class on one frame, as the refiner needs it.

    Attributes:
        image: shape (H, W, 3), uint8 RGB.
        trimap: shape (1024, 1024), uint8.
        cam: shape (h, w), floats in [0, 1], scaled so that 0.5 is the coarse mask's edge (`centre_map`).
        refined: False keeps the map in the unknown zone.
    """

    image: NDArray[np.uint8]
    trimap: NDArray[np.uint8]
    cam: NDArray[np.float32]
    refined: bool = True


@dataclass(frozen=True, eq=False)
class Crop:
    """The region around one object, scaled to S x S.

    Attributes:
        image: shape (S, S, 3), uint8 RGB.
        trimap: shape (S, S), uint8.
        cam: shape (S, S), floats in [0, 1], as in `Subject`.
    """

    image: NDArray[np.uint8]
    trimap: NDArray[np.uint8]
    cam: NDArray[np.float32]


Matting = Callable[[Sequence[Crop]], Sequence[NDArray[np.float32]]]  # crops -> alpha of each, (S, S) in [0, 1]


def fba_matting(network: Callable[[Tensor], FBANetOutput], device: torch.device) -> Matting:
    """FBANet as a matting, in evaluation mode on `device` or as `models.runtime` computes it."""

    def matting(crops: Sequence[Crop]) -> list[NDArray[np.float32]]:
        inputs = np.stack([network_input(crop.image, crop.trimap, crop.cam) for crop in crops])
        with torch.inference_mode():
            return list(network(torch.from_numpy(inputs).to(device)).alpha.float().cpu().numpy())

    return matting


def centre_map(cam: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Bend a map so that `threshold` becomes 0.5: p in logits, minus the threshold's logit.

    >>> centre_map(np.array([[0.0, 0.2, 0.5]], np.float32), threshold=0.2).round(1)
    array([[0. , 0.5, 0.8]], dtype=float32)
    """
    clipped = np.clip(cam, 1e-4, 1 - 1e-4)
    logits = np.log(clipped / (1 - clipped)) - np.log(threshold / (1 - threshold))
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)


def object_boxes(trimap: NDArray[np.uint8], height: int, width: int) -> list[Box]:
    """Squares around the connected regions that are not surely background, the largest first.

    Args:
        trimap: shape (1024, 1024), uint8.
        height, width: of the image, in pixels; the boxes are in these.
    """
    _, objects = connected_components(trimap != BACKGROUND)
    boxes = []
    for _, x, y, w, h, _ in sorted(objects, key=lambda found: -found.area)[:MAX_OBJECTS]:
        left, right = x * width / SIZE, (x + w) * width / SIZE
        top, bottom = y * height / SIZE, (y + h) * height / SIZE
        side = max(right - left, bottom - top) * (1 + 2 * MARGIN)
        side = max(int(np.ceil(side)), 8)
        boxes.append(Box(round((left + right - side) / 2), round((top + bottom - side) / 2), side))
    return boxes


def cut(plane: NDArray[np.generic], box: Box, size: int, interpolation: int) -> NDArray[np.generic]:
    """The part of an image or map of shape (H, W[, C]) inside `box`, scaled to (size, size[, C]); edges repeat."""
    height, width = plane.shape[:2]
    x0, y0, x1, y1 = max(box.x, 0), max(box.y, 0), min(box.x + box.side, width), min(box.y + box.side, height)
    part = cv2.copyMakeBorder(
        np.ascontiguousarray(plane[y0:y1, x0:x1]),
        y0 - box.y, box.y + box.side - y1, x0 - box.x, box.x + box.side - x1,
        cv2.BORDER_REPLICATE,
    )  # fmt: skip
    if interpolation == cv2.INTER_AREA and box.side < size:
        interpolation = cv2.INTER_LINEAR  # INTER_AREA enlarges in blocks
    return np.asarray(cv2.resize(part, (size, size), interpolation=interpolation))


def refine(matting: Matting, subjects: Sequence[Subject], size: int) -> list[NDArray[np.float32]]:
    """Alpha of each subject, in its image's own size.

    The cost is that of the objects' crops, `size` x `size` each, and does not grow with the images.

    Args:
        matting: solves the crops.
        subjects: classes and frames in any mix; all their objects are solved together.
        size: side of a crop, in pixels.

    Returns:
        For each subject alpha of shape (H, W), floats in [0, 1]; the coarse mask outside the refined objects.
        A trimap without an unknown zone comes back as it is.
    """
    alphas, places, crops = [], [], []
    for index, subject in enumerate(subjects):
        height, width = subject.image.shape[:2]
        trimap = np.asarray(
            cv2.resize(subject.trimap, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8
        )
        cam = np.asarray(cv2.resize(subject.cam, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
        alphas.append(np.where(trimap == UNKNOWN, cam, trimap == FOREGROUND).astype(np.float32))
        for box in object_boxes(subject.trimap, height, width) if subject.refined else ():
            crop = cut_crop(subject.image, trimap, cam, box, size)
            if (crop.trimap == UNKNOWN).any():
                places.append((index, box, trimap))
                crops.append(crop)
    # In slices, so that a frame full of objects does not fill the memory.
    for start in range(0, len(crops), 16):
        solved = matting(crops[start : start + 16])
        for (index, box, trimap), alpha in zip(places[start : start + 16], solved, strict=True):
            _paste(alphas[index], trimap, box, alpha)
    return alphas


def cut_crop(
    image: NDArray[np.uint8], trimap: NDArray[np.uint8], cam: NDArray[np.float32], box: Box, size: int
) -> Crop:
    """The part inside `box` of an image of shape (H, W, 3) and its trimap and map of shape (H, W), scaled."""
    return Crop(
        np.asarray(cut(image, box, size, cv2.INTER_AREA), dtype=np.uint8),
        np.asarray(cut(trimap, box, size, cv2.INTER_NEAREST), dtype=np.uint8),
        np.asarray(cut(cam, box, size, cv2.INTER_LINEAR), dtype=np.float32),
    )


def _paste(alpha: NDArray[np.float32], trimap: NDArray[np.uint8], box: Box, crop: NDArray[np.float32]) -> None:
    """Write a crop's alpha over the unknown pixels of its box."""
    height, width = alpha.shape
    x0, y0, x1, y1 = max(box.x, 0), max(box.y, 0), min(box.x + box.side, width), min(box.y + box.side, height)
    scaled = cv2.resize(crop, (box.side, box.side), interpolation=cv2.INTER_LINEAR)
    part = scaled[y0 - box.y : y1 - box.y, x0 - box.x : x1 - box.x]
    unknown = trimap[y0:y1, x0:x1] == UNKNOWN
    alpha[y0:y1, x0:x1][unknown] = part[unknown]
