"""A simulated annotator: how many brush strokes lie between a mask and the truth.

The robot user of interactive segmentation (Nickisch et al. 2010, "Learning an interactive segmentation system"), which
always works on the largest error. A stroke is one round brush mark; the next one starts from the corrected mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import largest_component
from models.masks.metrics import Mask, iou

TARGETS = (0.90, 0.967)  # NoC@90 of the literature, and what the paper's experts reached by correcting
LIMIT = 100  # strokes after which the annotator gives up


@dataclass(frozen=True, eq=False)
class Correction:
    """The course of correcting a mask.

    Attributes:
        strokes: for each target the strokes until the IoU reached it; None if the annotator gave up before.
        ious: of the mask after 0, 1, 2 ... strokes.
        mask: after the last stroke, shape (H, W), bool.
    """

    strokes: dict[float, int | None]
    ious: list[float]
    mask: Mask


def correct(mask: Mask, truth: Mask, targets: Sequence[float] = TARGETS, limit: int = LIMIT) -> Correction:
    """Correct a mask stroke by stroke until its IoU has reached every target.

    Args:
        mask: where to begin, shape (H, W), bool; empty for drawing from nothing.
        truth: what it should be, of the same shape.
        targets: IoUs to reach, in (0, 1].
        limit: strokes after which to give up.
    """
    corrected = mask.copy()
    # A brush of this radius around a pixel does no harm: it ends where the truth changes.
    room = np.where(truth, _distance(truth), _distance(~truth))
    # Outside of this box there is nothing to mend, so only what lies in it is looked at.
    x, y, width, height = cv2.boundingRect((mask | truth).astype(np.uint8))
    box = slice(y, y + height), slice(x, x + width)
    part, true, room = corrected[box], truth[box], room[box]
    ious = [iou(part, true)]
    while ious[-1] < max(targets) and len(ious) <= limit:
        _stroke(part, true, room)
        ious.append(iou(part, true))
    strokes = {target: next((n for n, value in enumerate(ious) if value >= target), None) for target in targets}
    return Correction(strokes, ious, corrected)


def _stroke(mask: Mask, truth: Mask, room: NDArray[np.float32]) -> None:
    """Paint or erase one disc in the largest error component (4-connected, missing and surplus pixels apart), in place.

    The brush is the largest that does no harm: its centre is the pixel of the component furthest from pixels that it
    must not touch (background when painting, object when erasing), its radius that distance.
    """
    component = max((largest_component(error) for error in (truth & ~mask, mask & ~truth)), key=np.count_nonzero)
    height, width = room.shape
    y, x = divmod(int(np.where(component, room, 0).argmax()), width)
    # Compared as squares, which are whole numbers: no rounding lets the disc touch what it must not.
    disc = (np.arange(height)[:, None] - y) ** 2 + (np.arange(width) - x) ** 2 < round(float(room[y, x]) ** 2)
    mask[disc] = truth[y, x]


def _distance(mask: Mask) -> NDArray[np.float32]:
    """Distance of each pixel of the mask from the nearest outside it; larger than the frame reaches if none is."""
    if mask.all():
        return np.full(mask.shape, float(np.linalg.norm(mask.shape)), dtype=np.float32)
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
