"""Accepted annotations as a data folder to train on."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from backend.errors import ImageError, RegionError
from backend.label_studio.acceptance import (
    AcceptanceByVersion,
    acceptance_sentence,
    annotator_of,
    count_classes,
    is_as_drawn,
)
from backend.label_studio.controls import CHOICES, REGION_CONTROLS
from backend.label_studio.controls.brush import BrushLabels
from backend.label_studio.controls.choices import Choices
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.pairs import merge_results
from backend.label_studio.controls.region import Mask, NoArea, RegionAdapter, value_of
from backend.label_studio.images import shown
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.task_data import address_at, group_of
from backend.label_studio.task_images import TaskImage, images_of_region, task_images
from models.data.decoding import RgbImage
from models.data.groups import BLOCK
from models.data.writer import DataFolderWriter
from models.errors import brief

# Why a task is left out.
CANCELLED = "skipped by the annotator"
REJECTED = "rejected in review"
NO_ANNOTATION = "without an annotation"
NO_IMAGE = "with an image that cannot be used"
NO_REGION = "with a region that cannot be read"
NO_LABEL = "with no label that the config still offers"
# Why a region is left out or changed, while its image stays.
UNKNOWN_LABEL = "regions with a label that the config no longer offers"
NO_LABEL_LEFT = "regions without a label; a class that is not drawn beside them counts as unknown"
OTHER_KIND = "regions of a kind that is not read here"
RESIZED = "regions of another size than the image, scaled to it"
UNREAD = "regions that cannot be read; their class counts as unknown on their image"
OPEN = "paths that are not closed; their class is on the image, but not said where"
NOWHERE = "regions that cover no pixel of the image; their class is there, but not said where"
NO_PAGE = "regions on an image or page that the task does not have"
UNDRAWN = "choices taken without a region of that class; the missing region decides"

MAX_PROBLEMS = 20
MAX_PIXELS = 50_000_000  # of an image whose annotation is read without it

# Types of results that describe the image, a region or the task in words; every other is drawn.
SAID = frozenset(
    {"choices", "taxonomy", "textarea", "rating", "number", "datetime", "pairwise", "ranker", "relation", "chatmessage"}
)
KEYPOINTS = "keypointlabels"


@dataclass
class AcceptedReport:
    """Which of the tasks given to `write_data_folder` were used, and which were not.

    Attributes:
        used: tasks of which an image was written.
        images: images written.
        dropped: reason -> tasks, or images of a task, left out.
        regions: reason -> regions left out or changed.
        classes: class -> images on which it is present.
        problems: a sentence for each image or region that could not be read, the first MAX_PROBLEMS.
        untold: how many there were besides.
        left_out: each task, or image of a task, that was left out, for people, and a sentence why.
        acceptance: model version -> class -> how many of its masks were accepted.
        annotators: annotator -> class -> how many of the masks that they were shown they accepted.
        as_drawn: names of images that were accepted exactly as a version had drawn them.
        groups: groups among the tasks used; 0 where no field of the tasks says which.
    """

    used: int = 0
    images: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    regions: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    untold: int = 0
    left_out: list[tuple[str, str]] = field(default_factory=list)
    acceptance: AcceptanceByVersion = field(default_factory=dict)
    annotators: AcceptanceByVersion = field(default_factory=dict)
    as_drawn: list[str] = field(default_factory=list)
    groups: int = 0

    def problem(self, text: str) -> None:
        """Keep a sentence about something unreadable."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)
        else:
            self.untold += 1

    def leave_out(self, what: str, why: str, *, told: bool = False) -> None:
        """Note that a task or an image of one is left out; `told` keeps it among the problems too."""
        self.left_out.append((what, why))
        if told:
            self.problem(why if why.startswith(what) else f"{what}: {why}")

    @property
    def text(self) -> str:
        """The report in a few lines for people."""
        lines = [f"{self.used} accepted {'task' if self.used == 1 else 'tasks'}"]
        if self.images != self.used:
            lines[0] += f" with {self.images} images"
        if self.classes:
            lines[0] += ": " + ", ".join(f"{name} on {count}" for name, count in self.classes.items())
        if self.groups:
            lines.append(f"Groups that are kept together: {self.groups}")
        if self.dropped:
            lines.append("Left out: " + ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()))
        lines += [f"{count} {reason}" for reason, count in self.regions.items()]
        lines += [acceptance_sentence(version, classes) for version, classes in self.acceptance.items()]
        more = [f"... and {self.untold} more that could not be read"] if self.untold else []
        return "\n".join(lines + self.problems + more)


@dataclass(frozen=True)
class Truth:
    """The masks and the presence of classes that an annotation states of an image.

    Attributes:
        masks: class -> mask of shape (H, W), bool, the union of its regions, not empty.
        presence: class -> whether it is on the image; None where the annotation leaves it open.
        problems: a sentence for each region that could not be read.
    """

    masks: dict[str, Mask]
    presence: dict[str, bool | None]
    problems: tuple[str, ...] = ()


class Images(Protocol):
    """Fetches the tasks' images, as `ImageLoader` does."""

    def load(self, task: Mapping[str, Any], image_key: str) -> RgbImage:
        """The image of a task; raises ImageError where that task is to be left out."""


def write_data_folder(
    tasks: Iterable[Mapping[str, Any]],
    config: LabelConfig,
    images: Images,
    out: Path,
    parent_prediction: Callable[[Mapping[str, Any]], Mapping[str, Any] | None] = lambda annotation: None,
    *,
    group_field: str | None = None,
) -> AcceptedReport:
    """Write the accepted annotations of a project as a data folder, each image of a task as one of its own.

    Of a task's annotations one counts: the newest ground truth, else the newest. Skipped and rejected ones never do.
    A task accepted without regions is an example of every class being absent. A region that cannot be read makes its
    class unknown on its image; one whose class cannot be told leaves the image out.

    Args:
        tasks: as in Label Studio's JSON export; those without an id are named by their position.
        config: the project's labelling config.
        images: fetches the tasks' images.
        out: folder to write: images named "task-ID" or, of several in a task, "task-ID LABEL" (see `TaskImage.label`).
        parent_prediction: the prediction that an annotation started from, with `result` and `model_version`; None for
            none.
        group_field: field of the tasks' data that names the group of each (see `task_data.group_field`); tasks of one
            group are never on both sides of a split. None writes no groups, except that the images of a task and of
            its neighbours stay together where a task can have several.

    Returns:
        What was used and what was left out, with the reasons.
    """
    classes = config.training_classes
    report = AcceptedReport(classes=dict.fromkeys(classes, 0))
    dropped: Counter[str] = Counter()
    regions: Counter[str] = Counter()
    groups: set[str] = set()
    several = len(config.columns) > 1 or any(config.shows_list(column) for column in config.columns)
    with DataFolderWriter(out, classes) as folder:
        for position, task in enumerate(tasks, 1):
            name = f"task-{task['id']}" if task.get("id") is not None else f"task-row-{position}"
            shown_name = name.replace("-", " ", 1)
            group = group_of(task.get("data"), group_field)
            groups.update([] if group is None else [group])
            if group is None and several:
                group = f"tasks, block {report.used // BLOCK + 1}"
            try:
                annotation = accepted_annotation(task)
                parts = sort_regions(annotation, config, task_images(task, config), regions)
            except (_LeftOut, RegionError) as error:
                reason = str(error) if isinstance(error, _LeftOut) else NO_REGION
                dropped[reason] += 1
                report.leave_out(shown_name, str(error), told=isinstance(error, RegionError))
                continue
            used = False
            prediction: Mapping[str, Any] | None = None
            for image, drawn in parts.items():
                what = f"{shown_name} {image.label}".strip()
                try:
                    pixels = images.load(task, image.path)
                    truth = read_regions(drawn, config.on(image.column), pixels.shape[:2], regions)
                except _LeftOut as error:
                    dropped[str(error)] += 1
                    report.leave_out(what, str(error))
                    continue
                except (ImageError, RegionError) as error:
                    dropped[NO_IMAGE if isinstance(error, ImageError) else NO_REGION] += 1
                    report.leave_out(what, str(error), told=True)
                    continue
                address = str(address_at(task.get("data"), image.path))
                for text in truth.problems:
                    report.problem(f"{what}, image {shown(address)}: {text}")
                image_name = f"{name} {image.label}".strip()
                folder.add(
                    image_name,
                    pixels,
                    truth.masks,
                    truth.presence,
                    group,
                    source=address,
                    page=image.item_index or 0,
                )
                for label in classes:
                    report.classes[label] += bool(truth.presence.get(label))
                report.images += 1
                if not used:
                    used, prediction = True, parent_prediction(annotation)
                compared = None
                if prediction is not None:
                    compared = _predicted(prediction, config, image, list(parts), pixels.shape[:2])
                if prediction is None or compared is None:
                    unchanged = is_as_drawn(annotation)
                else:
                    known = [
                        label
                        for label in compared.masks.keys() | truth.masks.keys()
                        if compared.presence[label] is not None and truth.presence[label] is not None
                    ]
                    version = str(prediction.get("model_version"))
                    count_classes(report.acceptance, version, compared.masks, truth.masks, known)
                    count_classes(report.annotators, annotator_of(annotation), compared.masks, truth.masks, known)
                    unchanged = _same(compared, truth)
                report.as_drawn += [image_name] if unchanged else []
            report.used += used
        for left_out in report.left_out:
            folder.leave_out(*left_out)
    # Plain dictionaries without zeros: `dataclasses.asdict` garbles a Counter.
    report.dropped, report.regions, report.groups = dict(+dropped), dict(+regions), len(groups)
    if group_field is not None and report.used and not groups:
        text = f"no task has the field {group_field!r} in its data, so it is unknown which tasks belong together"
        report.problems.insert(0, text)
    return report


class _LeftOut(Exception):
    """A task is no example; the text is one of the reasons above."""


def is_accepted(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation was neither skipped by its annotator nor rejected in review.

    The last of its reviews tells where its last action is not known.
    """
    action, reviews = annotation.get("last_action"), annotation.get("reviews")
    last = reviews[-1] if isinstance(reviews, list) and reviews else None
    if action is None and isinstance(last, Mapping) and last.get("accepted") is False:
        action = "rejected"
    return not annotation.get("was_cancelled") and action != "rejected"


def accepted_annotation(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """The annotation of a task that counts: the newest ground truth, else the newest, of those not turned down."""
    annotations = task.get("annotations") or []
    accepted = [a for a in annotations if is_accepted(a)]
    if not accepted:
        skipped = all(a.get("was_cancelled") for a in annotations)
        raise _LeftOut(NO_ANNOTATION if not annotations else CANCELLED if skipped else REJECTED)
    newest: Mapping[str, Any] = max(accepted, key=lambda a: (bool(a.get("ground_truth")), _changed(a), _number(a)))
    return newest


def newest_accepted(annotations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The one of a task's annotations that counts, as `accepted_annotation` finds it; None if none does."""
    try:
        return accepted_annotation({"annotations": annotations})
    except _LeftOut:
        return None


def read_annotation(
    annotation: Mapping[str, Any], config: LabelConfig, shape: tuple[int, ...], counts: Counter[str]
) -> Truth:
    """Read the annotation of a task with one image, as `sort_regions` and `read_regions` do.

    Raises:
        RegionError: it is no list of regions, or holds one whose class cannot be told.
    """
    image = TaskImage(config.image_key, config.image_key)
    return read_regions(sort_regions(annotation, config, [image], counts)[image], config, shape, counts)


def readable(annotation: Mapping[str, Any], config: LabelConfig, shape: tuple[int, ...]) -> Truth | None:
    """As `read_annotation`; None where it cannot be read or says nothing."""
    try:
        return read_annotation(annotation, config, shape, Counter())
    except (_LeftOut, RegionError):
        return None


def read_alone(annotation: Mapping[str, Any], config: LabelConfig) -> Truth | None:
    """The masks of an annotation or prediction at the size that its regions name; None where they cannot be told."""
    regions = [region for region in annotation.get("result") or [] if isinstance(region, Mapping)]
    sizes = [(region.get("original_height"), region.get("original_width")) for region in regions]
    height, width = next(((h, w) for h, w in sizes if isinstance(h, int) and isinstance(w, int)), (64, 64))
    if len(config.columns) > 1 or not 0 < height * width <= MAX_PIXELS:
        return None
    return readable(annotation, config, (height, width))


@dataclass(frozen=True)
class Drawn:
    """A region of an image.

    Attributes:
        region: as Label Studio keeps it, tool and labels merged.
        sure: it is about this image alone; else it may be about another, or about a whole list of them.
    """

    region: Mapping[str, Any]
    sure: bool = True


def sort_regions(
    annotation: Mapping[str, Any], config: LabelConfig, images: Sequence[TaskImage], counts: Counter[str]
) -> dict[TaskImage, list[Drawn]]:
    """The regions of an annotation by the image that they are about.

    Results about a region (choices, ratings and texts that share its id) and about anything but an image are left out.

    Args:
        annotation: as in the export, or a prediction.
        config: the project's labelling config.
        images: of the task.
        counts: reason -> regions left out or changed; added to.

    Raises:
        RegionError: its result is no list of regions.
    """
    result = annotation.get("result")  # without one, nothing says that there is nothing on the image
    if not isinstance(result, list) or not all(isinstance(region, Mapping) for region in result):
        raise RegionError({"id": annotation.get("id"), "type": "annotation"}, "its result is no list of regions")
    drawn_ids = {str(region.get("id")) for region in result if region.get("type") not in SAID}
    found: dict[TaskImage, list[Drawn]] = {image: [] for image in images}
    for region in merge_results(result):
        kind = region.get("type")
        if kind == CHOICES.type:
            # One about a region has its id, and repeats its coordinates.
            about_region = str(region.get("id")) in drawn_ids or region.get("parentID") or len(value_of(region)) > 1
            if about_region:
                continue
        elif kind in SAID:
            continue
        if config.is_elsewhere(region):
            continue
        column = config.column_of(region)
        about = images_of_region(region, config, images)
        counts[NO_PAGE] += not about
        # Of one image, too, it is unclear what a region says that names another, which has been taken out since.
        sure = len(about) == 1 and (column is not None or region.get("to_name") is None)
        if kind == CHOICES.type and region.get("item_index") is None and column is not None:
            about = [image for image in images if image.column == column]
            sure = len(about) == 1
        for image in about:
            found[image].append(Drawn(region, sure))
    return found


def read_regions(drawn: Sequence[Drawn], config: LabelConfig, shape: tuple[int, ...], counts: Counter[str]) -> Truth:
    """Read the masks and the presence of classes from the regions of an image.

    A class that can be drawn is present exactly if it is drawn. Any other is present if it is chosen, absent if it is
    not, and left open where a single choice was not made. A class is left open, too, if a region of it cannot be read,
    is of a kind that is not read or may be on another image, and where it is not drawn beside a region without a label;
    it is present without a mask where a region of it encloses nothing.

    Args:
        drawn: the regions that are about the image.
        config: the part of the labelling config that is about it.
        shape: (H, W) of the image.
        counts: reason -> regions left out or changed; added to.

    Raises:
        RegionError: the class of a region that cannot be read is not known.
    """
    reading = _Reading(config, shape, counts)
    for one in drawn:
        if one.region.get("type") == CHOICES.type:
            reading.choice(one)
        else:
            reading.region(one)
    return reading.truth()


class _Reading:
    """What the regions of one image say."""

    def __init__(self, config: LabelConfig, shape: tuple[int, ...], counts: Counter[str]) -> None:
        self._config, self._shape, self._counts = config, shape, counts
        self._masks: dict[str, Mask] = {}
        self._unknown: set[str] = set()  # classes of regions that cannot be read
        self._hinted: set[str] = set()  # classes that a tool pointed at, or a region without a label may be of
        self._nowhere: set[str] = set()  # classes that are there, without an area of their own
        self._open: set[str] = set()  # classes of lines that are not closed
        self._chosen: set[str] = set()
        self._perhaps: set[str] = set()  # classes chosen for several images together
        self._answered: set[str] = set()
        self._problems: list[str] = []
        self._known = self._gone = 0
        self._drawable = {label for control in config.region_controls for label in control.labels}

    def choice(self, one: Drawn) -> None:
        """Take the choices about the image."""
        for control, label in self._labels(one.region, CHOICES, self._config.choices_controls):
            name = self._class(control, label)
            if name is not None:
                self._answered.add(control.name)
                (self._chosen if one.sure else self._perhaps).add(name)

    def region(self, one: Drawn) -> None:
        """Take a region, drawn with a control or a tool."""
        adapter = next((known for known in REGION_CONTROLS.values() if known.type == one.region.get("type")), None)
        if adapter is None:
            self._other_kind(one)
            return
        if not adapter.labels(one.region):
            # Whoever drew it saw something there, of whichever class.
            self._hinted.update(self._drawable)
            self._counts[NO_LABEL_LEFT] += 1
            self._problems.append(
                f"region {brief(one.region.get('id'))} has no label; a class that is not drawn counts as unknown there"
            )
            return
        labels = self._labels(one.region, adapter, self._config.region_controls)
        names = [name for control, label in labels if (name := self._class(control, label)) is not None]
        if not names:
            return
        if not one.sure:
            self._unread(names, f"it is unclear which image region {brief(one.region.get('id'))} is on")
            return
        try:
            mask = _mask(adapter, one.region, self._shape, self._counts)
        except NoArea as error:
            self._open.update(names)
            self._counts[OPEN] += 1
            self._problems.append(f"{error}; it says that {_listed(names)} is there, but not where")
            return
        except RegionError as error:
            self._unread(names, str(error))
            return
        for name in names:
            if mask.any():
                self._masks[name] = self._masks[name] | mask if name in self._masks else mask
            elif not adapter.exact:
                self._nowhere.add(name)
        if not mask.any() and not adapter.exact:
            self._counts[NOWHERE] += 1
            self._problems.append(
                f"region {brief(one.region.get('id'))} covers no pixel: it is very small, or outside of the image; it "
                f"says that {_listed(names)} is there, but not where"
            )

    def _other_kind(self, one: Drawn) -> None:
        """A kind that is not read: the classes that it names stay open."""
        value = value_of(one.region)
        kind = str(one.region.get("type"))
        labels = [
            str(label)
            for key, part in value.items()
            if (str(key) == kind or str(key).endswith("labels")) and isinstance(part, list)
            for label in part
        ]
        names = [
            name for control in self._config.region_controls for label in labels if (name := control.class_of(label))
        ]
        self._counts[OTHER_KIND] += 1
        if kind == KEYPOINTS:
            self._hinted.update(names if labels else self._drawable)
        elif names:
            self._unread(
                names, f"region {brief(one.region.get('id'))} of type {brief(kind)} is of a kind that is not read"
            )
        elif not labels:
            raise RegionError(one.region, "it is of a kind that is not read, and names no label")

    def _labels(
        self, region: Mapping[str, Any], adapter: RegionAdapter | Choices, controls: Sequence[Control]
    ) -> list[tuple[Control, str]]:
        """The labels of a region, each with the control that it was made with."""
        name = region.get("from_name")
        own = [control for control in controls if control.name == name]
        if not own and any(control.name == name for control in self._config.controls):
            # A smart tool that only prompts: what it left behind is no mask.
            prompting = [control for control in self._config.controls if control.name == name]
            labels = adapter.labels(region)
            self._hinted.update(n for control in prompting for label in labels if (n := control.class_of(label)))
            return []
        if not own:
            # A control may have been renamed or replaced since: then any other that offers the label will do.
            own = list(controls)
        labels = adapter.labels(region) if own else []
        return [(next((c for c in own if c.class_of(label) is not None), own[0]), label) for label in labels]

    def _class(self, control: Control, label: str) -> str | None:
        name = control.class_of(label)
        self._known += name is not None
        self._gone += name is None
        self._counts[UNKNOWN_LABEL] += name is None
        return name

    def _unread(self, names: Collection[str], why: str) -> None:
        self._unknown.update(names)
        self._counts[UNREAD] += 1
        self._problems.append(f"{why}; {_listed(names)} counts as unknown there")

    def truth(self) -> Truth:
        """All of it together."""
        if self._gone and not self._known:
            raise _LeftOut(NO_LABEL)
        config = self._config
        self._counts[UNDRAWN] += len(self._chosen & self._drawable - set(self._masks) - self._unknown - self._open)
        presence: dict[str, bool | None] = {}
        for control in config.choices_controls:
            for name in control.labels:
                unanswered = control.single and control.name not in self._answered
                undecided = unanswered or name in self._perhaps
                presence[name] = True if name in self._chosen else presence.get(name) or (None if undecided else False)
        masks = {name: mask for name, mask in self._masks.items() if name not in self._unknown | self._open}
        for name in self._drawable:
            if name in self._unknown:
                presence[name] = None
            elif name in masks or name in self._open | self._nowhere:
                presence[name] = True
            else:
                presence[name] = None if name in self._hinted else False
        return Truth(masks, presence, tuple(self._problems))


def _predicted(
    prediction: Mapping[str, Any],
    config: LabelConfig,
    image: TaskImage,
    images: Sequence[TaskImage],
    shape: tuple[int, ...],
) -> Truth | None:
    """What was predicted of an image; None if it is not ours, or of another config."""
    try:
        drawn = sort_regions(prediction, config, images, Counter())[image]
        return read_regions(drawn, config.on(image.column), shape, Counter())
    except (_LeftOut, RegionError):
        return None


def _same(predicted: Truth, accepted: Truth) -> bool:
    """Whether a prediction was accepted pixel for pixel, also one of nothing."""
    if predicted.masks.keys() != accepted.masks.keys() or predicted.presence != accepted.presence:
        return False
    return all(np.array_equal(mask, accepted.masks[label]) for label, mask in predicted.masks.items())


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, dict.fromkeys(names)))


def _mask(adapter: RegionAdapter, region: Mapping[str, Any], shape: tuple[int, ...], counts: Counter[str]) -> Mask:
    """A region's mask at the size of its image."""
    height, width = shape
    drawn_on = region.get("original_height"), region.get("original_width")
    counts[RESIZED] += drawn_on not in ((height, width), (None, None))
    # Percent fit any size. A brush whose size is merely written the wrong way round, as some clients do with turned
    # photographs, has the image's rows all the same; the editor too draws it by those.
    if not isinstance(adapter, BrushLabels) or drawn_on in ((height, width), (width, height), (None, None)):
        return adapter.to_mask({**region, "original_height": height, "original_width": width})
    mask = adapter.to_mask(region).astype(np.uint8)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def _number(annotation: Mapping[str, Any]) -> int:
    """The id of an annotation, as Label Studio counts them; 0 for one that is no number, as in other files."""
    return int(annotation["id"]) if str(annotation.get("id")).isdecimal() else 0


def _changed(annotation: Mapping[str, Any]) -> datetime:
    stamp = annotation.get("updated_at") or annotation.get("created_at")
    try:
        changed = datetime.fromisoformat(str(stamp))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return changed if changed.tzinfo else changed.replace(tzinfo=UTC)
