"""A model's worst and best held-out images in pictures, from the map to the mask, as in the paper's Figure 5."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.checkpoint import Card, write_card
from models.data.png import write_png
from models.data.sample import Sample
from models.errors import CheckpointError
from models.evaluation.evaluate import FrameFigures
from models.evaluation.figures import Picture, step_pictures
from models.pipeline import Pipeline, Steps

GALLERY = "gallery"
SIDE = 384  # pixels of a picture's longer side
MAX_IMAGES = 3  # at either end
MAX_CLASSES = 4  # of an image: with these limits a gallery stays well below 1.5 MB
# Figure 5's columns -> the pictures of `step_pictures`. Photographs are JPEG, masks PNG.
COLUMNS = {"map": "1-map", "trimap": "2-trimap", "boundary": "3-boundary", "mask": "5-mask"}


def add_gallery(
    checkpoint: Path, card: Card, pipeline: Pipeline, samples: Sequence[Sample], figures: Sequence[FrameFigures]
) -> None:
    """Draw the images on which a model did worst and best, and list the pictures on its card.

    Images rank by the mean IoU of their classes, a class drawn where it is not counting 0. Of each, the classes at the
    same end are shown. `card.gallery` gets an entry per image, worst first:
    {"name", "end": "worst" or "best", "iou", "frame": file, "classes": [{"class", "iou", "map", "trimap", "boundary",
    "mask", "accepted": files}]}, where a file is a name in the folder `gallery` beside the card.

    Args:
        checkpoint: the model's folder, complete.
        card: its card; written again when all pictures are there.
        pipeline: the model.
        samples: held-out images.
        figures: how the model did on them, in any order.

    Raises:
        CheckpointError: a picture cannot be written.
    """
    folder = checkpoint / GALLERY
    folder.mkdir()
    by_name = {sample.name: sample for sample in samples}
    for number, (name, scores, end) in enumerate(_chosen(figures), 1):
        ranked = sorted(scores, key=scores.__getitem__, reverse=end == "best")[:MAX_CLASSES]
        frame, drawn = _pictures(pipeline, by_name[name], ranked)
        write_picture(folder / f"{number}-frame.jpg", frame)
        classes: list[dict[str, Any]] = []
        for label, pictures in drawn.items():
            classes.append({"class": label, "iou": scores[label]})
            for column, picture in pictures.items():
                kind = "jpg" if picture.ndim == 3 else "png"
                classes[-1][column] = f"{number}-{pipeline.classes.index(label)}-{column}.{kind}"
                write_picture(folder / classes[-1][column], picture)
        card.gallery.append(
            {"name": name, "end": end, "iou": _mean(scores), "frame": f"{number}-frame.jpg", "classes": classes}
        )
    write_card(checkpoint, card)


def _pictures(
    pipeline: Pipeline, sample: Sample, labels: Sequence[str]
) -> tuple[Picture, dict[str, dict[str, Picture]]]:
    """The image, and Figure 5's columns of each class."""
    image = sample.read_image()
    steps = {step.label: step for step in pipeline.steps([image])[0]}
    small = shrunk_picture(image)
    drawn = {}
    for label in labels:
        pictures = step_pictures(small, _small(steps[label]))
        truth = sample.read_mask(label, (image.shape[0], image.shape[1])).astype(np.uint8) * 255
        drawn[label] = {column: pictures[name] for column, name in COLUMNS.items()}
        drawn[label]["accepted"] = _shrunk(truth, cv2.INTER_NEAREST)
    return small, drawn


def _chosen(figures: Sequence[FrameFigures]) -> list[tuple[str, Mapping[str, float], str]]:
    """Name, IoU per class and end of the images to show, worst first; none twice."""
    scored = [(frame.name, scores) for frame in figures if (scores := _scores(frame))]
    scored.sort(key=lambda pair: _mean(pair[1]))
    worst = min(MAX_IMAGES, (len(scored) + 1) // 2)
    best = min(MAX_IMAGES, len(scored) // 2)
    ends = ["worst"] * worst + ["best"] * best
    return [(*pair, end) for pair, end in zip(scored[:worst] + scored[len(scored) - best :], ends, strict=True)]


def _scores(frame: FrameFigures) -> dict[str, float]:
    """IoU of every class that is on the image or was drawn on it."""
    drawn_in_vain = [label for label, d in frame.decisions.items() if d.predicted and not d.present]
    return dict.fromkeys(drawn_in_vain, 0.0) | {label: float(a.iou) for label, a in frame.agreements.items()}


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)


def _small(step: Steps) -> Steps:
    """The step at the size of its picture: outlines drawn before shrinking would fade."""
    return replace(step, mask=shrunk_mask(step.mask), alpha=_shrunk(step.alpha, cv2.INTER_AREA))


def shrunk_picture(image: Picture) -> Picture:
    """An image at the size of its picture; shape (h, w, 3), uint8."""
    return _shrunk(image, cv2.INTER_AREA)


def shrunk_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask at the size of its picture; shape (h, w), bool."""
    return _shrunk(mask.astype(np.uint8), cv2.INTER_NEAREST).astype(bool)


def _shrunk(picture: NDArray[Any], interpolation: int) -> NDArray[Any]:
    height, width = picture.shape[:2]
    scale = min(SIDE / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation))


def write_picture(path: Path, picture: Picture) -> None:
    """Write a grey picture as PNG, a coloured one as JPEG. Raises CheckpointError."""
    try:
        if picture.ndim == 2:
            write_png(path, picture)
        else:
            colours = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            path.write_bytes(cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes())
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error}; check the disk and the folder's permissions"
        ) from error
