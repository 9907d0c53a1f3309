"""Confidence intervals of the figures, by bootstrap over groups of images.

Neighbouring frames of a series are near-copies, so images are drawn not one by one but group by group: by patient, by
series, or by block of neighbours (the cluster bootstrap; Davison and Hinkley 1997, "Bootstrap Methods and their
Application", section 3.8).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from models.data.folder import DataFolder
from models.errors import DataError
from models.evaluation.evaluate import FrameFigures

BLOCK = 5  # neighbouring images that count as one group where groups.json does not say better
RESAMPLES = 2000
LEVEL = 0.95


def read_groups(folder: DataFolder) -> dict[str, str]:
    """The group of every image: from groups.json ({NAME: GROUP}), else blocks of `BLOCK` neighbours by name.

    Raises:
        DataError: groups.json does not read as that, or leaves an image out.
    """
    path = folder.root / "groups.json"
    if not path.is_file():
        return {name: f"block {index // BLOCK + 1}" for index, name in enumerate(folder.samples)}
    try:
        groups = {str(name): str(group) for name, group in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise DataError(f'{path} must hold {{"NAME": "GROUP"}}, such as the patient of each image: {error}') from error
    missing = [name for name in folder.samples if name not in groups]
    if missing:
        raise DataError(f"{path} names no group for {missing[0]} (and {len(missing) - 1} more); add it")
    return groups


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
        adds: `refiner_gain`, the mean of iou - coarse_iou image by image, and `refiner_gain_ci`. None where the class
        is on images of fewer than two groups. `groups` counts the groups of the frames.
    """
    classes = {}
    for label, known in figures["classes"].items():
        drawn = [(groups[frame.name], frame.agreements[label]) for frame in frames if label in frame.agreements]
        decided = [(groups[frame.name], frame.decisions[label]) for frame in frames if label in frame.decisions]
        gain = known["iou"] - known["coarse_iou"] if drawn else None
        classes[label] = known | {
            "refiner_gain": gain,
            "iou_ci": interval((group, a.iou) for group, a in drawn),
            "coarse_iou_ci": interval((group, a.coarse_iou) for group, a in drawn),
            "refiner_gain_ci": interval((group, a.iou - a.coarse_iou) for group, a in drawn),
            "accuracy_ci": interval((group, float(d.predicted == d.present)) for group, d in decided),
        }
    return figures | {"classes": classes, "groups": len({groups[frame.name] for frame in frames})}


def interval(values: Iterable[tuple[str, float]], seed: int = 0) -> list[float] | None:
    """Percentile bootstrap interval of the mean of grouped values, at `LEVEL`.

    Args:
        values: (group, value) pairs.
        seed: of the resampling; the same values and seed give the same interval.

    Returns:
        [low, high], or None for fewer than two groups: one group says nothing of how groups differ.
    """
    members: dict[str, list[float]] = defaultdict(list)
    for group, value in values:
        members[group].append(value)
    if len(members) < 2:
        return None
    sums = np.array([sum(group) for group in members.values()])
    counts = np.array([len(group) for group in members.values()])
    picks = np.random.default_rng(seed).integers(len(members), size=(RESAMPLES, len(members)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    return [float(bound) for bound in np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]
