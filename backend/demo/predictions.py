"""Masks as Label Studio stores them: retrieved through its Data Manager, decoded by its own decoder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.demo.sample_project import SIZE
from backend.label_studio.client import LabelStudio
from backend.label_studio.rle import decode_rle
from models.masks import metrics
from models.phantom import CLASSES, render_phantom

CHUNK = 8  # tasks per request: the bar moves, and none comes near Label Studio's time-out
ROUNDS = 3  # Label Studio drops a batch without a word if the backend was not ready: ask again


@dataclass(frozen=True)
class ClassScore:
    """How well one class was drawn: `iou` is the mean over the `frames` that truly show it (not drawn counts 0)."""

    frames: int
    iou: float


@dataclass(frozen=True)
class Scores:
    """Quality of the sample's predictions.

    Attributes:
        tasks: tasks of the sample.
        predicted: those with a prediction.
        with_masks: those with at least one mask.
        versions: the model versions that drew them.
        classes: by class, against the phantoms' exact masks.
    """

    tasks: int
    predicted: int
    with_masks: int
    versions: tuple[str, ...]
    classes: dict[str, ClassScore]


def retrieve(client: LabelStudio, project: int, tell: Callable[[int, int], None]) -> dict[int, dict[str, Any]]:
    """Let Label Studio ask the backend for every task that lacks the served version's prediction.

    Args:
        client: Label Studio.
        project: its id.
        tell: called with tasks done and tasks in all.

    Returns:
        By task, the prediction stored last; some tasks may have none.
    """
    tasks = [int(task["id"]) for task in client.export(project, all_tasks=True)]
    asked = tasks
    newest: dict[int, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        for start in range(0, len(asked), CHUNK):
            tell(len(tasks) - len(asked) + start, len(tasks))
            client.retrieve_predictions(project, asked[start : start + CHUNK])
        newest = newest_predictions(client.predictions(project))
        asked = [task for task in tasks if task not in newest]
        tell(len(tasks) - len(asked), len(tasks))
        if not asked:
            break
    return newest


def newest_predictions(predictions: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """By task, the prediction stored last."""
    return {int(one["task"]): one for one in sorted(predictions, key=lambda one: int(one["id"]))}


def masks(result: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.bool_]]:
    """Brush regions as masks, one per label, shape (H, W): the union of the label's regions."""
    found: dict[str, NDArray[np.bool_]] = {}
    for region in result:
        if region["type"] != "brushlabels":
            continue
        drawn = decode_rle(region["value"]["rle"], (region["original_height"], region["original_width"]))
        for label in region["value"]["brushlabels"]:
            found[label] = found[label] | drawn if label in found else drawn
    return found


def iou(drawn: NDArray[np.bool_] | None, truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of shape (H, W); 0 if nothing was drawn or the sizes differ."""
    if drawn is None or drawn.shape != truth.shape:
        return 0.0
    return metrics.iou(drawn, truth)


def score(seeds: Mapping[int, int], newest: Mapping[int, Mapping[str, Any]]) -> Scores:
    """Compare predictions with the phantoms' exact masks.

    Args:
        seeds: the phantom's seed by task.
        newest: the prediction by task.
    """
    ious: dict[str, list[float]] = {name: [] for name in CLASSES}
    with_masks = 0
    for task, seed in seeds.items():
        drawn = masks(newest[task]["result"]) if task in newest else {}
        with_masks += bool(drawn)
        for name, truth in render_phantom(seed, SIZE).masks.items():
            ious[name].append(iou(drawn.get(name), truth))
    return Scores(
        tasks=len(seeds),
        predicted=sum(task in newest for task in seeds),
        with_masks=with_masks,
        versions=tuple(sorted({str(newest[task]["model_version"]) for task in seeds if task in newest})),
        classes={name: ClassScore(len(v), float(np.mean(v)) if v else 0.0) for name, v in ious.items()},
    )
