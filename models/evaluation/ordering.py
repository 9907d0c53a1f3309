"""How well scores order images: how early a reviewer who follows them comes to the images that need most work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.confidence import DRAWN_SIGNS, Judged, Lines, fit
from models.data.sample import Sample
from models.errors import DataError
from models.evaluation.annotator import LIMIT, TARGETS, correct
from models.evaluation.evaluate import Outcome, compare, outcomes
from models.pipeline import Pipeline, Steps

MIN_GROUPS = 2  # with one left out, another is there to calibrate on


@dataclass(frozen=True)
class Scored:
    """An image with the work that it needs and what speaks for it.

    Attributes:
        name: of the image.
        strokes: of the simulated annotator until every mask is right.
        least: confidence in the least certain class: presence times sharpness where it is drawn, else 1 - presence.
        judged: of each class.
    """

    name: str
    strokes: int
    least: float
    judged: tuple[Judged, ...]

    def score(self, lines: Lines) -> float:
        """Probability that it needs no correction."""
        return float(np.prod([lines.confidence(one.label, one.signs) for one in self.judged]))

    @property
    def good(self) -> bool:
        """It needs no correction."""
        return all(one.good for one in self.judged)


def measure_ordering(
    pipeline: Pipeline,
    samples: Sequence[Sample],
    groups: Mapping[str, str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The work that is found early by following the scores of a model, ascending.

    Args:
        pipeline: the model.
        samples: that it has not learnt from, with all their masks.
        groups: group of each by name.

    Returns:
        {"images", "strokes", "need_correction", "orders": {ORDER: {"area", "half"}}, "brier": {...}}. `area` under the
        curve of the share of strokes over the share of images reviewed: 0.5 for a random order. `half` is the share of
        strokes in the first half of the images. ORDER is "random", "least certain class", "score" (the model's own),
        "calibrated" (fitted to the other groups; None for fewer than 2) and "perfect". `brier` is the mean squared
        error of the last two as probabilities, and of their mean rate.

    Raises:
        DataError: no sample has all its masks.
    """
    scored = []
    for outcome in outcomes(pipeline, samples, progress=progress):
        if outcome.sample.has_masks:
            scored.append(_scored(outcome))
    if not scored:
        raise DataError("no image has all its masks, which tell how much work each needs")
    return order_figures(scored, pipeline.config.confidence, groups)


def order_figures(scored: Sequence[Scored], lines: Lines, groups: Mapping[str, str]) -> dict[str, Any]:
    """As `measure_ordering`, of images that are measured already."""
    strokes = np.array([one.strokes for one in scored], dtype=float)
    good = np.array([one.good for one in scored], dtype=float)
    own = np.array([one.score(lines) for one in scored])
    calibrated = _out_of_fold(scored, groups)
    orders = {
        "random": {"area": 0.5, "half": 0.5},
        "least certain class": _found(strokes, np.array([one.least for one in scored])),
        "score": _found(strokes, own),
        "calibrated": None if calibrated is None else _found(strokes, calibrated),
        "perfect": _found(strokes, -strokes),
    }
    brier = {"mean rate": float(((good - good.mean()) ** 2).mean()), "score": float(((good - own) ** 2).mean())}
    if calibrated is not None:
        brier["calibrated"] = float(((good - calibrated) ** 2).mean())
    return {
        "images": len(scored),
        "strokes": int(strokes.sum()),
        "need_correction": int((1 - good).sum()),
        "orders": orders,
        "brier": brier,
    }


def area_found(strokes: Sequence[float], scores: Sequence[float]) -> float:
    """Area under the share of strokes found over the share of images reviewed, in ascending order of the scores.

    Images of the same score are found evenly.

    >>> area_found([10, 0], [0.1, 0.9]), area_found([10, 0], [0.9, 0.1]), area_found([10, 0], [0.5, 0.5])
    (0.75, 0.25, 0.5)
    """
    return _found(np.asarray(strokes, dtype=float), np.asarray(scores, dtype=float))["area"]


def _found(strokes: Any, scores: Any) -> dict[str, float]:
    values, place = np.unique(scores, return_inverse=True)
    counts = np.bincount(place, minlength=len(values))
    reviewed = np.concatenate([[0.0], np.cumsum(counts) / len(scores)])
    total = strokes.sum()
    if total == 0:
        return {"area": 0.5, "half": 0.5}
    found = np.concatenate([[0.0], np.cumsum(np.bincount(place, strokes, len(values))) / total])
    area = float(((found[1:] + found[:-1]) / 2 * np.diff(reviewed)).sum())
    return {"area": area, "half": float(np.interp(0.5, reviewed, found))}


def _out_of_fold(scored: Sequence[Scored], groups: Mapping[str, str]) -> Any:
    """Scores by lines that were fitted to the images of all other groups; None where there are too few."""
    of = [groups[one.name] for one in scored]
    if len(set(of)) < MIN_GROUPS:
        return None
    fitted = {
        group: fit([j for one, its in zip(scored, of, strict=True) if its != group for j in one.judged])
        for group in set(of)
    }
    return np.array([one.score(fitted[group]) for one, group in zip(scored, of, strict=True)])


def _scored(outcome: Outcome) -> Scored:
    steps = outcome.steps
    return Scored(
        outcome.sample.name,
        sum(_strokes(outcome, label) for label in steps),
        min(_certainty(step) for step in steps.values()),
        compare(outcome).judged,
    )


def _strokes(outcome: Outcome, label: str) -> int:
    found = correct(outcome.steps[label].mask, outcome.truth(label)).strokes[max(TARGETS)]
    return LIMIT if found is None else found


def _certainty(step: Steps) -> float:
    if not step.mask.any():
        return 1 - step.presence
    return step.presence * dict(zip(DRAWN_SIGNS, step.signs, strict=True))["sharpness"]
