"""The annotations of a Label Studio project, or its predictions, as a data folder to export."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backend.exports.export import Frame, Origin
from backend.label_studio.annotations import AcceptedReport, is_accepted, write_data_folder
from backend.label_studio.images import ImageLoader
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.task_data import group_field, group_of
from backend.pullbacks.origins import Origin as RecordedFrame
from models.data.decoding import RgbImage
from models.data.groups import completed

Task = Mapping[str, Any]
GROUP = "premask group"  # field of the tasks' data that a group is written to


RecordOf = Callable[[str], Mapping[int, RecordedFrame]]  # series -> number of a frame, from 1 -> where it was read


def no_record(series: str) -> Mapping[int, RecordedFrame]:
    """For projects whose frames premask has not imported."""
    return {}


@dataclass
class Labels:
    """Labels of a project, written as a data folder.

    Attributes:
        folder: the data folder.
        origins: name of a sample -> where it comes from.
        report: what was used and left out.
    """

    folder: Path
    origins: dict[str, Origin] = field(default_factory=dict)
    report: AcceptedReport = field(default_factory=AcceptedReport)


def has_accepted(task: Task) -> bool:
    """Whether a task has an accepted annotation."""
    return any(is_accepted(annotation) for annotation in task.get("annotations") or [])


def newest_annotations(
    tasks: Sequence[Task],
    config: LabelConfig,
    images: ImageLoader,
    out: Path,
    *,
    named_group: str | None = None,
    record_of: RecordOf = no_record,
) -> Labels:
    """Write the annotation that counts of each task, as a training reads them.

    Args:
        tasks: as in Label Studio's JSON export.
        config: the project's labelling config.
        images: fetches the tasks' images.
        out: folder to write.
        named_group: field of the tasks' data that names the group, if the operator has named one.
        record_of: where frames were read from.
    """
    labels = Labels(out, {_name(task["id"]): _origin(task, record_of) for task in tasks})
    field_of_group = group_field((task.get("data") for task in tasks), named_group)
    labels.report = write_data_folder(tasks, config, images, out, group_field=field_of_group)
    return labels


def all_annotations(
    tasks: Sequence[Task],
    config: LabelConfig,
    images: ImageLoader,
    out: Path,
    *,
    named_group: str | None = None,
    record_of: RecordOf = no_record,
) -> Labels:
    """Write every accepted annotation as an image of its own; those of one task are of one group.

    Args:
        tasks: as in Label Studio's JSON export.
        config: the project's labelling config.
        images: fetches the tasks' images.
        out: folder to write.
        named_group: field of the tasks' data that names the group, if the operator has named one.
        record_of: where frames were read from.
    """
    labels = Labels(out)
    rows: list[Task] = []
    key = group_field((task.get("data") for task in tasks), named_group)
    groups = completed({str(task["id"]): group_of(task.get("data"), key) for task in tasks})
    ids: dict[Any, Any] = {}
    for task in tasks:
        for annotation in task.get("annotations") or []:
            number = len(rows) + 1
            ids[number] = task["id"]
            name = f"task-{task['id']}, annotation {annotation.get('id')}"
            annotator = f"annotator {_person(annotation)}"
            labels.origins[_name(number)] = _origin(task, record_of, name, annotator)
            data = {**(task.get("data") or {}), GROUP: groups[str(task["id"])]}
            rows.append({**task, "id": number, "data": data, "annotations": [annotation]})
    labels.report = write_data_folder(rows, config, _Images(images, ids), out, group_field=GROUP)
    return labels


def predictions(
    tasks: Sequence[Task],
    stored: Sequence[Mapping[str, Any]],
    version: str,
    config: LabelConfig,
    images: ImageLoader,
    out: Path,
    *,
    record_of: RecordOf = no_record,
) -> Labels:
    """Write the newest prediction of a version of each task that has no accepted annotation.

    Args:
        tasks: of the project, those without annotations too.
        stored: predictions of the project, as Label Studio lists them.
        version: model version.
        config: the project's labelling config.
        images: fetches the tasks' images.
        out: folder to write.
        record_of: where frames were read from.
    """
    newest: dict[Any, Mapping[str, Any]] = {}
    for prediction in sorted(stored, key=lambda one: one.get("id") or 0):
        if str(prediction.get("model_version")) == version:
            newest[prediction.get("task")] = prediction
    open_tasks = [task for task in tasks if task["id"] in newest and not has_accepted(task)]
    labels = Labels(out, {_name(task["id"]): _origin(task, record_of) for task in open_tasks})
    key = group_field(task.get("data") for task in tasks)
    labels.report = write_data_folder(_with_predictions(open_tasks, newest), config, images, out, group_field=key)
    return labels


def _with_predictions(tasks: Sequence[Task], newest: Mapping[Any, Mapping[str, Any]]) -> Iterator[Task]:
    for task in tasks:
        prediction = newest[task["id"]]
        yield {**task, "annotations": [{"id": prediction.get("id"), "result": prediction.get("result")}]}


def _name(number: Any) -> str:
    """Name of a task in a data folder."""
    return f"task-{number}"


def _origin(task: Task, record_of: RecordOf, name: str = "", annotator: str = "") -> Origin:
    return Origin(name or _name(task["id"]), annotator, _frame(task.get("data"), record_of))


def _frame(data: Any, record_of: RecordOf) -> Frame | None:
    """The frame that a task's data names; None if it names none."""
    try:
        series, number = str(data["series"]), int(data["frame"])
    except (KeyError, TypeError, ValueError):
        return None
    recorded = record_of(series).get(number)
    if recorded is None:
        return Frame(series, number)
    file = Path(recorded.file)
    return Frame(series, number, file, recorded.page, recorded.sop_instance_uid, recorded.scan_converted)


def _person(annotation: Mapping[str, Any]) -> str:
    """Number of the user who has made an annotation; never a name or an address."""
    person = annotation.get("completed_by")
    person = person.get("id") if isinstance(person, Mapping) else person
    return "unknown" if person is None else str(person)


class _Images(ImageLoader):
    """Loads the images of tasks that have got other ids.

    Args:
        images: loads them.
        ids: given id -> the task's own.
    """

    def __init__(self, images: ImageLoader, ids: Mapping[Any, Any]) -> None:
        super().__init__(images.client)
        self._images, self._ids = images, ids

    def load(self, task: Task, image_key: str) -> RgbImage:
        """See `ImageLoader.load`."""
        return self._images.load({**task, "id": self._ids[task["id"]]}, image_key)


def report_notes(report: AcceptedReport) -> list[str]:
    """Sentences about tasks that were left out and regions that were changed."""
    dropped = Counter(report.dropped) - Counter()
    lines = [f"{count} tasks left out: {reason}" for reason, count in dropped.items()]
    more = [f"{report.untold} more that could not be read"] if report.untold else []
    return lines + [f"{count} {reason}" for reason, count in report.regions.items()] + report.problems + more
