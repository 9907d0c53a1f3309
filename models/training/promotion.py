"""Promotion of a new model by itself: only where enough held-out groups of corrected images say that it helps.

What counts is a group of images (a patient, a series, a block of neighbours), not an image: neighbours are near-copies.
What was accepted as a model had drawn it counts for nothing: its truth is that model's own answer.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.splitter import SHARE
from models.evaluation.evaluate import FrameFigures

LEVEL = 0.1  # how often a model that is worse may be promoted: a wrong one costs a click on "Roll back"
MIN_GROUPS = math.ceil(-math.log2(LEVEL))  # 4: fewer agree by chance more often than that, however much they differ
HELPFUL = 0.5  # IoU below which correcting a mask takes about as long as drawing it
AS_DRAWN = 0.99  # IoU from which a mask counts as accepted the way the earlier model drew it
MIN_UNCHANGED = 0.75  # mean IoU with masks accepted as drawn, below which a new model has forgotten them
MAX_EXACT = 14  # groups for which every change of signs is tried
MEASURED, WEAK, NOT_MEASURED = "measured", "weak", "not measured"


@dataclass(frozen=True)
class Verdict:
    """Whether a new model is promoted by itself.

    Attributes:
        promote: the evidence says that it helps.
        reason: the figures, for people.
        missing: what is missing for a promotion, one sentence; "" if nothing is.
        groups: held-out groups with corrected images.
        tasks: those images.
        p: how often chance alone would agree as well, if the model were worse; None for too few groups.
        classes: class -> {"state": MEASURED, WEAK or NOT_MEASURED, "iou": mean over those images, or None, "tasks"}.
        needed: groups that a promotion needs.
    """

    promote: bool
    reason: str
    missing: str
    groups: int
    tasks: int
    p: float | None
    classes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    needed: int = MIN_GROUPS

    def report(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def verdict(
    new: Sequence[FrameFigures],
    before: Sequence[FrameFigures] | None,
    tolerance: float,
    *,
    classes: Sequence[str] = (),
    groups: Mapping[str, str] | None = None,
    named: bool = False,
    as_drawn: Collection[str] = (),
    held_out: Collection[str] = (),
) -> Verdict:
    """Compare two models group by group, or a first model with `HELPFUL`.

    A model is promoted if its mean over the groups is not below the earlier one's, and if a sign-flip test over the
    groups says at `LEVEL` that it is not worse by more than `tolerance`. Every group weighs the same. Images that were
    accepted as the earlier model drew them only have to stay about as they are.

    Args:
        new: of the new model, on the held-out images.
        before: of the earlier model on the same images in the same order, None if there is none.
        tolerance: by how much mean IoU (presence accuracy where no masks are held out) may fall unnoticed.
        classes: of the new model.
        groups: name of an image -> its group; None makes each image one.
        named: the groups are people's own, such as patients, and not blocks of neighbours.
        as_drawn: names of images that were accepted as some model had drawn them.
        held_out: names of all images that were held out, where there was not the time to measure each.
    """
    of = {frame.name: frame.name for frame in new} if groups is None else groups
    unchanged = [
        frame.name in as_drawn or (before is not None and _as_drawn(before[index])) for index, frame in enumerate(new)
    ]
    telling = [index for index, kept in enumerate(unchanged) if not kept]
    kept = [index for index, kept in enumerate(unchanged) if kept]
    known = _class_table([new[index] for index in telling], classes)
    now = _by_group([(of[new[index].name], quality(new[index])) for index in telling])
    if before is None:
        then = np.full(len(now), HELPFUL)
        versus = f"to help it has to be above {HELPFUL:.1f}"
    else:
        then = _by_group([(of[new[index].name], quality(before[index])) for index in telling])
        versus = f"before {then.mean():.3f}" if len(then) else ""
    margin = 0.0 if before is None else tolerance
    p = sign_flip(now - then + margin) if len(now) >= MIN_GROUPS else None
    reasons = []
    if telling:
        where = f"{_count(len(telling), 'held-out task')} of {_count(len(now), 'group')}"
        reasons.append(f"mean IoU {now.mean():.3f} on {where}, {versus}")
    forgotten = False
    if kept and before is not None:
        stays = float(np.mean([new[index].quality for index in kept]))
        forgotten = stays < MIN_UNCHANGED
        reasons.append(f"{stays:.3f} on {_count(len(kept), 'task')} accepted as drawn")
    if not new:
        reasons.append("no task is held out")
    elif not telling:
        reasons.append(f"all {_count(len(kept), 'held-out task')} accepted as drawn, which says nothing")
    there = {of[name] for name in held_out if name not in as_drawn} | {of[new[index].name] for index in telling}
    missing = _missing(now, then, p, there=len(there), named=named, first=before is None, forgotten=forgotten)
    return Verdict(not missing, "; ".join(reasons), missing, len(now), len(telling), p, known)


def quality(frame: FrameFigures) -> float:
    """Mean IoU of the classes on an image, 0 for one that was drawn in vain; presence decisions where it has none."""
    if not frame.agreements:
        return frame.quality
    in_vain = sum(d.predicted and not d.present for d in frame.decisions.values())
    return sum(a.iou for a in frame.agreements.values()) / (len(frame.agreements) + in_vain)


def sign_flip(differences: NDArray[np.float64], samples: int = 10_000) -> float:
    """One-sided p-value of paired differences: how often their mean is as high when each sign is tossed for.

    The sign-flip (Fisher's randomisation) test asks no shape of the differences, and is exact up to `MAX_EXACT` of
    them. Its smallest value is 2 ** -n.

    >>> sign_flip(np.array([0.1, 0.2, 0.1, 0.3]))
    0.0625
    >>> sign_flip(np.array([0.1, -0.2]))
    0.75
    """
    count = len(differences)
    if count <= MAX_EXACT:
        flips = (np.arange(2**count)[:, None] >> np.arange(count)) % 2
    else:
        flips = np.random.default_rng(0).integers(2, size=(samples, count))
        flips[0] = 0  # what was seen is one of the possibilities
    sums = (1 - 2 * flips) @ differences
    return float((sums >= differences.sum() - 1e-12).mean())


def _missing(
    now: NDArray[np.float64],
    then: NDArray[np.float64],
    p: float | None,
    *,
    there: int,
    named: bool,
    first: bool,
    forgotten: bool,
) -> str:
    """What a promotion lacks, in one sentence."""
    if len(now) < MIN_GROUPS <= there:
        return f"a longer training would tell: there was time to measure {len(now)} of {there} held-out groups"
    if len(now) < MIN_GROUPS:
        # About a fifth of what is accepted is held out, and only that can tell.
        wanted = math.ceil((MIN_GROUPS - len(now)) / SHARE)
        whence = ", each from another patient or series," if named else ""
        return f"about {wanted} more corrected tasks{whence} would tell: {_held(len(now))}"
    if forgotten:
        return "it has lost masks that were accepted as drawn before; look at the tasks that differ most"
    if first and now.mean() <= HELPFUL:
        return "its masks are too weak to help; accept more tasks that show its weak classes, then train again"
    if not first and now.mean() < then.mean():
        return "it is worse than what is served; accept more tasks, then train again"
    if p is not None and p > LEVEL:
        doubt = "help" if first else "are no worse than those before"
        return f"its groups of held-out tasks do not agree that its masks {doubt}; more corrected tasks would tell"
    return ""


def _held(count: int) -> str:
    groups = "group has" if count == 1 else "groups have"
    return f"{count or 'no'} held-out {groups} corrected masks, {MIN_GROUPS} are needed"


def _by_group(values: Sequence[tuple[str, float]]) -> NDArray[np.float64]:
    """Mean of each group, in the order of their first values, shape (groups,)."""
    members: dict[str, list[float]] = defaultdict(list)
    for group, value in values:
        members[group].append(value)
    return np.array([np.mean(group) for group in members.values()], dtype=np.float64)


def _class_table(frames: Sequence[FrameFigures], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    table = {}
    for label in classes:
        ious = [frame.agreements[label].iou for frame in frames if label in frame.agreements]
        # Of image-level classes there are decisions alone.
        told = [
            float(frame.decisions[label].predicted)
            for frame in frames
            if label in frame.decisions and frame.decisions[label].present and not frame.agreements
        ]
        mean = float(np.mean(ious or told)) if ious or told else None
        state = NOT_MEASURED if mean is None else WEAK if mean < HELPFUL else MEASURED
        table[label] = {"state": state, "iou": float(np.mean(ious)) if ious else None, "tasks": len(ious or told)}
    return table


def _as_drawn(frame: FrameFigures) -> bool:
    decided = all(d.predicted == d.present for d in frame.decisions.values())
    return decided and bool(frame.agreements) and min(a.iou for a in frame.agreements.values()) >= AS_DRAWN


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
