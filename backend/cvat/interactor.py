"""What premask draws for an annotator's prompt, in the terms that both of CVAT's interfaces to interactors share."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from backend.cvat.model import Model
from models.data.decoding import RgbImage
from models.prompt import Click, Prompt

if TYPE_CHECKING:
    from models.pipeline import Embedding

Point = Sequence[float]  # x, y in pixels from the image's corner


class Interactor:
    """Draws the object that clicks and a box mean.

    CVAT gives an interactor no label: annotators choose it in the editor, and it stays there. So the class is the one
    whose map speaks loudest at the prompt, unless one is set.

    Args:
        model: the model.
        label: the class of every prompt; empty to let the prompt decide.

    Raises:
        ValueError: the model has no such class.
    """

    def __init__(self, model: Model, label: str = "") -> None:
        if label and label not in model.classes:
            raise ValueError(f"label should be one of the model's classes, {', '.join(model.classes)}, got {label!r}")
        self._model = model
        self._label = label

    def embed(self, image: RgbImage) -> "Embedding":
        """What the classifier makes of an image; keep it, and every prompt on the image costs the refiner alone."""
        embedding: Embedding = self._model.pipeline.embed(image)
        return embedding

    def draw(
        self, embedding: "Embedding", positive: Sequence[Point], negative: Sequence[Point], box: Sequence[Point] | None
    ) -> NDArray[np.bool_]:
        """The object's mask, shape (H, W); empty if there is neither a positive click nor a box, or nothing is left.

        Args:
            embedding: of the image.
            positive: clicks on the object.
            negative: clicks on what does not belong to it.
            box: two opposite corners around it.
        """
        from models.interactive import answer
        from models.prompted_class import likeliest_class

        shape = embedding.image.shape[:2]
        if not positive and not box:
            return np.zeros(shape, dtype=bool)
        clicks = [Click(x, y) for x, y in positive] + [Click(x, y, positive=False) for x, y in negative]
        prompt = Prompt(tuple(clicks), (_filled(box, shape),) if box else ())
        label = self._label or likeliest_class(self._model.pipeline, embedding, prompt)
        return answer(self._model.pipeline, embedding, label, prompt).mask


def _filled(box: Sequence[Point], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A box as a mask, at least one pixel large."""
    (x0, x1), (y0, y1) = (sorted(corner) for corner in zip(*box, strict=True))
    left, top = (min(max(math.floor(value), 0), size - 1) for value, size in ((x0, shape[1]), (y0, shape[0])))
    mask = np.zeros(shape, dtype=bool)
    mask[top : max(math.ceil(y1), top + 1), left : max(math.ceil(x1), left + 1)] = True
    return mask
