"""GrabCut (Rother et al. 2004) behind the interface of a model: what clicks and boxes do without any network."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import connected_components
from models.prompt import Answer, Mask, Prompt
from models.segment import Prediction

SIZE = 512  # longer side of the image that is cut, at most, in pixels
ROUNDS = 5
SURE, PROBABLE = 0.01, 0.06  # radii around a click, of the longer side


@dataclass(frozen=True, eq=False)
class Scaled:
    """An image no larger than GrabCut is tried on.

    Attributes:
        image: shape (h, w, 3), uint8.
        shape: height and width of the original.
    """

    image: NDArray[np.uint8]
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""
        return self.image.nbytes


class GrabCut:
    """OpenCV's GrabCut, object by object.

    A box is what may be the object, and all outside is not. A click says that a disc around it is the object, or is
    not; without a box a wider disc around a click on the object is probably the object, and the rest probably not.
    """

    name = "grabcut"
    classes: tuple[str, ...] = ()

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Nothing: it draws only what it is asked for."""
        return [Prediction({}) for _ in images]

    def embed(self, image: NDArray[np.uint8]) -> Scaled:
        """Scale the image."""
        height, width = image.shape[:2]
        scale = min(SIZE / max(height, width), 1.0)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return Scaled(np.asarray(small, dtype=np.uint8), (height, width))

    def prompt(
        self, embedding: Scaled, prompt: Prompt, label: str | None = None, existing: Sequence[Mask] = ()
    ) -> Answer:
        """Draw the object that clicks and boxes mean; arguments as in `Model.prompt`."""
        height, width = embedding.image.shape[:2]
        scale = width / embedding.shape[1]
        long = max(height, width)
        marks = np.full((height, width), cv2.GC_PR_BGD, dtype=np.uint8)
        for box in prompt.boxes:
            inside = cv2.resize(box.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
            marks = np.where(inside, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        places = [((int(c.x * scale), int(c.y * scale)), c.positive) for c in prompt.clicks]
        if not prompt.boxes:
            for place, positive in places:
                if positive:
                    cv2.circle(marks, place, max(round(PROBABLE * long), 2), cv2.GC_PR_FGD, cv2.FILLED)
        for place, positive in places:
            cv2.circle(marks, place, max(round(SURE * long), 1), cv2.GC_FGD if positive else cv2.GC_BGD, cv2.FILLED)
        found = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
        if found.any() and not found.all():
            # Its random starts are OpenCV's own, so the seed is too.
            cv2.setRNGSeed(0)
            models = np.zeros((1, 65)), np.zeros((1, 65))
            cv2.grabCut(embedding.image, marks, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
            found = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
        labels, _ = connected_components(found)
        wanted = {int(labels[min(y, height - 1), min(x, width - 1)]) for (x, y), positive in places if positive} - {0}
        if wanted:
            found = np.isin(labels, list(wanted))
        full = cv2.resize(found.astype(np.uint8), embedding.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0
        return Answer(label or "", full, 1.0)
