"""Errors planted into a well labelled data folder: how many of them does a review find?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from models.data.png import write_png
from models.data.sample import Sample
from models.errors import DataError
from models.evaluation.review import findings, opinions
from models.families import Model

SHARE = 0.05  # of the images get an error, of one kind after the other
SHIFT = 0.5  # of the object's longer side
REVIEWED = 0.1  # of the images
KINDS = ("swapped", "shifted", "missing")


def plant(
    samples: Sequence[Sample], folder: Path, share: float = SHARE, seed: int = 0
) -> tuple[list[Sample], dict[str, str]]:
    """The samples with errors in `share` of them, of the three kinds in turn.

    Args:
        samples: with masks.
        folder: for the wrong masks.
        share: of the samples that get an error.
        seed: of the choice.

    Returns:
        All samples in order, and the kind of error of each that has one.

    Raises:
        DataError: fewer than `share` of them have a mask.
    """
    rng = np.random.default_rng(seed)
    masked = [index for index, sample in enumerate(samples) if sample.masks]
    count = max(round(share * len(samples)), len(KINDS))
    if len(masked) < count:
        raise DataError(f"{count} errors cannot be planted: only {len(masked)} images have masks")
    changed, planted = list(samples), {}
    for number, index in enumerate(rng.permutation(masked)[:count]):
        sample, kind = samples[int(index)], KINDS[number % len(KINDS)]
        changed[int(index)] = _wrong(sample, kind, folder, rng)
        planted[sample.name] = kind
    return changed, planted


def _wrong(sample: Sample, kind: str, folder: Path, rng: np.random.Generator) -> Sample:
    label = str(rng.choice(sorted(sample.masks)))
    masks, presence = dict(sample.masks), dict(sample.presence)
    if kind == "missing":
        del masks[label]
        presence[label] = False
    elif kind == "swapped":
        other = str(rng.choice(sorted(set(presence) - {label}) or [label]))
        masks[other], gone = masks[label], masks.get(other)
        masks.pop(label)
        if gone is not None:
            masks[label] = gone
        presence |= {other: True, label: gone is not None}
    else:
        image = sample.read_image()
        mask = sample.read_mask(label, (image.shape[0], image.shape[1])).astype(np.uint8)
        masks[label] = folder / f"{sample.name}.png"
        write_png(masks[label], _shifted(mask, rng).astype(bool))
    return replace(sample, masks=masks, presence=presence)


def _shifted(mask: Any, rng: np.random.Generator) -> Any:
    """A mask moved by `SHIFT` of its longer side, towards where there is more room."""
    x, y, width, height = cv2.boundingRect(mask)
    step = max(SHIFT * max(width, height), 2.0)
    room_x, room_y = mask.shape[1] - width - 2 * x, mask.shape[0] - height - 2 * y
    along = rng.random() < 0.5
    move = (np.copysign(step, room_x), 0.0) if along else (0.0, np.copysign(step, room_y))
    moved = cv2.warpAffine(
        mask, np.array([[1, 0, move[0]], [0, 1, move[1]]]), mask.shape[::-1], flags=cv2.INTER_NEAREST
    )
    return moved if moved.any() else mask


def measure_review(
    model: Model,
    samples: Sequence[Sample],
    folder: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Plant errors, review the images, and count the errors among the first `REVIEWED` of them.

    Args:
        model: that has not learnt the samples.
        samples: labelled well.
        folder: for the wrong masks.
        seed: of the errors.

    Returns:
        {"images", "planted", "reviewed", "recall", "kinds": {KIND: [found, planted]}}.
    """
    changed, planted = plant(samples, folder, seed=seed)
    order = [one.image for one in findings(opinions(model, changed, progress=progress))]
    return recall_of(order, planted, len(samples))


def recall_of(order: Sequence[str], planted: Mapping[str, str], images: int) -> dict[str, Any]:
    """How many planted errors are among the first `REVIEWED` of the images; see `measure_review`.

    Args:
        order: names of images, the most doubtful ones first.
        planted: name -> kind of its error.
        images: of the project.
    """
    first = order[: round(REVIEWED * images)]
    kinds = {
        kind: [sum(planted[name] == kind for name in first if name in planted), list(planted.values()).count(kind)]
        for kind in KINDS
    }
    return {
        "images": images,
        "planted": len(planted),
        "reviewed": len(first),
        "recall": sum(found for found, _ in kinds.values()) / len(planted),
        "kinds": kinds,
    }
