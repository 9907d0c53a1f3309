"""Accepted annotations as a data folder to train on."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backend.errors import ConfigError, ImageError, RegionError
from backend.label_studio.acceptance import AcceptanceByVersion, AcceptanceStatistics, acceptance_sentence
from backend.label_studio.controls import CHOICES, CONTROLS, REGION_CONTROLS
from backend.label_studio.controls.brush import BrushLabels
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.pairs import merge_results
from backend.label_studio.controls.region import Mask, value_of
from backend.label_studio.images import ImageLoader
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.task_data import group_of
from models.data.writer import DataFolderWriter

# Why a task is left out.
CANCELLED = "skipped by the annotator"
REJECTED = "rejected in review"
NO_ANNOTATION = "without an annotation"
NO_IMAGE = "with an image that cannot be read"
NO_REGION = "with a region that cannot be read"
NO_LABEL = "with no label that the config still offers"
# Why a region is left out or changed, while its task stays.
UNKNOWN_LABEL = "regions with a label that the config no longer offers"
NO_LABEL_LEFT = "regions whose label was taken away"
OTHER_KIND = "regions of a kind that is not read here"
RESIZED = "regions of another size than the image, scaled to it"
UNDRAWN = "choices taken without a region of that class; the missing region decides"

MAX_PROBLEMS = 20


@dataclass
class AcceptedReport:
    """Which of the tasks given to `write_data_folder` were used, and which were not.

    Attributes:
        used: tasks written.
        dropped: reason -> tasks left out.
        regions: reason -> regions left out or changed.
        classes: class -> tasks on which it is present.
        problems: a sentence for each image or region that could not be read, the first MAX_PROBLEMS.
        acceptance: model version -> class -> how many of its masks were accepted.
        groups: groups among the tasks used; 0 where no field of the tasks says which.
    """

    used: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    regions: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    acceptance: AcceptanceByVersion = field(default_factory=dict)
    groups: int = 0

    def problem(self, text: str) -> None:
        """Keep a sentence about something unreadable."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    @property
    def text(self) -> str:
        """The report in a few lines for people."""
        lines = [f"{self.used} accepted {'task' if self.used == 1 else 'tasks'}"]
        if self.classes:
            lines[0] += ": " + ", ".join(f"{name} on {count}" for name, count in self.classes.items())
        if self.groups:
            lines.append(f"Groups that are kept together: {self.groups}")
        if self.dropped:
            lines.append("Left out: " + ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()))
        lines += [f"{count} {reason}" for reason, count in self.regions.items()]
        lines += [acceptance_sentence(version, classes) for version, classes in self.acceptance.items()]
        return "\n".join(lines + self.problems)


@dataclass(frozen=True)
class Truth:
    """The masks and the presence of classes that an annotation states of an image.

    Attributes:
        masks: class -> mask of shape (H, W), bool, the union of its regions, not empty.
        presence: class -> whether it is on the image; None where the annotation leaves it open.
    """

    masks: dict[str, Mask]
    presence: dict[str, bool | None]


def write_data_folder(
    tasks: Iterable[Mapping[str, Any]],
    config: LabelConfig,
    images: ImageLoader,
    out: Path,
    parent_prediction: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda annotation: None,
    *,
    group_field: str | None = None,
) -> AcceptedReport:
    """Write the accepted annotations of a project as a data folder.

    Of a task's annotations one counts: the newest ground truth, else the newest. Skipped and rejected ones never do.
    A task accepted without regions is an example of every class being absent. A task with a region that cannot be
    read is left out as a whole: otherwise its class would be learnt as absent.

    Args:
        tasks: as in Label Studio's JSON export.
        config: the project's labelling config.
        images: fetches the tasks' images.
        out: folder to write: images/task-ID.png, masks/CLASS/task-ID.png (0/255), classes.txt, labels.csv and, with
            groups, groups.json.
        parent_prediction: the prediction that an annotation started from, with `result` and `model_version`; None for
            none.
        group_field: field of the tasks' data that names the group of each (see `task_data.group_field`); tasks of one
            group are never on both sides of a split. None writes no groups.

    Returns:
        What was used and what was left out, with the reasons.

    Raises:
        ConfigError: a class cannot be a folder's name.
    """
    classes = config.training_classes
    _check_names(classes)
    report = AcceptedReport(classes=dict.fromkeys(classes, 0))
    dropped: Counter[str] = Counter()
    regions: Counter[str] = Counter()
    groups: set[str] = set()
    with DataFolderWriter(out, classes) as folder:
        for task in tasks:
            try:
                annotation = accepted_annotation(task)
                image = images.load(task, config.image_key)
                truth = read_annotation(annotation, config, image.shape[:2], regions)
            except _LeftOut as reason:
                dropped[str(reason)] += 1
                continue
            except (ImageError, RegionError) as error:
                dropped[NO_IMAGE if isinstance(error, ImageError) else NO_REGION] += 1
                report.problem(str(error) if isinstance(error, ImageError) else f"task {task['id']}: {error}")
                continue
            group = group_of(task.get("data"), group_field)
            groups.update([] if group is None else [group])
            folder.add(f"task-{int(task['id'])}", image, truth.masks, truth.presence, group)
            report.used += 1
            for label in classes:
                report.classes[label] += bool(truth.presence[label])
            if (prediction := parent_prediction(annotation)) is not None:
                _count_acceptance(prediction, truth, config, image.shape[:2], report.acceptance)
    # Plain dictionaries without zeros: `dataclasses.asdict` garbles a Counter.
    report.dropped, report.regions, report.groups = dict(+dropped), dict(+regions), len(groups)
    if group_field is not None and report.used and not groups:
        text = f"no task has the field {group_field!r} in its data, so it is unknown which tasks belong together"
        report.problems.insert(0, text)
    return report


class _LeftOut(Exception):
    """A task is no example; the text is one of the reasons above."""


def accepted_annotation(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotation of a task that counts: the newest ground truth, else the newest, of those not turned down."""
    annotations = task.get("annotations") or []
    submitted = [a for a in annotations if not a.get("was_cancelled")]
    accepted = [a for a in submitted if a.get("last_action") != "rejected"]
    if not accepted:
        raise _LeftOut(NO_ANNOTATION if not annotations else REJECTED if submitted else CANCELLED)
    newest: Mapping[str, Any] = max(
        accepted, key=lambda a: (bool(a.get("ground_truth")), _changed(a), a.get("id") or 0)
    )
    return newest


def read_annotation(
    annotation: Mapping[str, Any], config: LabelConfig, shape: tuple[int, ...], counts: Counter[str]
) -> Truth:
    """Read the masks and the presence of classes from an annotation.

    A class that can be drawn is present exactly if it is drawn. Any other is present if it is chosen, absent if it is
    not, and left open where a single choice was not made.

    Args:
        annotation: as in the export.
        config: the project's labelling config.
        shape: (H, W) of the image.
        counts: reason -> regions left out or changed; added to.

    Raises:
        RegionError: a region of a known label cannot be read.
    """
    result = annotation.get("result") or []
    if not isinstance(result, list) or not all(isinstance(region, Mapping) for region in result):
        raise RegionError({"id": annotation.get("id"), "type": "annotation"}, "its result is no list of regions")
    masks: dict[str, Mask] = {}
    chosen: set[str] = set()
    answered: set[str] = set()
    known = unknown = 0
    for region in merge_results(result):
        for control, label in _labels(region, config, counts):
            name = control.class_of(label)
            if name is None:
                counts[UNKNOWN_LABEL] += 1
                unknown += 1
                continue
            known += 1
            if control.tag == CHOICES.tag:
                chosen.add(name)
                answered.add(control.name)
                continue
            mask = _mask(region, shape, counts)
            if mask.any():
                masks[name] = masks[name] | mask if name in masks else mask
    if unknown and not known:
        raise _LeftOut(NO_LABEL)
    drawn = {label for control in config.region_controls for label in control.labels}
    counts[UNDRAWN] += len(chosen & drawn - set(masks))
    presence: dict[str, bool | None] = {}
    for control in config.choices_controls:
        for name in control.labels:
            open_question = control.single and control.name not in answered
            presence[name] = True if name in chosen else presence.get(name) or (None if open_question else False)
    presence |= {name: name in masks for name in drawn}
    return Truth(masks, presence)


def _count_acceptance(
    prediction: Mapping[str, Any],
    truth: Truth,
    config: LabelConfig,
    shape: tuple[int, ...],
    acceptance: AcceptanceByVersion,
) -> None:
    """Compare the masks of a task's prediction with those that were accepted."""
    try:
        drawn = read_annotation(prediction, config, shape, Counter()).masks
    except (_LeftOut, RegionError):
        return  # not ours, or of another config
    classes = acceptance.setdefault(str(prediction.get("model_version")), {})
    for label in drawn.keys() | truth.masks.keys():
        classes.setdefault(label, AcceptanceStatistics()).count(drawn.get(label), truth.masks.get(label))


def _labels(region: Mapping[str, Any], config: LabelConfig, counts: Counter[str]) -> list[tuple[Control, str]]:
    """The labels of a region, each with the control that it was made with."""
    kind = region.get("type")
    adapter = next((control for control in CONTROLS if control.type == kind), None)
    if adapter is None:
        counts[OTHER_KIND] += str(kind).endswith("labels")
        return []
    if adapter is CHOICES and len(value_of(region)) > 1:
        return []  # about a region, whose coordinates it repeats
    controls = config.region_controls if adapter is not CHOICES else config.choices_controls
    name = region.get("from_name")
    own = [c for c in controls if c.name == name]
    if not own and not any(c.name == name for c in config.controls):
        # A control may have been renamed or replaced since: then any other that offers the label will do.
        own = [c for c in controls if c.to_name == region.get("to_name")]
    labels = adapter.labels(region) if own else []
    counts[NO_LABEL_LEFT] += bool(own) and not labels
    return [(next((c for c in own if c.class_of(label) is not None), own[0]), label) for label in labels]


def _mask(region: Mapping[str, Any], shape: tuple[int, ...], counts: Counter[str]) -> Mask:
    """A region's mask at the size of its image."""
    adapter = next(adapter for adapter in REGION_CONTROLS.values() if adapter.type == region["type"])
    height, width = shape
    drawn_on = region.get("original_height"), region.get("original_width")
    counts[RESIZED] += drawn_on != (height, width)
    # Percent fit any size. A brush whose size is merely written the wrong way round, as some clients do with turned
    # photographs, has the image's rows all the same; the editor too draws it by those.
    if not isinstance(adapter, BrushLabels) or drawn_on in ((height, width), (width, height), (None, None)):
        return adapter.to_mask({**region, "original_height": height, "original_width": width})
    mask = adapter.to_mask(region).astype(np.uint8)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _changed(annotation: Mapping[str, Any]) -> datetime:
    stamp = annotation.get("updated_at") or annotation.get("created_at")
    try:
        changed = datetime.fromisoformat(str(stamp))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return changed if changed.tzinfo else changed.replace(tzinfo=UTC)


def _check_names(classes: Iterable[str]) -> None:
    for name in classes:
        if name in (".", "..") or any(sign in name for sign in "/\\\0"):
            raise ConfigError(
                f"label {name!r} cannot be the name of a folder of masks; give it another name for the model with "
                f"predicted_values={name.translate({ord(sign): '-' for sign in '/.'})!r} in the labelling config"
            )
