"""Acceptance statistics: masks of predictions against the masks that annotators accepted in their place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.controls.region import Mask


@dataclass
class AcceptanceStatistics:
    """Masks of one class that one model version predicted, against the masks that were accepted in their place.

    Attributes:
        drawn: predicted masks, on tasks that were accepted.
        iou: mean intersection over union of those with the accepted masks, 0 for one that was deleted.
        unchanged: how many were accepted pixel for pixel.
        added: accepted masks on tasks where none was predicted.
    """

    drawn: int = 0
    iou: float = 0.0
    unchanged: int = 0
    added: int = 0

    def count(self, drawn: Mask | None, accepted: Mask | None) -> None:
        """Add a task: the predicted and the accepted mask of the class, of the same shape; None for no mask."""
        if drawn is None:
            self.added += accepted is not None
            return
        iou = 0.0 if accepted is None else float((drawn & accepted).sum() / (drawn | accepted).sum())
        self.iou = (self.iou * self.drawn + iou) / (self.drawn + 1)
        self.drawn += 1
        self.unchanged += iou == 1.0


# Model version -> class -> its statistics.
AcceptanceByVersion = dict[str, dict[str, AcceptanceStatistics]]


def parent_prediction(
    annotation: Mapping[str, Any], fetch: Callable[[int], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The prediction that an annotation started from; None if there was none, or if it has been deleted since.

    Args:
        annotation: as in the export.
        fetch: gets a prediction by its id.
    """
    parent = annotation.get("parent_prediction")
    if not isinstance(parent, int):
        return None
    try:
        return fetch(parent)
    except LabelStudioError:
        return None  # a training does not fail because one comparison is missing


def acceptance_sentence(version: str, classes: Mapping[str, AcceptanceStatistics]) -> str:
    """The statistics of one version over all classes, in a sentence."""
    drawn = sum(one.drawn for one in classes.values())
    unchanged = sum(one.unchanged for one in classes.values())
    iou = sum(one.iou * one.drawn for one in classes.values()) / max(drawn, 1)
    return (
        f"Of {drawn} masks predicted by {version}, {unchanged} were accepted unchanged; "
        f"mean IoU with the accepted masks {iou:.3f}"
    )
