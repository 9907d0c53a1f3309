"""What the pipeline says about one image."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Segment:
    """One class found on one image.

    Attributes:
        label: the class.
        score: confidence in [0, 1] that the class is on the image and the mask is right.
        mask: shape (H, W), bool, in the image's own size.
    """

    label: str
    score: float
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything the pipeline says about one image.

    Attributes:
        presence: probability in [0, 1] of each class being on the image.
        segments: one per class judged present whose mask is not empty, in the order of the model's classes.
    """

    presence: dict[str, float]
    segments: list[Segment] = field(default_factory=list)

    @property
    def score(self) -> float:
        """Confidence in the whole prediction, in [0, 1]: that of its least certain class.

        A class counts with how far its presence is decided, max(p, 1 - p), or with its segment's score, so that
        sorting by ascending score serves the images the model knows least about first.
        """
        decided = {label: max(p, 1 - p) for label, p in self.presence.items()}
        decided |= {segment.label: segment.score for segment in self.segments}
        return min(decided.values(), default=0.0)
