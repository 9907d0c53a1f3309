"""Acceptance statistics: masks of predictions against the masks that annotators accepted in their place."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.controls.region import Mask
from backend.label_studio.status import NAME as STATUS
from backend.label_studio.status import is_status


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


# Model version (or annotator) -> class -> its statistics.
AcceptanceByVersion = dict[str, dict[str, AcceptanceStatistics]]


def count_classes(
    statistics: AcceptanceByVersion,
    of: str,
    drawn: Mapping[str, Mask],
    accepted: Mapping[str, Mask],
    known: Iterable[str],
) -> None:
    """Add an image to the statistics of a version or an annotator.

    Args:
        statistics: added to.
        of: the version or the annotator.
        drawn: predicted masks by class.
        accepted: masks accepted in their place.
        known: classes whose presence both state.
    """
    for label in known:
        classes = statistics.setdefault(of, {})
        classes.setdefault(label, AcceptanceStatistics()).count(drawn.get(label), accepted.get(label))


def annotator_of(annotation: Mapping[str, Any]) -> str:
    """Whoever made an annotation, for people: an address where Label Studio says one, else the user's number."""
    by = annotation.get("completed_by")
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    return "unknown" if by in (None, "") else str(by) if "@" in str(by) else f"user {by}"


def is_as_drawn(annotation: Mapping[str, Any]) -> bool:
    """Whether Label Studio itself says that every region is a prediction's, untouched.

    For predictions that have been deleted since. Who removed one of several regions is not seen by this.
    """
    regions = [
        region
        for region in annotation.get("result") or []
        if isinstance(region, Mapping) and region.get("from_name") != STATUS
    ]
    origins = {region.get("origin") for region in regions if "origin" in region}
    return annotation.get("parent_prediction") is not None and bool(regions) and origins == {"prediction"}


def parent_prediction(
    annotation: Mapping[str, Any], fetch: Callable[[int], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The prediction that an annotation started from; None if there was none, or if it has been deleted since.

    One that only says why there are no masks counts as none.

    Args:
        annotation: as in the export.
        fetch: gets a prediction by its id.
    """
    parent = annotation.get("parent_prediction")
    if not isinstance(parent, int):
        return None
    try:
        found = fetch(parent)
    except LabelStudioError:
        return None  # a training does not fail because one comparison is missing
    return None if is_status(found) else found


def acceptance_sentence(version: str, classes: Mapping[str, AcceptanceStatistics]) -> str:
    """The statistics of one version over all classes, in a sentence."""
    drawn = sum(one.drawn for one in classes.values())
    unchanged = sum(one.unchanged for one in classes.values())
    iou = sum(one.iou * one.drawn for one in classes.values()) / max(drawn, 1)
    return (
        f"Of {drawn} masks predicted by {version}, {unchanged} were accepted unchanged; "
        f"mean IoU with the accepted masks {iou:.3f}"
    )
