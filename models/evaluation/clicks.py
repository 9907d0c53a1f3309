"""The worth of clicks and boxes: a robot user of the smart tool clicks where the mask is worst, and it is drawn again.

The robot of Nickisch et al. 2010 with clicks in place of strokes, as interactive segmentation is measured since (Xu et
al. 2016): each click is the innermost pixel of the largest error. As in the editor before anything is accepted, clicks
accumulate over what was there to begin with.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.data.sample import Sample
from models.families import Embedding, Model
from models.masks.components import connected_components, largest_component
from models.masks.metrics import Mask, iou
from models.prompt import Click, Prompt

STARTS = ("nothing", "model")
MIN_SHARE = 0.001  # of an image: smaller components are no objects to point at


def next_click(mask: Mask, truth: Mask) -> Click | None:
    """A click on the innermost pixel of the largest error, missing or surplus; None if there is none.

    Args:
        mask: what is drawn, shape (H, W), bool.
        truth: what should be, of the same shape.
    """
    errors = [largest_component(error) for error in (truth & ~mask, mask & ~truth)]
    sizes = [int(error.sum()) for error in errors]
    if not any(sizes):
        return None
    error = np.pad(errors[int(np.argmax(sizes))], 1).astype(np.uint8)
    inner = cv2.distanceTransform(error, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(inner.argmax()), inner.shape)
    return Click(float(column) + 0.5, float(row) + 0.5, positive=bool(truth[row, column]))


def clicked(model: Model, embedding: Embedding, label: str, start: Mask, truth: Mask, count: int) -> list[float]:
    """IoU of a class's mask before any click and after each of `count`.

    Args:
        model: answers the clicks.
        embedding: the frame.
        label: the class.
        start: what is drawn already, shape (H, W), bool; may be empty.
        truth: what should be.
        count: clicks.
    """
    mask, clicks = start, list[Click]()
    ious = [iou(mask, truth)]
    existing = [start] if start.any() else []
    for _ in range(count):
        click = next_click(mask, truth)
        if click is not None:
            clicks.append(click)
            found = model.prompt(embedding, Prompt(tuple(clicks)), label, existing)
            # A new object comes beside what was there.
            mask = found.mask if found.improves is not None else found.mask | start
        ious.append(iou(mask, truth))
    return ious


def measure_clicks(
    model: Model,
    samples: Sequence[Sample],
    count: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Click on every class that is truly on the samples.

    Args:
        model: answers the clicks.
        samples: labelled images.
        count: clicks a class and image, at least 1.
        progress: told (done, total) after each sample.

    Returns:
        {"count", "classes": {CLASS: {"frames", "nothing", "model"}}}: of each start the mean IoU after 0, 1, 2 ...
        clicks; "model" begins with what the model draws by itself.
    """
    found: dict[str, dict[str, list[list[float]]]] = {label: {start: [] for start in STARTS} for label in model.classes}
    for done, sample in enumerate(samples, 1):
        image = sample.read_image()
        embedding = model.embed(image)
        drawn = {segment.label: segment.mask for segment in model.predict([image])[0].segments}
        for label in (label for label in model.classes if label in sample.masks):
            truth = sample.read_mask(label, (image.shape[0], image.shape[1]))
            empty = np.zeros_like(truth)
            for start, mask in (("nothing", empty), ("model", drawn.get(label, empty))):
                found[label][start].append(clicked(model, embedding, label, mask, truth, count))
        progress(done, len(samples))
    classes = {
        label: {"frames": len(starts["model"])}
        | {start: np.mean(ious, axis=0).tolist() for start, ious in starts.items()}
        for label, starts in found.items()
        if starts["model"]
    }
    return {"count": count, "classes": classes}


def objects_of(mask: Mask) -> list[Mask]:
    """The connected components of a mask that are large enough to point at, the largest first."""
    labels, found = connected_components(mask)
    large = [one for one in found if one.area >= MIN_SHARE * mask.size]
    return [labels == one.number for one in sorted(large, key=lambda one: -one.area)]


def tight_box(truth: Mask) -> Mask:
    """The box around an object, as a mask of the same shape."""
    box = np.zeros_like(truth)
    x, y, width, height = cv2.boundingRect(truth.astype(np.uint8))
    box[y : y + height, x : x + width] = True
    return box


def measure_objects(
    model: Model,
    samples: Sequence[Sample],
    classes: Sequence[str],
    count: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Point at each object of each class, as annotators do where no model draws by itself.

    Objects are the connected components of a class that cover at least `MIN_SHARE` of the image.

    Args:
        model: answers the prompts; need not know the classes.
        samples: labelled images.
        classes: whose objects to point at.
        count: clicks on an object, at least 1: the first in its middle, each further one on the largest error.
        progress: told (done, total) after each sample.

    Returns:
        {"classes": {CLASS: {"objects", "clicks", "box"}}, "clicks", "box"}: mean IoU after 1, 2 ... clicks, and after a
        box alone; the outer ones over all objects, None where there are none.
    """
    clicks: dict[str, list[list[float]]] = {label: [] for label in classes}
    boxes: dict[str, list[float]] = {label: [] for label in classes}
    for done, sample in enumerate(samples, 1):
        image = sample.read_image()
        embedding = None
        for label in (label for label in classes if label in sample.masks):
            truth = sample.read_mask(label, (image.shape[0], image.shape[1]))
            for single in objects_of(truth):
                embedding = model.embed(image) if embedding is None else embedding
                clicks[label].append(clicked(model, embedding, label, np.zeros_like(single), single, count)[1:])
                box = model.prompt(embedding, Prompt(boxes=(tight_box(single),)), label)
                boxes[label].append(iou(box.mask, single))
        progress(done, len(samples))
    found = {
        label: {
            "objects": len(boxes[label]),
            "clicks": np.mean(clicks[label], axis=0).tolist(),
            "box": float(np.mean(boxes[label])),
        }
        for label in classes
        if boxes[label]
    }
    rows = [row for label in classes for row in clicks[label]]
    every = [value for label in classes for value in boxes[label]]
    return {
        "classes": found,
        "clicks": np.mean(rows, axis=0).tolist() if rows else None,
        "box": float(np.mean(every)) if every else None,
    }


def measure_adapted(
    model: Model,
    adapt: Callable[[Sequence[tuple[NDArray[np.uint8], list[Mask]]]], Model],
    samples: Sequence[Sample],
    groups: Mapping[str, str],
    classes: Sequence[str],
    count: int,
    taught: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """As `measure_objects`, before and after a class's first images have taught the model what its objects look like.

    Args:
        model: see `measure_objects`.
        adapt: makes a model of images and the objects of one class on each.
        samples: labelled images, the first of which are the examples.
        groups: name -> group; images of the examples' groups measure nothing.
        classes, count: see `measure_objects`.
        taught: images of each class that are examples.
        progress: told (done, total) after each class.

    Returns:
        {"before", "after"}: each as `measure_objects` returns it, on the same objects, of the classes that have enough.
    """
    before, after = list[dict[str, Any]](), list[dict[str, Any]]()
    for done, label in enumerate(classes, 1):
        examples, seen, rest = list[tuple[NDArray[np.uint8], list[Mask]]](), set[str](), list[Sample]()
        for sample in (one for one in samples if label in one.masks):
            if len(examples) == taught:
                rest.append(sample)
                continue
            image = sample.read_image()
            if objects := objects_of(sample.read_mask(label, (image.shape[0], image.shape[1]))):
                examples.append((image, objects))
                seen.add(groups[sample.name])
        rest = [sample for sample in rest if groups[sample.name] not in seen]
        if rest and (found := measure_objects(model, rest, [label], count))["classes"]:
            before.append(found)
            after.append(measure_objects(adapt(examples), rest, [label], count))
        progress(done, len(classes))
    return {"before": _joined(before), "after": _joined(after)}


def _joined(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The results of `measure_objects` for several classes as one."""
    classes = {label: known for one in found for label, known in one["classes"].items()}
    sizes = [known["objects"] for known in classes.values()]
    mean = {
        what: np.average([known[what] for known in classes.values()], axis=0, weights=sizes).tolist()
        if classes
        else None
        for what in ("clicks", "box")
    }
    return {"classes": classes, **mean}
