"""Contents of a data folder in words and numbers, as a training sees it, and advice where they are few."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.data.reader import DataFolder
from models.data.sample import Sample
from models.data.splitter import ONE_GROUP, of_one_group

FEW = 10  # training images of a class below which it is learnt poorly
TINY = 4e-4  # of the image: 80 to 160 pixels of what a training on demand sees


@dataclass(frozen=True)
class DataReport:
    """Facts about the images of a data folder.

    Attributes:
        counts: class -> {"present", "masks", "absent", "unknown", "train", "held_out"}, numbers of images: it is there;
            it is drawn; it is known not to be there; nothing is known; it is there and learnt from, or held out.
        sentences: the counts in words.
        warnings: sentences about what will hurt, each with the next step.
    """

    counts: dict[str, dict[str, int]]
    sentences: list[str]
    warnings: list[str]


def data_report(folder: DataFolder) -> DataReport:
    """Count what a training on the folder can learn from, class by class.

    Raises:
        DataError: fewer than two images, and no split.json.
    """
    train, held_out = folder.train_and_held_out()
    used = [*train, *held_out]
    counts = {
        label: {
            "present": _present(used, label),
            "masks": sum(label in sample.masks for sample in used),
            "absent": sum(sample.presence.get(label) is False for sample in used),
            "unknown": sum(label not in sample.presence for sample in used),
            "train": _present(train, label),
            "held_out": _present(held_out, label),
        }
        for label in folder.classes
    }
    sentences = [f"{_images(len(used))}, {len(train)} to learn from and {len(held_out)} held out"]
    names = {sample.name for sample in used}
    for side, listed in folder.splits.items():
        if rest := len({*listed} - names):
            sentences.append(f"{side} of split.json: {_images(rest)} neither learnt from nor held out")
    for label, count in counts.items():
        unknown = f", unknown on {count['unknown']}" if count["unknown"] else ""
        sentences.append(
            f"{label}: on {_images(count['present'])} ({count['train']} to learn from, {count['held_out']} held out), "
            f"drawn on {count['masks']}, absent from {count['absent']}{unknown}"
        )
    warnings = [text for label, count in counts.items() for text in _class_warnings(label, count, used)]
    return DataReport(counts, sentences, [*warnings, *_folder_warnings(folder, used)])


def _class_warnings(label: str, count: dict[str, int], used: list[Sample]) -> Iterator[str]:
    if not count["present"]:
        yield f"{label} is on no image: it cannot be learnt; draw it on {FEW} or take it out of the classes"
        return
    if not count["masks"]:
        yield (
            f"{label} is labelled on {_images(count['present'])} and drawn on none: its masks will be rough; "
            f"draw it on {FEW}"
        )
    elif 0 < count["train"] < FEW:
        verb = "drawn" if count["masks"] == count["present"] else "labelled"
        yield f"{label} is {verb} on {_images(count['train'])} to learn from: expect little; {FEW} or more help"
    if not count["train"]:
        yield f"{label} is on held-out images only: it cannot be learnt; move some to train in split.json"
    if not count["held_out"]:
        yield f"{label} is on no held-out image: nothing tells how good its masks are; hold one out in split.json"
    if not count["absent"]:
        yield f"{label} is never absent: it will be drawn on every image; if some lack it, add a few of those"
    areas = [sample.coverage[label] for sample in used if label in sample.coverage]
    if areas and (area := float(np.median(areas))) < TINY:
        yield (
            f"{label} covers {100 * area:.2g} % of an image (median), a few pixels at the training's resolution: "
            "many will be missed; cut the images into tiles"
        )


def _folder_warnings(folder: DataFolder, used: list[Sample]) -> Iterator[str]:
    if of_one_group(used):
        yield ONE_GROUP

    def count(what: list[bool]) -> str:
        number = sum(what)
        return f"{_images(number)} {'is' if number == 1 else 'are'}" if number else ""

    if empty := count([s.has_masks and not s.masks for s in used]):
        yield f"{empty} empty, which teaches that no class is there; leave out what is merely not annotated yet"
    if partly := count([bool(s.masks) and not s.has_masks for s in used]):
        yield f"{partly} drawn in part: classes neither drawn nor absent in labels.csv are left open there"
    if unknown := count([not s.presence for s in used]):
        yield f"{unknown} not labelled at all and will not be learnt from; label or remove"
    if folder.skipped:
        reasons = "; ".join(list(folder.skipped.values())[:3])
        more = f" and {len(folder.skipped) - 3} more" if len(folder.skipped) > 3 else ""
        yield f"{len(folder.skipped)} left out: {reasons}{more}"


def _present(samples: list[Sample], label: str) -> int:
    return sum(sample.presence.get(label, False) for sample in samples)


def _images(number: int) -> str:
    return f"{number} image{'' if number == 1 else 's'}"
