"""What premask finds on an image, in the terms that all of CVAT's interfaces to detectors share."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.serving import load_on
from models.checkpoint import read_card
from models.segment import Segment
from models.starter import STARTER

# What a detector draws -> the type that its labels have in CVAT.
LABEL_TYPES = {"masks": "mask", "tags": "tag", "both": "any"}


class Detector:
    """A checkpoint whose classes are known at once, and whose weights are loaded when the first image comes.

    Args:
        model: checkpoint folder; empty for the starter weights.
        device: cpu, cuda, or auto for a GPU if there is one.
        draws: "masks" of the classes, image-level "tags" of the classes present, or "both".

    Raises:
        CheckpointError: there is no checkpoint at `model`.
        ValueError: `draws` is none of these.
    """

    def __init__(self, model: str | Path = "", device: str = "auto", draws: str = "masks") -> None:
        if draws not in LABEL_TYPES:
            raise ValueError(f"draws should be one of {', '.join(LABEL_TYPES)}, got {draws!r}")
        self._directory = Path(model or STARTER)
        self._device = device
        self._draws = draws
        self.classes: tuple[str, ...] = tuple(read_card(self._directory).classes)

    @property
    def labels(self) -> list[dict[str, Any]]:
        """The labels that a CVAT project needs for this model, as its label constructor and cvat-cli take them."""
        return [{"name": name, "type": LABEL_TYPES[self._draws]} for name in self.classes]

    def load(self) -> None:
        """Load the weights now, not with the first image."""
        _ = self._pipeline

    @cached_property
    def _pipeline(self) -> Any:
        return load_on(self._device)(self._directory)

    def find(
        self, image: NDArray[np.uint8], least: float | None = None
    ) -> tuple[Sequence[Segment], Sequence[tuple[str, float]]]:
        """What is on an image.

        Args:
            image: shape (H, W, 3), uint8, RGB.
            least: confidence in [0, 1] that a segment or tag must have; None leaves it to the model's own thresholds.

        Returns:
            Segments with masks that are not empty, and tags: a class and the probability that it is there.
        """
        (prediction,) = self._pipeline.predict([image])
        segments, tags = [], []
        if self._draws in ("masks", "both"):
            segments = [s for s in prediction.segments if s.score >= (least or 0.0) and s.mask.any()]
        if self._draws in ("tags", "both"):
            own = self._pipeline.config.presence_threshold
            tags = [
                (c, p) for c, p in prediction.presence.items() if p >= (own.get(c, 0.5) if least is None else least)
            ]
        return segments, tags
