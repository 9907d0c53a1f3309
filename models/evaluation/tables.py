"""The paper's tables on the user's own data: classifiers, annotation effort, activation-map methods."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from models.config import METHODS
from models.data.sample import Sample
from models.evaluation.annotator import LIMIT, TARGETS, Correction, correct
from models.evaluation.evaluate import FrameFigures, Outcome, compare, outcomes, with_settings
from models.masks.metrics import iou
from models.pipeline import Pipeline

THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))


def classifier_row(figures: Mapping[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """A row of the paper's Table 2: presence on the image, means over the classes that have the figure.

    Args:
        figures: `summarise`'s of the pipeline.
        pipeline: what was measured.
    """
    known = figures["classes"].values()
    means = {name: _mean(one[name] for one in known) for name in ("accuracy", "precision", "recall")}
    return {"model": figures["model"], "backbone": pipeline.classifier.config.backbone, **means}


class Work(NamedTuple):
    """Work of the annotator on one mask: the strokes to each target, None where given up, and the IoU in the end."""

    strokes: dict[float, int | None]
    iou: float


@dataclass(frozen=True)
class Effort:
    """The annotator's work on one image.

    Attributes:
        from_nothing: class -> work on an empty mask, for the classes drawn on the image in truth.
        from_model: the same, on the model's mask.
        false_masks: class -> work on a mask of a class that is not there, which is to erase it.
    """

    from_nothing: Mapping[str, Work]
    from_model: Mapping[str, Work]
    false_masks: Mapping[str, Work]


def measure_with_effort(
    pipeline: Pipeline, samples: Sequence[Sample], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[FrameFigures], list[Effort]]:
    """As `measure`, and the simulated annotator's work on the images that have all of their masks."""
    frames, efforts = [], []
    for outcome in outcomes(pipeline, samples, progress=progress):
        frames.append(compare(outcome))
        if outcome.sample.has_masks:
            efforts.append(effort(outcome))
    return frames, efforts


def effort(outcome: Outcome) -> Effort:
    """Have the simulated annotator draw and correct every mask of an image."""
    from_nothing, from_model, false_masks = {}, {}, {}
    for label, step in outcome.steps.items():
        truth = outcome.truth(label)
        if truth.any():
            from_nothing[label] = _work(correct(np.zeros_like(truth), truth))
            from_model[label] = _work(correct(step.mask, truth))
        elif step.mask.any():
            false_masks[label] = _work(correct(step.mask, truth))
    return Effort(from_nothing, from_model, false_masks)


def _work(correction: Correction) -> Work:
    return Work(correction.strokes, correction.ious[-1])


def effort_table(efforts: Sequence[Effort], figures: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's Table 3, with brush strokes in place of an expert's seconds.

    Args:
        efforts: of the images.
        figures: `summarise`'s of the same images.

    Returns:
        {"targets", "limit", "classes": {CLASS: {"from_nothing", "from_model": {TARGET: {"mean", "median", "never"}},
        "false_masks"}}, "ways": [{"way", "iou", "strokes", "seconds"}]}. `never` counts the masks that did not reach
        the target within `limit` strokes; they count as `limit` in the means. `ways` are manual, automatic, and
        automatic then corrected: mean IoU as in `mean_iou`, strokes an image to the highest target over all its
        classes, false masks included, and the machine's seconds an image.
    """
    classes: dict[str, dict[str, Any]] = {}
    ends = {}
    for label in figures["classes"]:
        works = {
            "from_nothing": [one.from_nothing[label] for one in efforts if label in one.from_nothing],
            "from_model": [one.from_model[label] for one in efforts if label in one.from_model],
        }
        ends[label] = {start: _mean([work.iou for work in done]) for start, done in works.items()}
        false_masks = sum(label in one.false_masks for one in efforts)
        classes[label] = {start: _strokes(done) for start, done in works.items()} | {"false_masks": false_masks}
    reached = {start: _mean([end[start] for end in ends.values()]) for start in ("from_nothing", "from_model")}
    manual = [_total(one.from_nothing.values()) for one in efforts]
    corrected = [_total([*one.from_model.values(), *one.false_masks.values()]) for one in efforts]
    seconds = figures["seconds_per_frame"]
    ways = [
        ("manual", reached["from_nothing"], _mean(manual), None),
        ("automatic", figures["mean_iou"], 0.0, seconds),
        ("automatic, then corrected", reached["from_model"], _mean(corrected), seconds),
    ]
    return {
        "targets": list(TARGETS),
        "limit": LIMIT,
        "classes": classes,
        "ways": [dict(zip(("way", "iou", "strokes", "seconds"), way, strict=True)) for way in ways],
    }


def _strokes(works: Sequence[Work]) -> dict[str, Any]:
    table = {}
    for target in TARGETS:
        counts = [work.strokes[target] for work in works]
        capped = [LIMIT if count is None else count for count in counts]
        table[str(target)] = {
            "mean": _mean(capped),
            "median": float(np.median(capped)) if capped else None,
            "never": counts.count(None),
        }
    return table


def _total(works: Iterable[Work]) -> int:
    counts = [work.strokes[max(TARGETS)] for work in works]
    return sum(LIMIT if count is None else count for count in counts)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def compare_methods(
    pipeline: Pipeline, samples: Sequence[Sample], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Each activation-map method on each class: IoU of the thresholded map, before trimap and refiner.

    Methods differ in scale, so each class and method has the one threshold of `THRESHOLDS` that suits these images
    best: a figure to compare methods by, not one to expect on other images.

    Returns:
        {METHOD: {CLASS: {"iou", "threshold"}}}, `iou` the mean over the images on which the class is drawn in truth,
        None without any.
    """
    table = {}
    for number, method in enumerate(METHODS):
        variant = with_settings(pipeline, cam=method)
        found: dict[str, list[list[float]]] = {label: [] for label in pipeline.classes}
        for done, sample in enumerate(samples, start=number * len(samples) + 1):
            image = sample.read_image()
            height, width = image.shape[:2]
            _, (maps,) = variant.maps([image])
            for label, cam in zip(pipeline.classes, maps, strict=True):
                if label in sample.masks:
                    truth = sample.read_mask(label, (height, width))
                    resized = cv2.resize(cam, (width, height), interpolation=cv2.INTER_LINEAR)
                    found[label].append([iou(resized >= threshold, truth) for threshold in THRESHOLDS])
            progress(done, len(METHODS) * len(samples))
        table[method] = {label: _best_threshold(ious) for label, ious in found.items()}
    return table


def _best_threshold(ious: Sequence[Sequence[float]]) -> dict[str, float | None]:
    if not ious:
        return {"iou": None, "threshold": None}
    means = np.mean(ious, axis=0)
    best = int(means.argmax())
    return {"iou": float(means[best]), "threshold": THRESHOLDS[best]}
