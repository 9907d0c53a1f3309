"""From trimaps to masks: crop the region around each object, have a matting solve all crops, write alpha back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import connected_components, only_component
from models.stages import stage
from models.threads import spread
from models.trimap import BACKGROUND, FOREGROUND, UNKNOWN

# Of F,B,Alpha's reference code: widths of the distance encodings, as fractions of the crop.
DISTANCE_WIDTHS = (0.02, 0.08, 0.16)
CHANNELS = 3 + 2 + 2 * len(DISTANCE_WIDTHS) + 1
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
        trimap: shape (g, g), uint8, over the image.
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


def fba_matting(network: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Matting:
    """FBANet as a matting: its inputs of shape (B, 12, S, S) to alpha, shape (B, S, S), as `models.runtime` has it."""

    def matting(crops: Sequence[Crop]) -> list[NDArray[np.float32]]:
        return list(network(np.stack([network_input(crop.image, crop.trimap, crop.cam) for crop in crops])))

    return matting


def centre_map(cam: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Bend a map so that `threshold` becomes 0.5: p in logits, minus the threshold's logit.

    >>> centre_map(np.array([[0.0, 0.2, 0.5]], np.float32), threshold=0.2).round(1)
    array([[0. , 0.5, 0.8]], dtype=float32)
    """
    # sigmoid(logit(p) - logit(t)) without the logarithms: p (1 - t) / (p (1 - t) + (1 - p) t)
    p = np.clip(cam, np.float32(1e-4), np.float32(1 - 1e-4))
    within = p * np.float32(1 - threshold)
    return np.asarray(within / (within + (1 - p) * np.float32(threshold)), dtype=np.float32)


def object_boxes(trimap: NDArray[np.uint8], height: int, width: int) -> list[Box]:
    """Squares around the connected regions that are not surely background, the largest first.

    Args:
        trimap: shape (g, g), uint8, over the image.
        height, width: of the image, in pixels; the boxes are in these.
    """
    rows, columns = trimap.shape
    only = only_component(trimap)  # BACKGROUND is 0
    objects = connected_components(trimap)[1] if only is None else [only]
    boxes = []
    for _, x, y, w, h, _ in sorted(objects, key=lambda found: -found.area)[:MAX_OBJECTS]:
        left, right = x * width / columns, (x + w) * width / columns
        top, bottom = y * height / rows, (y + h) * height / rows
        side = max(right - left, bottom - top) * (1 + 2 * MARGIN)
        side = max(int(np.ceil(side)), 8)
        boxes.append(Box(round((left + right - side) / 2), round((top + bottom - side) / 2), side))
    return boxes


def cut(plane: NDArray[np.generic], box: Box, size: int, interpolation: int) -> NDArray[np.generic]:
    """The part of an image or map of shape (H, W[, C]) inside `box`, scaled to (size, size[, C]); edges repeat."""
    height, width = plane.shape[:2]
    x0, y0, x1, y1 = max(box.x, 0), max(box.y, 0), min(box.x + box.side, width), min(box.y + box.side, height)
    part: NDArray[Any] = plane[y0:y1, x0:x1]
    beyond = y0 - box.y, box.y + box.side - y1, x0 - box.x, box.x + box.side - x1
    if any(beyond):
        part = cv2.copyMakeBorder(part, *beyond, cv2.BORDER_REPLICATE)
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
    with stage("trimaps"):
        prepared = spread(lambda subject: _prepared(subject, size), subjects)
    alphas = [alpha for alpha, _, _ in prepared]
    places = [(alpha, trimap, box, crop) for alpha, trimap, cut_out in prepared for box, crop in cut_out]
    # In slices, so that a frame full of objects does not fill the memory.
    for start in range(0, len(places), 16):
        part = places[start : start + 16]
        with stage("refiner"):
            solved = matting([crop for *_, crop in part])
        with stage("components"):
            for (alpha, trimap, box, _), crop in zip(part, solved, strict=True):
                _paste(alpha, trimap, box, crop)
    return alphas


def _prepared(subject: Subject, size: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], list[tuple[Box, Crop]]]:
    """Alpha before matting and the trimap, both of the image's shape (H, W), and the crops that are to be solved."""
    height, width = subject.image.shape[:2]
    trimap = np.asarray(cv2.resize(subject.trimap, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    cam = np.asarray(cv2.resize(subject.cam, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    boxes = object_boxes(subject.trimap, height, width) if subject.refined else []
    crops = [(box, cut_crop(subject.image, trimap, cam, box, size)) for box in boxes]
    return _from_map(trimap, cam), trimap, [(box, crop) for box, crop in crops if (crop.trimap == UNKNOWN).any()]


def _from_map(trimap: NDArray[np.uint8], cam: NDArray[np.float32]) -> NDArray[np.float32]:
    """The map in the unknown zone, 1 in the sure foreground, 0 elsewhere; all of shape (H, W)."""
    alpha = np.zeros(trimap.shape, dtype=np.float32)
    left, top, width, height = cv2.boundingRect(trimap)  # BACKGROUND is 0
    box = slice(top, top + height), slice(left, left + width)
    alpha[box] = np.where(trimap[box] == UNKNOWN, cam[box], trimap[box] == FOREGROUND)
    return alpha


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
    np.copyto(alpha[y0:y1, x0:x1], part, where=trimap[y0:y1, x0:x1] == UNKNOWN)


def network_input(crop: NDArray[np.uint8], trimap: NDArray[np.uint8], cam: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stack the planes that FBANet reads.

    Args:
        crop: shape (S, S, 3), uint8 RGB.
        trimap: shape (S, S), uint8, BACKGROUND, UNKNOWN or FOREGROUND.
        cam: the class's activation map, shape (S, S), floats in [0, 1], 0.5 at the coarse mask's edge.

    Returns:
        Shape (12, S, S): RGB in about [-2, 2], sure background, sure foreground, three distance encodings
        exp(-d^2 / 2 sigma^2) of each, the map.
    """
    known = trimap == BACKGROUND, trimap == FOREGROUND
    planes = np.empty((CHANNELS, *trimap.shape), dtype=np.float32)
    planes[:3] = ((crop.astype(np.float32) / 255 - 0.45) / 0.25).transpose(2, 0, 1)
    planes[3], planes[4], planes[-1] = *known, cam
    sigmas = np.array(DISTANCE_WIDTHS, dtype=np.float32) * trimap.shape[0]
    encodings = planes[5:-1].reshape(len(known), len(sigmas), *trimap.shape)
    for plane, encoded in zip(known, encodings, strict=True):
        if not plane.any():
            encoded[:] = 0
            continue
        distance = cv2.distanceTransform((~plane).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # Squared distances are whole numbers; OpenCV's differ from run to run in the last bit.
        squared = -np.rint(distance**2)
        for sigma, out in zip(sigmas, encoded, strict=True):
            np.exp(squared / (2 * sigma**2), out=out)
    return planes
