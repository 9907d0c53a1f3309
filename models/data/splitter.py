"""Which images are learnt from and which are held out: the one place that decides it.

Nothing of one group is ever on both sides. Without groups.json neighbours by name are kept together, because
neighbouring frames of a series are near-copies.
"""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.data.sample import Sample
from models.errors import DataError

SHARE = 0.2  # of the images are held out
MAX_RUNS = 4  # of neighbours, that these lie in without groups
MAX_SHARE = 1 / 3  # held out so that most classes are on both sides, unless a single group is larger
ONE_GROUP = (
    "all images are of one group: the held-out ones resemble those that are learnt from, so their figures flatter; "
    "annotate images of another patient or series"
)


def split_samples(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Samples to learn from and to hold out, each in the order given: by group, else by blocks of neighbours.

    An image that two tasks show is never on both sides: its copies judge nothing.

    Raises:
        DataError: fewer than two samples.
    """
    if len({sample.group for sample in samples}) < 2:
        return _without_copies(*split_in_blocks(samples))
    chosen = held_out_groups(samples)
    train = [sample for sample in samples if sample.group not in chosen]
    return _without_copies(train, [sample for sample in samples if sample.group in chosen])


def _without_copies(train: list[Sample], held_out: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The same without the held-out images that are learnt from as well, unless none would be left."""
    learnt = {(sample.source, sample.page) for sample in train if sample.source}
    return train, [sample for sample in held_out if (sample.source, sample.page) not in learnt] or held_out


def of_one_group(samples: Sequence[Sample]) -> bool:
    """Whether groups.json puts all samples, several of them, into one group."""
    return len(samples) > 1 and len({sample.group for sample in samples}) == 1 and samples[0].group is not None


def held_out_groups(samples: Sequence[Sample]) -> set[str | None]:
    """Groups of about `SHARE` of the samples, at least one and not all, that leave most classes on both sides.

    Groups are taken one after the other in an order that their names decide alone, so that accepting more images moves
    few groups from one side to the other. First comes what puts another class on both sides, then what comes nearest to
    the share.

    >>> from pathlib import Path
    >>> frames = [Sample(str(i), Path(), {}, {"cap": i in (1, 2, 9)}, True, group="ABC"[i % 3]) for i in range(12)]
    >>> held_out_groups(frames)
    {'A'}
    """
    groups = sorted({sample.group for sample in samples}, key=_rank)
    classes = sorted({label for sample in samples for label, present in sample.presence.items() if present})
    index = {group: number for number, group in enumerate(groups)}
    sizes = np.zeros(len(groups), dtype=int)
    shown = np.zeros((len(groups), len(classes)), dtype=int)  # images of the group that show the class
    for sample in samples:
        sizes[index[sample.group]] += 1
        shown[index[sample.group]] += np.array([sample.presence.get(label, False) for label in classes], dtype=int)
    wanted = max(1, round(SHARE * len(samples)))
    limit = max(round(MAX_SHARE * len(samples)), int(sizes.min()))
    chosen: list[int] = []
    while options := [i for i in range(len(groups)) if i not in chosen and sizes[chosen].sum() + sizes[i] <= limit]:
        held = shown[chosen].sum(axis=0) + shown[options]  # (options, classes)
        lacking = _lacking(shown.sum(axis=0) - held, held)
        distance = np.abs(sizes[chosen].sum() + sizes[options] - wanted)
        now = _lacking(shown.sum(axis=0) - shown[chosen].sum(axis=0), shown[chosen].sum(axis=0))
        nearer = distance < abs(sizes[chosen].sum() - wanted)
        best = min(range(len(options)), key=lambda i: (lacking[i], not nearer[i]))
        if chosen and not nearer[best] and lacking[best] >= now:
            break
        chosen.append(options[best])
    return {groups[i] for i in chosen}


def _lacking(learnt: NDArray[np.int_], tested: NDArray[np.int_]) -> NDArray[np.int_]:
    """Penalty of a split: 2 for a class on held-out images alone, 1 for one on images to learn from alone.

    Args:
        learnt, tested: images to learn from, and held out, that show each class; shape (..., C).
    """
    total: NDArray[np.int_] = (2 * ((tested > 0) & (learnt == 0)) + ((learnt > 0) & (tested == 0))).sum(axis=-1)
    return total


def _rank(group: str | None) -> str:
    return hashlib.sha256(str(group).encode()).hexdigest()


def check_splits(splits: Mapping[str, Sequence[str]], groups: Mapping[str, str]) -> dict[str, str]:
    """Faults of a given split: images whose group is also on another side of it.

    Args:
        splits: side -> names. A group that is on two sides stays on "train", else on the earlier one.
        groups: name -> group.

    Returns:
        Name -> problem, which names the group and the two images.

    >>> check_splits({"train": ["a1", "b1"], "val": ["c1", "a2"]}, {"a1": "A", "a2": "A", "b1": "B", "c1": "C"})
    {'a2': "split.json has a1 in train and a2 in val, but groups.json says that both are of group 'A'"}
    """
    first: dict[str, tuple[str, str]] = {}
    problems = {}
    for side in sorted(splits, key=lambda side: side != "train"):
        for name in splits[side]:
            if name not in groups:
                continue
            other_side, other = first.setdefault(groups[name], (side, name))
            if other_side != side:
                problems[name] = (
                    f"split.json has {other} in {other_side} and {name} in {side}, "
                    f"but groups.json says that both are of group {groups[name]!r}"
                )
    return problems


def split_in_blocks(
    samples: Sequence[Sample], blocks: int = 4, share: float = 0.2
) -> tuple[list[Sample], list[Sample]]:
    """Hold out `share` of the samples, at least one, as up to `blocks` runs of neighbours by name.

    The runs lie in the middle of equal parts of the series, or as near to it as leaves most classes on both sides: of a
    class on three images some are to be held out and some to be learnt from, one on a single image is to be learnt.

    Raises:
        DataError: fewer than two samples.
    """
    if len(samples) < 2:
        raise DataError(f"training needs at least 2 images, one of them to hold out, got {len(samples)}")
    wanted = max(1, round(SHARE * len(samples)))
    blocks = min(MAX_RUNS, wanted)
    sizes = [wanted // blocks + (block < wanted % blocks) for block in range(blocks)]
    centres = [round((block + 0.5) * len(samples) / blocks) - size // 2 for block, size in enumerate(sizes)]
    reach = len(samples) // (2 * blocks)
    shown = [{label for label, present in sample.presence.items() if present} for sample in samples]

    def held_out(shift: int) -> set[int]:
        starts = [min(max(centre + shift, 0), len(samples) - size) for centre, size in zip(centres, sizes, strict=True)]
        return {index for start, size in zip(starts, sizes, strict=True) for index in range(start, start + size)}

    def lacking(chosen: set[int]) -> int:
        learnt = set().union(*(labels for index, labels in enumerate(shown) if index not in chosen))
        tested = set().union(*(shown[index] for index in chosen))
        return 2 * len(tested - learnt) + len(learnt - tested)

    shifts = sorted(range(-reach, reach + 1), key=abs)
    chosen = min((held_out(shift) for shift in shifts), key=lambda chosen: (len(chosen) < wanted, lacking(chosen)))
    train = [sample for index, sample in enumerate(samples) if index not in chosen]
    return train, [samples[index] for index in sorted(chosen)]


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` samples, evenly from the first to the last."""
    if len(samples) <= count:
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, count).astype(int)]
