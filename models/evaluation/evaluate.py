"""A pipeline's figures on labelled images."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.confidence import GOOD, Judged
from models.data.sample import Sample
from models.errors import DataError
from models.families import Model, describe, steps_of
from models.masks.metrics import Mask, boundary_f, dice, iou
from models.pipeline import Pipeline, Steps


class Agreement(NamedTuple):
    """A class's mask against the truth; each in [0, 1], 0 where it was not predicted."""

    iou: float
    dice: float
    boundary_f: float
    coarse_iou: float


class Decision(NamedTuple):
    """The decision to draw a class, and its true presence."""

    predicted: bool
    present: bool


@dataclass(frozen=True)
class FrameFigures:
    """One image, measured.

    Attributes:
        name: the sample's.
        seconds: the pipeline took.
        agreements: of the classes that are drawn on the image in truth.
        decisions: of the classes whose presence is known.
        judged: of the same classes, whether what was said of them needs no correction, with the signs of it.
    """

    name: str
    seconds: float
    agreements: Mapping[str, Agreement]
    decisions: Mapping[str, Decision]
    judged: tuple[Judged, ...] = ()

    @property
    def quality(self) -> float:
        """Mean IoU of the classes on the image; the share of right presence decisions where it has no masks."""
        if self.agreements:
            return float(np.mean([agreement.iou for agreement in self.agreements.values()]))
        right = [decision.predicted == decision.present for decision in self.decisions.values()]
        return float(np.mean(right)) if right else 0.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """The pipeline's result on one sample.

    Attributes:
        sample: the labelled image.
        image: its pixels, shape (H, W, 3), uint8 RGB.
        steps: of each of the pipeline's classes.
        seconds: the pipeline took.
    """

    sample: Sample
    image: NDArray[np.uint8]
    steps: Mapping[str, Steps]
    seconds: float

    def truth(self, label: str) -> Mask:
        """The true mask of a class, shape (H, W), bool; all False where the class is not drawn."""
        return self.sample.read_mask(label, (self.image.shape[0], self.image.shape[1]))


def evaluate(
    model: Model, samples: Sequence[Sample], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Measure a model on labelled images and sum up; see `measure` and `summarise`.

    Raises:
        DataError: there are no samples.
    """
    if not samples:
        raise DataError("there is nothing to evaluate on: the split is empty")
    return summarise(measure(model, samples, progress=progress), model)


def with_settings(pipeline: Pipeline, **settings: Any) -> Pipeline:
    """The same networks with some of their `PipelineConfig` changed, such as `cam` or `refiner`."""
    config = replace(pipeline.config, **settings)
    return Pipeline.of(pipeline.classifier, pipeline.refiner, config, name=pipeline.name, device=str(pipeline.device))


def measure(
    model: Model, samples: Sequence[Sample], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[FrameFigures]:
    """Predict every sample and compare; see `outcomes` and `compare`."""
    return [compare(outcome) for outcome in outcomes(model, samples, progress=progress)]


def outcomes(
    model: Model, samples: Sequence[Sample], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Outcome]:
    """Predict sample after sample; `progress` is told (done, total) when the caller is through with one."""
    for index, sample in enumerate(samples):
        image = sample.read_image()
        start = time.perf_counter()
        steps = {step.label: step for step in steps_of(model, [image])[0]}
        yield Outcome(sample, image, steps, time.perf_counter() - start)
        progress(index + 1, len(samples))


def compare(outcome: Outcome) -> FrameFigures:
    """Compare a sample's masks with the truth where it has them, presence wherever it is known."""
    sample, steps = outcome.sample, outcome.steps
    agreements = {}
    for label in steps:
        if label in sample.masks:
            step, truth = steps[label], outcome.truth(label)
            agreements[label] = Agreement(
                iou(step.mask, truth), dice(step.mask, truth), boundary_f(step.mask, truth), iou(step.coarse, truth)
            )
    decisions = {
        label: Decision(bool(steps[label].mask.any()), present)
        for label, present in sample.presence.items()
        if label in steps
    }
    judged = tuple(
        Judged(label, steps[label].signs, _good(decision, agreements.get(label)))
        for label, decision in decisions.items()
        if steps[label].signs and not (decision.predicted and decision.present and label not in agreements)
    )
    return FrameFigures(sample.name, outcome.seconds, agreements, decisions, judged)


def _good(decision: Decision, agreement: Agreement | None) -> bool:
    """Whether what was said of a class needs no correction."""
    if not (decision.predicted and decision.present):
        return decision.predicted == decision.present
    return agreement is not None and agreement.iou >= GOOD


def summarise(frames: Sequence[FrameFigures], model: Model) -> dict[str, Any]:
    """The figures of `premask evaluate`.

    Returns:
        {"classes": {CLASS: {...}}, "mean_iou", "seconds_per_frame", "frames", "model", "refiner", "cam"}. Per class:
        `frames` on which it is truly present; `iou`, `dice`, `boundary_f` and `coarse_iou` (the thresholded map, before
        trimap and refiner), means over those frames, a mask that was not predicted counting 0; `accuracy`, `precision`
        and `recall` of the presence decision over all frames. A figure without any frame to rest on is None.
        `mean_iou` is the mean of the classes' `iou`.
    """
    classes = {
        label: _class_figures(
            [frame.agreements[label] for frame in frames if label in frame.agreements],
            [frame.decisions[label] for frame in frames if label in frame.decisions],
        )
        for label in model.classes
    }
    means = [figures["iou"] for figures in classes.values() if figures["iou"] is not None]
    timed = frames[1:] or frames  # the first call warms the caches up
    return {
        "classes": classes,
        "mean_iou": float(np.mean(means)) if means else None,
        "seconds_per_frame": float(np.mean([frame.seconds for frame in timed])) if timed else None,
        "frames": len(frames),
    } | describe(model)


def _class_figures(agreements: Sequence[Agreement], decisions: Sequence[Decision]) -> dict[str, float | int | None]:
    means = [float(mean) for mean in np.mean(agreements, axis=0)] if agreements else [None] * 4
    predicted = np.array([decision.predicted for decision in decisions], dtype=bool)
    present = np.array([decision.present for decision in decisions], dtype=bool)
    return {
        "frames": len(agreements) or int(present.sum()),
        **dict(zip(Agreement._fields, means, strict=True)),
        "precision": float(present[predicted].mean()) if predicted.any() else None,
        "recall": float(predicted[present].mean()) if present.any() else None,
        "accuracy": float((predicted == present).mean()) if decisions else None,
    }
