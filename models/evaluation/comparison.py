"""Two models side by side: the held-out images on which their masks differ most, for people who decide between them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import Card, write_card
from models.data.sample import Sample
from models.evaluation.evaluate import FrameFigures
from models.evaluation.figures import COLOURS, Picture, line_width, outline
from models.evaluation.gallery import GALLERY, shrunk_mask, shrunk_picture, write_picture
from models.families import Model, steps_of

DIFFERS = "differs"  # the `end` of these entries in a card's gallery
MAX_IMAGES = 4
MAX_CLASSES = 2  # of an image
OPACITY = 0.35


def add_comparison(
    checkpoint: Path,
    card: Card,
    models: tuple[Model, Model],
    samples: Sequence[Sample],
    figures: tuple[Sequence[FrameFigures], Sequence[FrameFigures]],
) -> None:
    """Draw the images on which two models' figures differ most, and add them to the card's gallery.

    `card.gallery` gets an entry per image, the largest difference first: {"name", "end": DIFFERS, "iou", "before_iou":
    of the classes shown, "frame": file, "classes": [{"class", "iou", "before_iou", "before", "new", "accepted":
    files}]}, where a file is a name in the folder `gallery` beside the card.

    Args:
        checkpoint: the new model's folder, complete, with its gallery.
        card: its card; written again when all pictures are there.
        models: the earlier model and the new one.
        samples: held-out images.
        figures: of either model on them, in the same order.

    Raises:
        CheckpointError: a picture cannot be written.
    """
    folder = checkpoint / GALLERY
    folder.mkdir(exist_ok=True)
    by_name = {sample.name: sample for sample in samples}
    for number, (name, labels) in enumerate(most_different(*figures), 1):
        sample = by_name[name]
        image = sample.read_image()
        small = shrunk_picture(image)
        frame = f"d{number}-frame.jpg"
        write_picture(folder / frame, small)
        masks = [{step.label: step.mask for step in steps_of(model, [image])[0]} for model in models]
        classes: list[dict[str, Any]] = []
        for label, (old, new) in labels.items():
            truth = sample.read_mask(label, (image.shape[0], image.shape[1]))
            colour = COLOURS[card.classes.index(label) % len(COLOURS)]
            entry: dict[str, Any] = {"class": label, "iou": new, "before_iou": old}
            for which, mask in (("before", masks[0][label]), ("new", masks[1][label]), ("accepted", truth)):
                entry[which] = f"d{number}-{card.classes.index(label)}-{which}.jpg"
                write_picture(folder / entry[which], _drawn(small, shrunk_mask(mask), colour))
            classes.append(entry)
        card.gallery.append(
            {
                "name": name,
                "end": DIFFERS,
                "iou": float(np.mean([new for _, new in labels.values()])),
                "before_iou": float(np.mean([old for old, _ in labels.values()])),
                "frame": frame,
                "classes": classes,
            }
        )
    write_card(checkpoint, card)


def most_different(
    before: Sequence[FrameFigures], new: Sequence[FrameFigures]
) -> list[tuple[str, Mapping[str, tuple[float, float]]]]:
    """Names of the images whose figures differ most, each with its most different classes: (before, new) IoU.

    A class that was drawn in vain counts 0, one that was rightly left out 1.
    """
    found: list[tuple[str, Mapping[str, tuple[float, float]]]] = []
    for old, now in zip(before, new, strict=True):
        pairs = {label: (_score(old, label), _score(now, label)) for label in now.decisions.keys() | now.agreements}
        ranked = sorted(pairs.items(), key=lambda pair: (-abs(pair[1][0] - pair[1][1]), pair[0]))
        differing = {label: pair for label, pair in ranked[:MAX_CLASSES] if pair[0] != pair[1]}
        if differing:
            found.append((now.name, differing))
    found.sort(key=lambda image: -max(abs(old - now) for old, now in image[1].values()))
    return found[:MAX_IMAGES]


def _score(frame: FrameFigures, label: str) -> float:
    if label in frame.agreements:
        return float(frame.agreements[label].iou)
    decision = frame.decisions[label]
    return float(decision.predicted == decision.present)


def _drawn(image: Picture, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> Picture:
    """A mask over its image, both of shape (H, W), tinted and outlined."""
    picture = image.astype(np.float32)
    picture[mask] = (1 - OPACITY) * picture[mask] + OPACITY * np.array(colour, dtype=np.float32)
    picture[outline(mask, line_width(image))] = colour
    return picture.astype(np.uint8)
