"""How much of the masks that were drawn beforehand annotators kept."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.controls.region import Mask


@dataclass
class AcceptanceStatistics:
    """Masks of one class that one model version drew, against what was accepted in their place.

    Attributes:
        drawn: masks drawn beforehand, on tasks that were accepted.
        iou: mean intersection over union of those with the accepted masks, 0 for one that was deleted.
        unchanged: how many were accepted pixel for pixel.
        added: accepted masks on tasks where none was drawn.
    """

    drawn: int = 0
    iou: float = 0.0
    unchanged: int = 0
    added: int = 0

    def count(self, drawn: Mask | None, accepted: Mask | None) -> None:
        """Take in a task: what was drawn and what was accepted of the class, of the same shape; None for nothing."""
        if drawn is None:
            self.added += accepted is not None
            return
        iou = 0.0 if accepted is None else float((drawn & accepted).sum() / (drawn | accepted).sum())
        self.iou = (self.iou * self.drawn + iou) / (self.drawn + 1)
        self.drawn += 1
        self.unchanged += iou == 1.0


# Model version -> class -> what was kept.
AcceptanceByVersion = dict[str, dict[str, AcceptanceStatistics]]


def drawn_before(annotation: Mapping[str, Any], fetch: Callable[[int], Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The prediction that an annotation began as; None if it began empty, or its prediction was deleted since.

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
        return None  # a figure less is no reason to give up a training


def kept_sentence(version: str, classes: Mapping[str, AcceptanceStatistics]) -> str:
    """What was kept of a version's masks, for people."""
    sums: Counter[str] = Counter()
    for kept in classes.values():
        sums.update(drawn=kept.drawn, unchanged=kept.unchanged)
    iou = sum(kept.iou * kept.drawn for kept in classes.values()) / max(sums["drawn"], 1)
    return (
        f"Of {sums['drawn']} masks drawn by {version}, {sums['unchanged']} were accepted unchanged; IoU kept {iou:.3f}"
    )
