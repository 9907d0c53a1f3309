"""Confidence: the probability that what a model says of a class on an image needs no correction.

Two logistic lines, one for masks that are drawn and one for classes that are not, over signs that every prediction has:
how far the presence is from its threshold, how decided the mask's inside and its outline are, how little the mask
depends on where the map is cut. Each training fits the lines to its held-out accepted images. These may be few, so a
line is pulled towards `PRIOR`, which was fitted on phantoms (maximum a posteriori with a normal prior); a class that is
easier or harder than the signs tell moves the line's offset. No weight is below 0: a better sign never lowers a
confidence.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.metrics import Mask, iou
from models.segment import outline_uncertainty, sharpness

GOOD = 0.9  # IoU with the accepted mask from which a mask counts as needing no correction
DRAWN_SIGNS = ("margin", "sharpness", "outline", "stability", "agreement", "size")
ABSENT_SIGNS = ("margin",)
MAX_MARGIN = 8.0  # logits; surer than that is not told apart
# Of the signs on phantoms, centre and spread: in these units one weight is worth about as much as another.
SCALES = ((5.3, 1.2), (0.97, 0.02), (0.90, 0.06), (0.92, 0.11), (0.91, 0.09), (-1.5, 0.9))
FURTHEST = 4.0  # in these units; what lies further out was seen nowhere, and counts no more
SHIFT = 0.1  # by which a map's threshold is moved to see how much of the mask depends on it
STEPS, TOLERANCE = 50, 1e-6  # of Newton's method
WEIGHT_SPREAD, OFFSET_SPREAD, CLASS_SPREAD = 0.5, 1.0, 1.0  # standard deviations of the prior


@dataclass(frozen=True)
class Lines:
    """The two lines.

    Attributes:
        drawn: offset, then a weight for each of `DRAWN_SIGNS` in `SCALES`, of the logit that a drawn mask needs
            no correction.
        absent: the same for `ABSENT_SIGNS`, of the logit that a class that is not drawn is not there.
        classes: class -> what is added to the offsets of the two.
    """

    drawn: tuple[float, ...]
    absent: tuple[float, ...]
    classes: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def confidence(self, label: str, signs: Sequence[float]) -> float:
        """Probability that what is said of a class needs no correction, in (0, 1).

        Args:
            label: the class.
            signs: of its mask (`drawn_signs`), or of its absence (`absent_signs`).
        """
        drawn = len(signs) == len(DRAWN_SIGNS)
        line = self.drawn if drawn else self.absent
        offset = self.classes.get(label, (0.0, 0.0))[0 if drawn else 1]
        return float(_logistic(line[0] + offset + np.dot(line[1:], _scaled([signs])[0])))


class Judged(NamedTuple):
    """What was said of a class on an image, and whether it was right.

    Attributes:
        label: the class.
        signs: of its mask, or of its absence.
        good: it needs no correction.
    """

    label: str
    signs: tuple[float, ...]
    good: bool


# Masks: fitted to phantoms, by the shipped model. Absence: set by hand between such a fit and calibrated presence.
PRIOR = Lines(drawn=(0.37, 0.96, 0.71, 1.03, 0.37, 0.16, 0.07), absent=(1.5, 1.2))


def read_lines(written: Mapping[str, Any] | None) -> Lines:
    """The lines of a card, the prior where it has none. Raises KeyError, TypeError or ValueError for other things."""
    if written is None:
        return PRIOR
    lines = Lines(
        tuple(map(float, written["drawn"])),
        tuple(map(float, written["absent"])),
        {str(label): (float(drawn), float(absent)) for label, (drawn, absent) in written["classes"].items()},
    )
    if (len(lines.drawn), len(lines.absent)) != (1 + len(DRAWN_SIGNS), 1 + len(ABSENT_SIGNS)):
        return PRIOR  # of a release with other signs
    return lines


def absent_signs(presence: float, threshold: float) -> tuple[float, ...]:
    """Signs that a class is not there: how far its presence is below the threshold, in logits."""
    return (-_margin(presence, threshold),)


def drawn_signs(
    presence: float,
    threshold: float,
    alpha: NDArray[np.float32],
    mask: Mask,
    coarse: Mask,
    trimap: NDArray[np.uint8],
    cam: NDArray[np.float32],
    map_threshold: float,
) -> tuple[float, ...]:
    """Signs that a mask needs no correction, in the order of `DRAWN_SIGNS`; a higher one is better.

    Args:
        presence, threshold: probability of the class, and from where on it is drawn.
        alpha, mask, coarse: refined, cut at a half, and before refining; shape (H, W).
        trimap: of any size.
        cam, map_threshold: the activation map, shape (h, w), and where it is cut.
    """
    height, width = mask.shape
    return (
        _margin(presence, threshold),
        sharpness(alpha, mask),
        1 - outline_uncertainty(alpha, trimap),
        iou(cam >= map_threshold + SHIFT, cam >= map_threshold - SHIFT),
        iou(coarse, mask),
        float(np.log10(max(cv2.countNonZero(mask.view(np.uint8)), 1) / (height * width))),
    )


def fit(judged: Sequence[Judged], prior: Lines = PRIOR) -> Lines:
    """The lines that are likeliest after what was judged, from the prior; the prior itself where nothing was.

    Args:
        judged: of images that the model has not learnt.
        prior: whose classes' offsets are not used.
    """
    drawn = [one for one in judged if len(one.signs) == len(DRAWN_SIGNS)]
    absent = [one for one in judged if len(one.signs) == len(ABSENT_SIGNS)]
    labels = sorted({one.label for one in judged})
    drawn_line, drawn_offsets = _line(drawn, prior.drawn, labels)
    absent_line, absent_offsets = _line(absent, prior.absent, labels)
    return Lines(drawn_line, absent_line, {label: (drawn_offsets[label], absent_offsets[label]) for label in labels})


def _line(
    judged: Sequence[Judged], prior: Sequence[float], labels: Sequence[str]
) -> tuple[tuple[float, ...], dict[str, float]]:
    """A line of maximum a posteriori, its weights not below 0, and an offset of each class."""
    if not judged:
        return tuple(prior), dict.fromkeys(labels, 0.0)
    mean = np.array([*prior, *[0.0] * len(labels)])
    spread = np.array([OFFSET_SPREAD, *[WEIGHT_SPREAD] * (len(prior) - 1), *[CLASS_SPREAD] * len(labels)])
    of = np.array([[one.label == label for label in labels] for one in judged], dtype=float)
    signs = np.column_stack([np.ones(len(judged)), _scaled([one.signs for one in judged]), of])  # (n, weights)
    good = np.array([one.good for one in judged], dtype=float)

    free = np.ones(len(mean), dtype=bool)
    while True:  # weights that would fall below 0 are 0, one after the other
        line = _newton(signs[:, free], good, mean[free], spread[free])
        found = np.zeros(len(mean))
        found[free] = line
        weights = found[1 : len(prior)]
        if weights.min() >= 0:
            break
        free[1 + int(weights.argmin())] = False
    rounded = [round(float(value), 4) for value in found]
    return tuple(rounded[: len(prior)]), dict(zip(labels, rounded[len(prior) :], strict=True))


def _scaled(signs: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Signs, shape (n, k), in units of `SCALES` where they are those of masks; a margin alone is in logits."""
    values = np.array(signs, dtype=np.float64)
    if values.shape[1] == len(ABSENT_SIGNS):
        return values
    centre, spread = np.array(SCALES).T
    return np.asarray(np.clip((values - centre) / spread, -FURTHEST, FURTHEST))


def _newton(
    signs: NDArray[np.float64], good: NDArray[np.float64], mean: NDArray[np.float64], spread: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The logistic line of maximum a posteriori, shape (k,), for signs of shape (n, k) and a normal prior."""

    def loss(line: NDArray[np.float64]) -> float:
        scores = signs @ line
        return float((np.logaddexp(0, scores) - good * scores).sum() + (((line - mean) / spread) ** 2).sum() / 2)

    line, precision = mean, spread**-2.0
    for _ in range(STEPS):
        p = _logistic(signs @ line)
        slope = signs.T @ (p - good) + (line - mean) * precision
        step = np.linalg.solve((signs.T * (p * (1 - p))) @ signs + np.diag(precision), slope)
        while loss(line - step) > loss(line) and np.abs(step).max() > TOLERANCE:
            step /= 2
        line = line - step
        if np.abs(step).max() <= TOLERANCE:
            break
    return line


def _logistic(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(scores / 2)))  # overflows nowhere


def _margin(presence: float, threshold: float) -> float:
    p = np.clip([presence, threshold], 1e-6, 1 - 1e-6)
    here, there = np.log(p / (1 - p))
    return float(np.clip(here - there, -MAX_MARGIN, MAX_MARGIN))
