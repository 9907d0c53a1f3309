"""Promotion of a new model: it must not be worse than the one before it on held-out images."""

import math
from collections.abc import Sequence

import numpy as np

from models.evaluation.evaluate import FrameFigures

AS_DRAWN = 0.99  # IoU from which a mask counts as accepted the way the earlier model drew it
MIN_UNCHANGED = 0.75  # mean IoU with masks accepted as drawn, below which a new model has forgotten them


def verdict(new: Sequence[FrameFigures], before: Sequence[FrameFigures] | None, tolerance: float) -> tuple[bool, str]:
    """Compare two models, image by image.

    An image that was accepted exactly as the earlier model drew it cannot tell which model is better: its truth is that
    model's own answer, on which no other can score as high. Such images only have to stay about as they are; the images
    that were corrected decide.

    Args:
        new: of the new model, on the held-out images.
        before: of the earlier model on the same images in the same order, None if there is none.
        tolerance: by how much mean IoU (presence accuracy where no masks are held out) may fall; wider below 20 images,
            where more of a difference is chance.

    Returns:
        Whether to promote the new model, and why, for people.
    """
    if before is None:
        return True, "there is no earlier model of these classes to compare with"
    if not new:
        return False, "no image is held out, so nothing tells whether it is better than the model before"
    as_drawn = [_as_drawn(frame) for frame in before]
    corrected = [index for index, unchanged in enumerate(as_drawn) if not unchanged]
    accepted = [index for index, unchanged in enumerate(as_drawn) if unchanged]
    promote, reasons = True, []
    if corrected:
        old = np.mean([before[i].quality for i in corrected])
        now = np.mean([new[i].quality for i in corrected])
        promote = bool(now >= old - tolerance * max(1.0, math.sqrt(20 / len(corrected))))
        reasons.append(f"on {_images(len(corrected))} {now:.3f}, before {old:.3f}")
    if accepted:
        now = np.mean([new[i].quality for i in accepted])
        promote = promote and bool(now >= MIN_UNCHANGED)
        reasons.append(f"on {_images(len(accepted))} accepted as the model before drew them {now:.3f}")
    return promote, "mean IoU " + "; ".join(reasons)


def _as_drawn(frame: FrameFigures) -> bool:
    decided = all(d.predicted == d.present for d in frame.decisions.values())
    return decided and bool(frame.agreements) and min(a.iou for a in frame.agreements.values()) >= AS_DRAWN


def _images(count: int) -> str:
    return "1 held-out image" if count == 1 else f"{count} held-out images"
