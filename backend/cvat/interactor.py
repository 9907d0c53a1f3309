"""From CVAT's clicks and boxes to a model's prompt and mask, for both of CVAT's interfaces to interactors."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from backend.cvat.model import Checkpoint
from models.data.decoding import RgbImage
from models.families import Embedding
from models.prompt import Click, Prompt

Point = Sequence[float]  # x, y in pixels from the image's corner


class Interactor:
    """Draws the object that clicks and a box mean.

    CVAT gives an interactor no label: annotators choose it in the editor, and it stays there. So the model chooses the
    class, unless one is set.

    Args:
        checkpoint: its model draws.
        label: the class of every prompt; empty to let the prompt decide.

    Raises:
        ValueError: the model has no such class.
    """

    def __init__(self, checkpoint: Checkpoint, label: str = "") -> None:
        if label and label not in checkpoint.classes:
            known = ", ".join(checkpoint.classes)
            raise ValueError(f"label should be one of the model's classes, {known}, got {label!r}")
        self._checkpoint = checkpoint
        self._label = label or None

    def embed(self, image: RgbImage) -> Embedding:
        """The embedding of an image; keep it, so that further prompts on the image are quick."""
        return self._checkpoint.model.embed(image)

    def draw(
        self, embedding: Embedding, positive: Sequence[Point], negative: Sequence[Point], box: Sequence[Point] | None
    ) -> NDArray[np.bool_]:
        """The object's mask, shape (H, W); empty if there is neither a positive click nor a box, or nothing is left.

        Args:
            embedding: of the image.
            positive: clicks on the object.
            negative: clicks on what does not belong to it.
            box: two opposite corners around it.
        """
        shape = embedding.shape
        if not positive and not box:
            return np.zeros(shape, dtype=bool)
        clicks = [Click(x, y) for x, y in positive] + [Click(x, y, positive=False) for x, y in negative]
        prompt = Prompt(tuple(clicks), (_filled(box, shape),) if box else ())
        return self._checkpoint.model.prompt(embedding, prompt, self._label).mask


def _filled(box: Sequence[Point], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A box as a mask, at least one pixel large."""
    (x0, x1), (y0, y1) = (sorted(corner) for corner in zip(*box, strict=True))
    left, top = (min(max(math.floor(value), 0), size - 1) for value, size in ((x0, shape[1]), (y0, shape[0])))
    mask = np.zeros(shape, dtype=bool)
    mask[top : max(math.ceil(y1), top + 1), left : max(math.ceil(x1), left + 1)] = True
    return mask
