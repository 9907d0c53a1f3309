"""A model's prediction for one image."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.trimap import UNKNOWN


@dataclass(frozen=True, eq=False)
class Segment:
    """One class found on one image.

    Attributes:
        label: the class.
        score: confidence in [0, 1] that the class is on the image and the mask is right.
        mask: shape (H, W), bool, in the image's own size.
        uncertainty: of its outline, in bits: the mean entropy of alpha over the trimap's unknown zone.
    """

    label: str
    score: float
    mask: NDArray[np.bool_]
    uncertainty: float = 0.0


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything that a model says about one image.

    Attributes:
        presence: probability in [0, 1] of each class being on the image.
        segments: one per class judged present whose mask is not empty, in the order of the model's classes.
        present: the classes judged present: their presence is at or above the model's threshold. The one decision for
            regions, choices and tags.
        sure: probability that what is said of a class needs no correction (see `models.confidence`); of a class that is
            not in it, the segment's score, or 1 - p where there is none.
    """

    presence: dict[str, float]
    segments: list[Segment] = field(default_factory=list)
    present: frozenset[str] = frozenset()
    sure: Mapping[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """Probability that nothing needs a correction."""
        return self.confidence([*self.presence, *(segment.label for segment in self.segments)])

    def confidence(self, drawn: Collection[str], named: Collection[str] = ()) -> float:
        """Probability that nothing that is said of some classes needs a correction, in [0, 1].

        Sorting by it in ascending order serves the images first that need most work: those drawn badly, and those
        without a mask where there may well be one. It is the product over the classes, as if they were independent.

        Args:
            drawn: classes that are drawn where they are present.
            named: classes of which only presence is told; one counts with the probability that it is told rightly.
        """
        sure = {label: 1 - p for label, p in self.presence.items()}
        sure |= {segment.label: segment.score for segment in self.segments}
        sure |= self.sure
        told = [
            p if label in self.present else 1 - p
            for label, p in self.presence.items()
            if label in named and label not in drawn
        ]
        known = [sure[label] for label in dict.fromkeys(drawn) if label in sure] + told
        return math.prod(known) if known else 0.0


def entropy(probability: ArrayLike) -> NDArray[np.float64]:
    """Shannon's entropy of yes-or-no questions, in bits: 0 where the answer is sure, 1 at 0.5.

    Args:
        probability: of yes, any shape, in [0, 1]; NaN is no answer at all.
    """
    p = np.clip(np.nan_to_num(np.asarray(probability, dtype=np.float64), nan=0.5), 1e-12, 1 - 1e-12)
    return np.asarray(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def sharpness(alpha: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """How decided alpha is inside a mask: the mean of |2 alpha - 1|, in [0, 1]; 0 for an empty mask. Both (H, W)."""
    box = _box(mask.view(np.uint8))
    inside = alpha[box][mask[box]]
    return float(np.abs(2 * inside - 1).mean()) if len(inside) else 0.0


def outline_uncertainty(alpha: NDArray[np.float32], trimap: NDArray[np.uint8]) -> float:
    """Mean entropy in bits of alpha, shape (H, W) in [0, 1], over the unknown zone of a trimap of any size."""
    height, width = alpha.shape
    zones = np.asarray(cv2.resize(trimap, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    box = _box(zones)
    unknown = alpha[box][zones[box] == UNKNOWN]
    return float(entropy(unknown).mean()) if len(unknown) else 0.0


def _box(plane: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of all that is not 0 in a plane of shape (H, W)."""
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(plane))
    return slice(top, top + height), slice(left, left + width)
