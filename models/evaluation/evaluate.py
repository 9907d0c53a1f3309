"""A pipeline's figures on labelled images."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models.errors import DataError
from models.evaluation.metrics import boundary_f, dice, iou
from models.pipeline import Pipeline, describe
from models.training.data_folder import Sample


def evaluate(
    pipeline: Pipeline, samples: Sequence[Sample], *, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Measure a pipeline.

    Args:
        pipeline: what to measure.
        samples: labelled images; masks are compared where the sample has them, presence wherever it is known.
        progress: told (done, total) after each image.

    Returns:
        {"classes": {CLASS: {...}}, "mean_iou", "seconds_per_frame", "frames", "model", "refiner", "cam"}. Per class:
        `frames` on which it is truly present; `iou`, `dice`, `boundary_f` and `coarse_iou` (the thresholded map, before
        trimap and refiner), means over those frames, a mask that was not predicted counting 0; `accuracy`, `precision`
        and `recall` of the presence decision over all frames. A figure without any frame to rest on is None.
        `mean_iou` is the mean of the classes' `iou`.

    Raises:
        DataError: there are no samples.
    """
    if not samples:
        raise DataError("there is nothing to evaluate on: the split is empty")
    known = [label for label in pipeline.classes]
    overlaps: dict[str, list[tuple[float, float, float, float]]] = {label: [] for label in known}
    decisions: dict[str, list[tuple[bool, bool]]] = {label: [] for label in known}
    seconds = 0.0
    for index, sample in enumerate(samples):
        image = sample.read_image()
        start = time.perf_counter()
        steps = {step.label: step for step in pipeline.steps([image])[0]}
        if index or len(samples) == 1:  # the first call warms the caches up
            seconds += time.perf_counter() - start
        for label in known:
            step = steps[label]
            if label in sample.presence:
                decisions[label].append((bool(step.mask.any()), sample.presence[label]))
            if label in sample.masks:
                truth = sample.read_mask(label, (image.shape[0], image.shape[1]))
                overlaps[label].append(
                    (
                        iou(step.mask, truth),
                        dice(step.mask, truth),
                        boundary_f(step.mask, truth),
                        iou(step.coarse, truth),
                    )
                )
        progress(index + 1, len(samples))
    classes = {label: _class_figures(overlaps[label], decisions[label]) for label in known}
    means = [figures["iou"] for figures in classes.values() if figures["iou"] is not None]
    return {
        "classes": classes,
        "mean_iou": float(np.mean(means)) if means else None,
        "seconds_per_frame": seconds / max(len(samples) - 1, 1),
        "frames": len(samples),
    } | describe(pipeline)


def _class_figures(
    overlaps: list[tuple[float, float, float, float]], decisions: list[tuple[bool, bool]]
) -> dict[str, float | int | None]:
    columns = zip(*overlaps, strict=True) if overlaps else [None] * 4
    means = [float(np.mean(column)) if column else None for column in columns]
    predicted = np.array([p for p, _ in decisions], dtype=bool)
    present = np.array([t for _, t in decisions], dtype=bool)
    return {
        "frames": len(overlaps) or int(present.sum()),
        "iou": means[0],
        "dice": means[1],
        "boundary_f": means[2],
        "coarse_iou": means[3],
        "precision": float(present[predicted].mean()) if predicted.any() else None,
        "recall": float(predicted[present].mean()) if present.any() else None,
        "accuracy": float((predicted == present).mean()) if decisions else None,
    }
