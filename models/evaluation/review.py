"""Accepted images that are worth a second look: those where a model sees something else than was accepted.

A model that has learnt a mask agrees with it, right or wrong, so each image is judged by one that has not. Models err
too, and more in some classes than in others; so a disagreement weighs as much as the model is usually right about the
class: as often as it draws what was accepted, as often as what it draws was accepted, and as well as its masks usually
fit. All three are counted on the same images, most of which are labelled well.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.data.sample import Sample
from models.masks.metrics import Mask, iou
from models.segment import Prediction

MISSED, SURPLUS, SHIFTED, SWAPPED = "missed", "surplus", "differs", "label"
COVERED = 0.4  # IoU of an accepted mask with the model's mask of another class, from which the labels may be swapped
USUAL = 0.7  # IoU that a model's masks of a class have where too few tell
PRIOR_MASKS = 2  # with that IoU, that the median begins with
ERRORS = 0.05  # share of annotations that may be wrong


class Reviewer(Protocol):
    """The part of a model that is used here."""

    @property
    def classes(self) -> tuple[str, ...]:
        """That it knows."""

    def predict(self, images: Sequence[NDArray[np.uint8]]) -> list[Prediction]:
        """Draw every class on every image."""


@dataclass(frozen=True)
class Opinion:
    """What a model sees of a class on an image, and what was accepted.

    Attributes:
        image: its name.
        label: the class.
        presence: its probability, by the model.
        drawn: the model draws it.
        accepted: it was accepted as being there.
        masked: a mask of it was accepted.
        iou: of the model's mask with the accepted one, where there are both.
        others: class -> IoU of the model's mask of that other class with the accepted mask of this one.
    """

    image: str
    label: str
    presence: float
    drawn: bool
    accepted: bool
    masked: bool
    iou: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Why an image is worth a second look.

    Attributes:
        image: its name.
        label: the class that is doubtful.
        kind: MISSED, SURPLUS, SHIFTED or SWAPPED.
        suspicion: how likely the accepted annotation is wrong, in [0, 1]: to sort by.
        sentence: for people.
        other: of a SWAPPED label, the class that the model sees in its place; else "".
    """

    image: str
    label: str
    kind: str
    suspicion: float
    sentence: str
    other: str = ""


def opinions(
    model: Reviewer, samples: Sequence[Sample], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Opinion]:
    """Have a model look at accepted images, class by class; a class whose presence is not known is left out.

    Args:
        model: that has not learnt the samples, of any family.
        samples: the accepted images.
        progress: told (done, total).
    """
    found = []
    for number, sample in enumerate(samples, 1):
        image = sample.read_image()
        shape = (image.shape[0], image.shape[1])
        (prediction,) = model.predict([image])
        drawn = {segment.label: segment.mask for segment in prediction.segments}
        for label in model.classes:
            if label not in sample.presence:
                continue
            truth = sample.read_mask(label, shape) if label in sample.masks else None
            found.append(_opinion(sample, label, prediction.presence.get(label, 0.0), drawn, truth))
        progress(number, len(samples))
    return found


def _opinion(sample: Sample, label: str, presence: float, drawn: Mapping[str, Mask], truth: Mask | None) -> Opinion:
    own = drawn.get(label)
    others = {}
    if truth is not None:
        others = {other: iou(mask, truth) for other, mask in drawn.items() if other != label}
    return Opinion(
        sample.name,
        label,
        presence,
        own is not None,
        bool(sample.presence[label]),
        truth is not None,
        iou(own, truth) if own is not None and truth is not None else None,
        {other: value for other, value in others.items() if value >= COVERED},
    )


def findings(given: Iterable[Opinion]) -> list[Finding]:
    """The most doubtful class of each image on which there is any doubt, the likeliest errors first."""
    by_class: dict[str, list[Opinion]] = defaultdict(list)
    for one in given:
        by_class[one.label].append(one)
    found = {(one.image, one.label): one for known in by_class.values() for one in _of_class(known)}
    worst: dict[str, Finding] = {}
    for finding in (_with_other(one, found) for one in found.values()):
        if finding.image not in worst or finding.suspicion > worst[finding.image].suspicion:
            worst[finding.image] = finding
    return sorted(worst.values(), key=lambda finding: (-finding.suspicion, finding.image))


def _with_other(one: Finding, found: Mapping[tuple[str, str], Finding]) -> Finding:
    """A likely wrong label, likelier still where the class that the model sees in its place is itself missed."""
    other = found.get((one.image, one.other))
    if one.kind != SWAPPED or other is None or other.kind != MISSED:
        return one
    return replace(one, suspicion=1 - (1 - one.suspicion) * (1 - other.suspicion))


def _of_class(known: Sequence[Opinion]) -> list[Finding]:
    """The disagreements about one class. Suspicion is how large one is, times how seldom the model errs as much."""
    usual = float(np.median([*(one.iou for one in known if one.iou is not None), *[USUAL] * PRIOR_MASKS]))
    events = [(one, event) for one in known if (event := _event(one, usual)) is not None]
    chances = {
        MISSED: sum(one.drawn for one in known),
        SURPLUS: sum(one.accepted for one in known),
        SHIFTED: sum(one.iou is not None for one in known),
        SWAPPED: sum(one.accepted for one in known),
    }
    severities = {kind: sorted(severity for _, (k, severity, _) in events if k == kind) for kind in chances}
    found = []
    for one, (kind, severity, sentence) in events:
        as_large = len(severities[kind]) - bisect_left(severities[kind], severity) - 1  # others
        seldom = ERRORS / (ERRORS + (as_large + 0.5) / (chances[kind] + 1))
        other = max(one.others, key=one.others.__getitem__) if kind == SWAPPED else ""
        found.append(Finding(one.image, one.label, kind, severity * seldom, sentence, other))
    return found


def _event(one: Opinion, usual: float) -> tuple[str, float, str] | None:
    """What a model and an annotation disagree about: the kind, how much in [0, 1], and a sentence; None for nothing."""
    other, covered = max(one.others.items(), key=lambda item: item[1], default=("", 0.0))
    if one.accepted and covered > (one.iou or 0.0):
        sentence = f"the mask of {one.label} lies where the model sees {other} (IoU {covered:.2f})"
        return SWAPPED, covered, sentence
    if one.drawn and not one.accepted:
        return MISSED, one.presence, f"{one.label} is not drawn, and the model sees it ({one.presence:.0%})"
    if one.accepted and not one.drawn:
        sentence = f"{one.label} is drawn, and the model does not see it ({one.presence:.0%})"
        return SURPLUS, 1 - one.presence, sentence
    if one.iou is None or one.iou >= usual:
        return None
    return SHIFTED, 1 - one.iou / usual, f"the masks of {one.label} differ: IoU {one.iou:.2f}, usually {usual:.2f}"
