"""The prompts of an annotator's smart tool, and the regions drawn already, as masks and points of the image."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.errors import RegionError
from backend.label_studio.controls import REGION_CONTROLS
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.pairs import merge_results
from backend.label_studio.controls.region import Mask, is_finite, numbers, value_of
from backend.label_studio.label_config import LabelConfig
from models.prompt import Click, Prompt

logger = logging.getLogger(__name__)

# The newest of more are taken: each click costs a kernel over the whole frame.
MAX_CLICKS, MAX_SHAPES = 100, 8


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


def read_prompts(
    task: Mapping[str, Any], context: Mapping[str, Any], config: LabelConfig, shape: tuple[int, int]
) -> Prompted | None:
    """Read `params.context` of a /predict request.

    Args:
        task: as Label Studio sends it with a prompt: the user's drafts, annotations and predictions included.
        context: `result` holds every prompt of one tool and label that was not accepted yet, the newest last.
        config: the project's labelling config.
        shape: (H, W) of the image.

    Returns:
        None if there is no prompt in it, or no control of the config draws its label.

    Raises:
        RegionError: a prompt cannot be read.
    """
    regions = merge_results(context.get("result"))
    label = next((label for region in reversed(regions) if (label := _label(region))), None)
    control = _control(config, label)
    if label is None or control is None:
        if regions:
            logger.warning("task %s: nothing is drawn for a prompt: no control offers %r", task.get("id"), label)
        return None
    clicks: list[Click] = []
    boxes: list[Mask] = []
    outlines: list[Mask] = []
    existing = dict(_drawn(task, control, label, shape))
    for region in (region for region in regions if _label(region) == label):
        kind = _kind(region)
        if kind == "KeyPointLabels":
            x, y = numbers(region, "x", "y")
            place = x / 100 * shape[1], y / 100 * shape[0]
            clicks.append(Click(*place, positive=region.get("is_positive") is not False))
        elif kind == "RectangleLabels":
            boxes.append(_mask(kind, region, shape))
        elif kind is not None:
            outlines.append(_mask(kind, region, shape))
    prompt = Prompt(tuple(clicks[-MAX_CLICKS:]), tuple(boxes[-MAX_SHAPES:]), tuple(outlines[-MAX_SHAPES:]))
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
    marks = {"rle": "BrushLabels", "points": "PolygonLabels", "radiusX": "EllipseLabels", "height": "RectangleLabels"}
    kind = next((kind for key, kind in marks.items() if key in value), None)
    return kind or ("KeyPointLabels" if "x" in value else None)


def _mask(kind: str, region: Mapping[str, Any], shape: tuple[int, int]) -> Mask:
    """A region at the size of its image; percent fit any, a brush must have been painted on it."""
    height, width = shape
    return REGION_CONTROLS[kind].to_mask({**region, "original_height": height, "original_width": width})


def _control(config: LabelConfig, label: str | None) -> Control | None:
    """The most exact control that offers a stored label."""
    offering = [control for control in config.region_controls if label in control.labels.values()]
    return min(offering, key=lambda control: list(REGION_CONTROLS).index(control.tag), default=None)


def _drawn(task: Mapping[str, Any], control: Control, label: str, shape: tuple[int, int]) -> Iterator[tuple[str, Mask]]:
    """The regions of a label that the annotator sees: the newest draft, else annotation, else prediction holds it."""
    for key in ("drafts", "annotations", "predictions"):
        listed = task.get(key)
        entries = [entry for entry in listed if isinstance(entry, Mapping)] if isinstance(listed, list) else []
        if not entries:
            continue
        newest = max(entries, key=lambda entry: (str(entry.get("updated_at") or ""), _number(entry.get("id"))))
        for region in merge_results(newest.get("result")):
            if region.get("from_name") != control.name or _label(region) != label or not region.get("id"):
                continue
            try:
                mask = _mask(control.tag, region, shape)
            except RegionError as error:
                logger.info("task %s: not improved: %s", task.get("id"), error)
                continue
            if mask.any():
                yield str(region["id"]), mask
        return


def _number(value: Any) -> float:
    return float(value) if is_finite(value) else 0.0
