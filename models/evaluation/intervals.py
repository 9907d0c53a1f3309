"""Confidence intervals of the figures, by bootstrap over groups of images.

Neighbouring frames of a series are near-copies, so images are drawn not one by one but group by group: by patient, by
series, or by block of neighbours (the cluster bootstrap; Davison and Hinkley 1997, "Bootstrap Methods and their
Application", section 3.8).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from models.evaluation.evaluate import FrameFigures

MIN_GROUPS = 5  # fewer say too little of how groups differ: their intervals are far too narrow
RESAMPLES = 2000
LEVEL = 0.95


def with_intervals(
    figures: dict[str, Any], frames: Sequence[FrameFigures], groups: Mapping[str, str]
) -> dict[str, Any]:
    """Add 95 % intervals to `summarise`'s figures.

    Args:
        figures: of `frames`.
        frames: the images, measured.
        groups: group of each image by name.

    Returns:
        `figures` with, per class, `iou_ci`, `coarse_iou_ci` and `accuracy_ci`, each [low, high], and what the refiner
        adds: `refiner_gain`, the mean of iou - coarse_iou image by image, and `refiner_gain_ci`. An interval is None
        over fewer than `MIN_GROUPS` groups; then `no_interval` of the class says so in words, else it is None.
        `groups` counts the groups of the frames.
    """
    classes = {}
    for label, known in figures["classes"].items():
        drawn = [(groups[frame.name], frame.agreements[label]) for frame in frames if label in frame.agreements]
        decided = [(groups[frame.name], frame.decisions[label]) for frame in frames if label in frame.decisions]
        gain = known["iou"] - known["coarse_iou"] if drawn else None
        count = len({group for group, _ in drawn})
        reason = f"drawn on images of {count} group{'s' * (count != 1)}, an interval needs {MIN_GROUPS}"
        classes[label] = known | {
            "refiner_gain": gain,
            "iou_ci": interval((group, a.iou) for group, a in drawn),
            "coarse_iou_ci": interval((group, a.coarse_iou) for group, a in drawn),
            "refiner_gain_ci": interval((group, a.iou - a.coarse_iou) for group, a in drawn),
            "accuracy_ci": interval((group, float(d.predicted == d.present)) for group, d in decided),
            "no_interval": reason if count < MIN_GROUPS else None,
        }
    return figures | {"classes": classes, "groups": len({groups[frame.name] for frame in frames})}


def interval(values: Iterable[tuple[str, float]], seed: int = 0) -> list[float] | None:
    """Percentile bootstrap interval of the mean of grouped values, at `LEVEL`.

    Args:
        values: (group, value) pairs.
        seed: of the resampling; the same values and seed give the same interval.

    Returns:
        [low, high], or None for fewer than `MIN_GROUPS` groups.

    >>> interval([("a", 0.5), ("a", 0.7), ("b", 0.6)]) is None
    True
    >>> low, high = interval((f"patient {i}", 0.1 * i) for i in range(10))
    >>> round(low, 2), round(high, 2)
    (0.27, 0.63)
    """
    members: dict[str, list[float]] = defaultdict(list)
    for group, value in values:
        members[group].append(value)
    if len(members) < MIN_GROUPS:
        return None
    sums = np.array([sum(group) for group in members.values()])
    counts = np.array([len(group) for group in members.values()])
    picks = np.random.default_rng(seed).integers(len(members), size=(RESAMPLES, len(members)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    return [float(bound) for bound in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
