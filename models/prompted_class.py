"""The class that a prompt is about, where its tool does not name one."""

from typing import TYPE_CHECKING

import cv2
import numpy as np

from models.interactive import Logits, class_logits
from models.prompt import Mask, Prompt

if TYPE_CHECKING:
    from models.pipeline import Embedding, Pipeline

RIM = 0.1  # width of the surroundings that a box is compared with, as a fraction of the box's longer side


def likeliest_class(pipeline: "Pipeline", embedding: "Embedding", prompt: Prompt) -> str:
    """The class whose map scores highest at a prompt.

    A click counts with the map's logit under it, one on what does not belong with its negative, and a box with how far
    the logits inside stand above those just outside.

    Args:
        pipeline: whose classes to choose from; `embedding` must be its own.
        embedding: the frame.
        prompt: at least one click or box; clicks in pixels of the frame, boxes of its size.
    """

    def score(label: str) -> float:
        logits = class_logits(pipeline, embedding, label)
        clicks = [_at(logits, embedding, click.x, click.y) * (1 if click.positive else -1) for click in prompt.clicks]
        return float(np.mean(clicks + [_contrast(logits, box) for box in prompt.boxes]))

    return max(pipeline.classes, key=score)


def _at(logits: Logits, embedding: "Embedding", x: float, y: float) -> float:
    """The logit at a pixel of the frame."""
    height, width = logits.shape
    image_height, image_width = embedding.image.shape[:2]
    row, column = int(y * height / image_height), int(x * width / image_width)
    return float(logits[min(max(row, 0), height - 1), min(max(column, 0), width - 1)])


def _contrast(logits: Logits, box: Mask) -> float:
    """Mean logit inside a box less that around it; of a box that leaves nothing around it, that inside."""
    height, width = logits.shape
    inside = cv2.resize(box.astype(np.uint8), (width, height), interpolation=cv2.INTER_AREA)
    if not inside.any():  # smaller than a pixel of the map
        inside = cv2.resize(box.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA).round().astype("u1")
    rim = 2 * max(round(RIM * max(cv2.boundingRect(inside)[2:])), 1) + 1
    around = (cv2.dilate(inside, np.ones((rim, rim), np.uint8)) > 0) & (inside == 0)
    return float(logits[inside > 0].mean() - (logits[around].mean() if around.any() else 0.0))
