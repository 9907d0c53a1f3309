"""The prompts of an annotator's smart tool, and the regions drawn already, as masks and points of the image."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import RegionError
from backend.label_studio.controls import REGION_CONTROLS
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.pairs import MARKS, merge_results
from backend.label_studio.controls.region import Mask, is_finite, numbers, value_of
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.task_images import TaskImage, images_of_region, task_images
from models.errors import brief
from models.prompt import Click, Prompt

logger = logging.getLogger(__name__)

KINDS = {adapter.type: tag for tag, adapter in REGION_CONTROLS.items()}  # type of a region -> tag

# The newest of more are taken: each click costs a kernel over the whole frame.
MAX_CLICKS, MAX_SHAPES = 100, 8
MAX_DRAWN_BYTES = 256 << 20  # of the masks of regions that are there already, the newest first


@dataclass(frozen=True, eq=False)
class Prompted:
    """A prompt for one label.

    Attributes:
        label: the class, as the model knows it.
        control: the control whose region is the answer.
        prompt: what was pointed at.
        existing: region id -> mask of shape (H, W), bool: what that control has drawn of this class already.
    """

    label: str
    control: Control
    prompt: Prompt
    existing: dict[str, Mask]


def prompted_image(task: Mapping[str, Any], context: Mapping[str, Any], config: LabelConfig) -> TaskImage:
    """The image of a task that the newest prompt is on."""
    images = task_images(task, config)
    regions = merge_results(context.get("result"))
    return next(iter(images_of_region(regions[-1], config, images)), images[0]) if regions else images[0]


def prompted_class(context: Mapping[str, Any], config: LabelConfig) -> str | None:
    """The class of the newest prompt, as the model knows it; None if it has none that the config offers."""
    regions = merge_results(context.get("result"))
    label = next((label for region in reversed(regions) if (label := _label(region))), None)
    control = None if label is None else config.control_for(label, stored=True)
    return None if label is None or control is None else control.class_of(label) or label


def read_prompts(
    task: Mapping[str, Any],
    context: Mapping[str, Any],
    config: LabelConfig,
    shape: tuple[int, int],
    image: TaskImage | None = None,
) -> Prompted | None:
    """Read `params.context` of a /predict request.

    Args:
        task: as Label Studio sends it with a prompt: the user's drafts, annotations and predictions included.
        context: `result` holds every prompt of one tool and label that was not accepted yet, the newest last.
        config: the project's labelling config.
        shape: (H, W) of the image.
        image: the one that is prompted on, as `prompted_image` finds it; None if the task has no other.

    Returns:
        None if there is no prompt in it, or no control of the config draws its label.

    Raises:
        RegionError: a prompt cannot be read.
    """
    whole, images = config, task_images(task, config)
    image = images[0] if image is None else image
    config = whole.on(image.column)

    def is_here(region: Mapping[str, Any]) -> bool:
        return image in images_of_region(region, whole, images)

    regions = [region for region in merge_results(context.get("result")) if is_here(region)]
    label = next((label for region in reversed(regions) if (label := _label(region))), None)
    control = None if label is None else config.control_for(label, stored=True)
    if label is None or control is None:
        if regions:
            logger.warning("task %s: nothing is drawn for a prompt: no control offers %s", task.get("id"), brief(label))
        return None
    seen = [
        region
        for region in _seen(task)
        if region.get("from_name") == control.name and _label(region) == label and is_here(region)
    ]
    most = max(MAX_DRAWN_BYTES // max(shape[0] * shape[1], 1), 1)
    existing = {key: mask for region in seen[-most:] for key, mask in _drawn(task, control, region, shape)}
    # No more is drawn than is taken: each mask has the size of the image.
    clicks: list[Click] = []
    shapes: dict[bool, list[tuple[str, Mapping[str, Any]]]] = {True: [], False: []}  # whether it is a box
    for region in (region for region in regions if _label(region) == label):
        kind = _kind(region)
        if kind == "KeyPointLabels":
            x, y = numbers(region, "x", "y")
            place = x / 100 * shape[1], y / 100 * shape[0]
            clicks.append(Click(*place, positive=region.get("is_positive") is not False))
        elif kind is not None:
            shapes[kind == "RectangleLabels"].append((kind, region))
    boxes, outlines = (
        tuple(_mask(kind, region, shape) for kind, region in shapes[box][-MAX_SHAPES:]) for box in (True, False)
    )
    prompt = Prompt(tuple(clicks[-MAX_CLICKS:]), boxes, outlines)
    return Prompted(control.class_of(label) or label, control, prompt, existing)


def _label(region: Mapping[str, Any]) -> str | None:
    """The stored label, of any tool."""
    for key, labels in value_of(region).items():
        if str(key).endswith("labels") and isinstance(labels, list) and labels:
            return str(labels[0])
    return None


def _kind(region: Mapping[str, Any]) -> str | None:
    """The kind of a region, by its coordinates: generic tools have other types than those with labels of their own."""
    value = value_of(region)
    kind = next((KINDS[kind] for mark, kind in MARKS.items() if mark in value), None)
    return kind or ("KeyPointLabels" if "x" in value else None)


def _mask(kind: str, region: Mapping[str, Any], shape: tuple[int, int]) -> Mask:
    """A region at the size of its image; percent fit any, a brush must have been painted on it."""
    height, width = shape
    return REGION_CONTROLS[kind].to_mask({**region, "original_height": height, "original_width": width})


def _seen(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The regions that the annotator sees: the newest draft, else annotation, else prediction holds them."""
    for key in ("drafts", "annotations", "predictions"):
        listed = task.get(key)
        entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
        if entries:
            newest = max(entries, key=lambda entry: (str(entry.get("updated_at") or ""), _number(entry.get("id"))))
            return merge_results(newest.get("result"))
    return []


def _drawn(
    task: Mapping[str, Any], control: Control, region: Mapping[str, Any], shape: tuple[int, int]
) -> Iterator[tuple[str, Mask]]:
    """The id and the mask of a region that is there already; nothing if it cannot be improved."""
    try:
        mask = _mask(control.tag, region, shape)
    except RegionError as error:
        logger.info("task %s: not improved: %s", task.get("id"), error)
        return
    if mask.any() and region.get("id"):
        yield str(region["id"]), mask


def _number(value: Any) -> float:
    return float(value) if is_finite(value) else 0.0
