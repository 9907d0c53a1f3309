"""Masks and tags of an image, in the terms that all of CVAT's interfaces to detectors share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.cvat.model import Checkpoint
from models.segment import Segment

# The results that a detector draws -> the type that its labels have in CVAT.
LABEL_TYPES = {"masks": "mask", "tags": "tag", "both": "any"}


class Detector:
    """Finds a model's classes on images.

    Args:
        checkpoint: its model finds them.
        draws: "masks" of the classes, image-level "tags" of the classes present, or "both".

    Raises:
        ValueError: `draws` is none of these.
    """

    def __init__(self, checkpoint: Checkpoint, draws: str = "masks") -> None:
        if draws not in LABEL_TYPES:
            raise ValueError(f"draws should be one of {', '.join(LABEL_TYPES)}, got {draws!r}")
        self._checkpoint = checkpoint
        self._draws = draws

    @property
    def labels(self) -> list[dict[str, Any]]:
        """The labels that a CVAT project needs for this model, as its label constructor and cvat-cli take them."""
        return [{"name": name, "type": LABEL_TYPES[self._draws]} for name in self._checkpoint.classes]

    def find(
        self, image: NDArray[np.uint8], least: float = 0.0
    ) -> tuple[Sequence[Segment], Sequence[tuple[str, float]]]:
        """Segments and tags of an image.

        Args:
            image: shape (H, W, 3), uint8, RGB.
            least: confidence in [0, 1] that a segment or tag must have, of those that the model judges present.

        Returns:
            Segments with masks that are not empty, and tags: a class and the probability that it is on the image.
        """
        (prediction,) = self._checkpoint.model.predict([image])
        segments, tags = [], []
        if self._draws in ("masks", "both"):
            segments = [s for s in prediction.segments if s.score >= least and s.mask.any()]
        if self._draws in ("tags", "both"):
            tags = [(c, p) for c, p in prediction.presence.items() if c in prediction.present and p >= least]
        return segments, tags
