"""Label Studio's JSON export, without its server: tasks with annotations, and the images in a folder."""

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.errors import ImageError, RegionError
from backend.label_studio.annotations import (
    CANCELLED,
    NO_ANNOTATION,
    NO_LABEL,
    REJECTED,
    SAID,
    is_accepted,
    newest_accepted,
    sort_regions,
    write_data_folder,
)
from backend.label_studio.controls import CHOICES, CONTROLS
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.pairs import LABELS, merge_results
from backend.label_studio.controls.region import value_of
from backend.label_studio.images import ImageLoader, image_address
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.task_data import address_at, group_field
from backend.label_studio.task_images import TaskImage, task_images
from backend.sources.conversion import NAMED, Conversion, LeftOut, Spelling, name_unlisted
from backend.sources.finding import ImageFiles, brief_text, readings
from backend.sources.refused import is_create_ml
from models.data.decoding import RgbImage
from models.data.files import IMAGE_SUFFIXES, read_image
from models.data.names import Names, read_names
from models.data.tables import page_count
from models.errors import DataError, brief

FIELDS = {"data", "annotations", "id", "annotator"}  # some of which a task has in any of the exports
SIDES = ("width", "height", "radiusX", "radiusY")
MAX_PERCENT = 200  # of the image's size: as far as a region may have been drawn beyond its edge
# Why people have left a task out, which does not stop a training.
DECIDED = (CANCELLED, REJECTED, NO_ANNOTATION, NO_LABEL)


def is_label_studio(content: Any) -> bool:
    """Whether a JSON file is a list of Label Studio's tasks, a single one, or an annotation of its target storage."""
    if isinstance(content, dict):
        return bool(_entries(content))
    rows = isinstance(content, list) and all(isinstance(task, dict) for task in content)
    return rows and not is_create_ml(content) and any(FIELDS & {*task} for task in content)


def _entries(content: Any) -> list[Any]:
    """The tasks of a file. Target storages get a file for each annotation, with its task inside."""
    if isinstance(content, list):
        return content
    if isinstance(content.get("data"), dict) and isinstance(content.get("annotations"), list):
        return [content]
    task = content.get("task")
    if isinstance(content.get("result"), list) and isinstance(task, dict) and isinstance(task.get("data"), dict):
        return [{**task, "annotations": [{key: value for key, value in content.items() if key != "task"}]}]
    return []


def convert_label_studio(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write the accepted annotations of an export as a data folder; see `write_data_folder`.

    An export does not hold the labelling config: the labels are those that were used. Groups are read from the first of
    the fields patient, study, series and group that all tasks have.

    Raises:
        DataError: it is another export of Label Studio's, its regions are not in percent, or no task of it can be
            used.
    """
    result = Conversion()
    tasks = _tasks(files, result)
    _check_percent(tasks)
    result.notes += _unite_spellings(tasks)
    config = used_config(tasks)
    field = group_field(task["data"] for task in tasks)
    addresses = [address_at(task["data"], image.path) for task in tasks for image in task_images(task, config)]
    found = images.assign(address.strip() for address in addresses if isinstance(address, str) and address.strip())
    report = write_data_folder(
        tasks, config, _Images(found, _shown_again(tasks, config, found)), out, group_field=field
    )
    if not report.used:
        raise DataError(f"no task can be learnt from: {report.text}")
    names = read_names(out)
    read = {address: images.name(file) for address, file in found.items() if isinstance(file, Path)}
    originals = {
        name: replace(original, source=read.get(original.source.strip(), original.source))
        for name, original in names.images.items()
    }
    Names(names.classes, originals).write(out)
    result.used = report.images
    result.notes += report.text.splitlines()
    several = [f"task {task['id']}" for task in tasks if sum(map(is_accepted, task["annotations"])) > 1]
    if several:
        result.notes.append(
            f"annotated more than once, of which the newest ground truth, else the newest, counts: {len(several)} "
            f"({', '.join(several[:NAMED])}{' ...' if len(several) > NAMED else ''})"
        )
    result.notes += _open_elsewhere(tasks, config, names, out)
    if rest := [column for column in image_columns(tasks) if column not in config.columns]:
        result.notes.append(f"nothing is annotated on the images of {', '.join(map(repr, rest))}, which are not read")
    shows: dict[str, list[str]] = {}  # task, or one image of it, as it is named in the report -> addresses
    for task in tasks:
        for image in task_images(task, config):
            for what in dict.fromkeys((f"task {task['id']}", f"task {task['id']} {image.label}".strip())):
                shows.setdefault(what, []).append(str(address_at(task["data"], image.path)))
    for what, why in report.left_out:
        unnamed = [text for address in shows.get(what, ()) if (text := brief_text(address)) not in why]
        row = LeftOut(what, f"{why} ({', '.join(unnamed)})" if unnamed else why)
        (result.unread if why in DECIDED else result.left_out).append(row)
    for file in dict.fromkeys(file for file in found.values() if isinstance(file, Path)):
        if (pages := page_count(file)) > 1:
            others = ", ".join(map(str, range(2, min(pages, 10) + 1))) + (" ..." if pages > 10 else "")
            why = "of a file of several pages the first is read"
            result.unread.append(LeftOut(f"{images.name(file)}, page {others}", why))
    name_unlisted(images, {file for file in found.values() if isinstance(file, Path)}, result)
    return result


def _check_percent(tasks: Sequence[Mapping[str, Any]]) -> None:
    """Refuse tasks whose regions are in pixels or parts of the size, as scripts write them, and seem to be percent.

    Raises:
        DataError: names a task.
    """
    farthest, task_of, largest = 0.0, "", 0.0
    for task in tasks:
        for annotation in task["annotations"]:
            result = annotation.get("result")
            for region in result if isinstance(result, list) else ():
                value = value_of(region) if isinstance(region, dict) else {}
                # A turned region may be wider than the image, in percent of its width.
                sides = max(_numbers(*(value.get(side) for side in SIDES)), default=0.0)
                points = value.get("points")
                far = max(_numbers(value.get("x"), value.get("y"), points), default=0.0)
                largest = max(largest, sides, far)
                if far > farthest:
                    farthest, task_of = far, str(task["id"])
    wanted = "and Label Studio's are in percent of the image's width and height"
    if farthest > MAX_PERCENT:
        raise DataError(f"task {task_of} has a region at {farthest:g}, {wanted}; divide pixels by these, times 100")
    if 0 < largest <= 1:
        raise DataError(f"no region is beyond {largest:g}, {wanted}; multiply parts of the size by 100")


def _open_elsewhere(tasks: Sequence[Mapping[str, Any]], config: LabelConfig, names: Names, out: Path) -> list[str]:
    """Make labels that only tasks of another project have unknown, not absent: nothing tells which a project offers.

    Args:
        tasks: of the export.
        config: see `used_config`.
        names: of the data folder.
        out: the data folder, whose labels.csv is changed.

    Returns:
        Sentences about these labels.
    """
    used: dict[str, set[str]] = defaultdict(set)  # label -> projects
    project: dict[str, str] = {}  # name of an image -> project
    for task in tasks:
        own = str(task.get("project"))
        for image in task_images(task, config):
            project[f"task-{task['id']} {image.label}".strip()] = own
        for region in _regions([task]):
            value = value_of(region)
            labels = value.get(str(region.get("type")))
            for label in labels if isinstance(labels, list) else ():
                used[str(label)].add(own)
    apart = {label: projects for label, projects in used.items() if projects != {*project.values()}}
    table = out / "labels.csv"
    if not apart or not table.is_file():
        return []
    header, *rows = csv.reader(io.StringIO(table.read_text(encoding="utf-8"), newline=""))
    for row in rows:
        own = project.get(names.images[row[0]].name, "")
        for index, name in enumerate(header[1:], 1):
            if row[index] == "0" and own not in apart.get(names.classes[name], {own}):
                row[index] = ""
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return [
        f"{label!r} is used in project {', '.join(sorted(projects))} alone, and unknown where it is not drawn in others"
        for label, projects in apart.items()
    ]


def _numbers(*values: Any) -> Iterator[float]:
    """How large numbers are, and those in lists of corners."""
    for value in values:
        for corner in value if isinstance(value, list) else [value]:
            for number in corner if isinstance(corner, list) else [corner]:
                if isinstance(number, int | float) and abs(number) < 1e300:
                    yield abs(number)


def _unite_spellings(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name classes whose labels are written in several ways in one; returns sentences (see `Spelling`)."""
    lists: list[list[Any]] = []
    for task in tasks:
        for annotation in task["annotations"]:
            result = annotation.get("result")
            for region in result if isinstance(result, list) else ():
                value = value_of(region) if isinstance(region, dict) else {}
                lists += [
                    labels
                    for key, labels in value.items()
                    if isinstance(labels, list) and (key == CHOICES.type or key.endswith(LABELS))
                ]
    spelling = Spelling(label for labels in lists for label in labels if isinstance(label, str))
    for labels in lists:
        labels[:] = [spelling(label) if isinstance(label, str) else label for label in labels]
    return spelling.notes


def _tasks(files: Mapping[Path, Any], result: Conversion) -> list[dict[str, Any]]:
    """The tasks of all files, each with an id of its own; adds those that are none to what is left out.

    Raises:
        DataError: no entry is a task with annotations.
    """
    tasks: list[dict[str, Any]] = []
    taken: set[str] = set()
    of_storage: dict[str, dict[str, Any]] = {}  # id -> task whose annotations are in files of their own
    for path, content in files.items():
        for number, task in enumerate(_entries(content), 1):
            annotations = task.get("annotations")
            known = isinstance(annotations, list) and all(isinstance(one, dict) for one in annotations)
            if not known or not isinstance(task.get("data"), dict):
                why = "it is no task of Label Studio's JSON export, which has data and annotations"
                result.left_out.append(LeftOut(f"entry {number} of {path.name}", why))
                continue
            name = task.get("id")
            if isinstance(content, dict) and "task" in content and name is not None:
                if same := of_storage.get(str(name)):
                    same["annotations"] += annotations
                    continue
                of_storage[str(name)] = task
            if name is None or str(name) in taken:
                name = next(n for n in range(len(tasks) + 1, 2 * len(tasks) + 2) if str(n) not in taken)
            taken.add(str(name))
            task["id"] = name
            tasks.append(task)
    if not tasks:
        raise DataError(
            f"{', '.join(path.name for path in files)} is not Label Studio's JSON export, whose tasks have data and "
            "annotations; export again and choose JSON, not JSON-MIN"
        )
    return tasks


def used_config(tasks: Sequence[Mapping[str, Any]]) -> LabelConfig:
    """A labelling config with the controls and labels that the annotations of tasks use.

    A group of choices of which no annotation has taken two is one in which at most one may be taken: of a task without
    any nothing is then known.

    Raises:
        DataError: nothing is drawn or chosen on an image.
    """
    adapters = {adapter.type: adapter for adapter in CONTROLS}
    labels: dict[tuple[str, str, str], dict[str, str]] = {}
    several: set[str] = set()  # choices of which an annotation has taken two
    of_pages: set[str] = set()  # choices that were made page by page
    for region in _regions(tasks):
        adapter = adapters.get(str(region.get("type")))
        if adapter is None:
            continue
        control = adapter.tag, str(region.get("from_name")), str(region.get("to_name"))
        try:
            used = adapter.labels(region)
        except RegionError:
            continue
        labels.setdefault(control, {}).update({label: label for label in used})
        if len(used) > 1:
            several.add(control[1])
        if region.get("item_index") is not None:
            of_pages.add(control[1])
    if not labels:
        raise DataError("the export has no masks, polygons, rectangles, ellipses or choices; annotate some tasks first")
    if not any(labels.values()):
        raise DataError("no region of the export has a label; give the regions labels, and export again")
    columns = match_columns([to_name for _, _, to_name in labels], image_columns(tasks))
    lists = {column for column in columns.values() if any(isinstance(t["data"].get(column), list) for t in tasks)}
    return LabelConfig(
        tuple(
            Control(
                tag,
                name,
                to_name,
                columns[to_name],
                found,
                single=tag == CHOICES.tag and name not in several,
                listed=columns[to_name] in lists,
                per_item=name in of_pages,
            )
            for (tag, name, to_name), found in labels.items()
        )
    )


def _regions(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The regions and the choices about images of all annotations; choices about a region have its id."""
    for task in tasks:
        for annotation in task["annotations"]:
            result = annotation.get("result") if isinstance(annotation, dict) else None
            regions = [region for region in result if isinstance(region, dict)] if isinstance(result, list) else []
            drawn = {str(region.get("id")) for region in regions if region.get("type") not in SAID}
            for region in merge_results(regions):
                about_region = str(region.get("id")) in drawn or region.get("parentID") or len(value_of(region)) > 1
                if region.get("type") != CHOICES.type or not about_region:
                    yield region


def image_columns(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of the tasks' data that hold addresses of images.

    Raises:
        DataError: there is none.
    """
    columns = dict.fromkeys(str(key) for task in tasks for key, value in task["data"].items() if _is_address(value))
    if not columns:
        seen = ", ".join(f"{key}: {brief(value)}" for key, value in tasks[0]["data"].items())
        raise DataError(
            "no column of the tasks' data is the address of an image, which ends in .jpg, .png, ...; "
            f"the first task has {seen}"
        )
    return list(columns)


def _is_address(value: Any) -> bool:
    if isinstance(value, list):  # of a task with pages
        return bool(value) and all(isinstance(one, str) and _is_address(one) for one in value)
    return isinstance(value, str) and any(tail[-1].lower().endswith(IMAGE_SUFFIXES) for tail in readings(value))


def match_columns(names: Sequence[str], columns: Sequence[str]) -> dict[str, str]:
    """Which column each of the images that regions name (`to_name`) shows: the export does not say, but names do.

    >>> match_columns(["imgL", "imgR"], ["left", "right"])
    {'imgL': 'left', 'imgR': 'right'}
    >>> match_columns(["image"], ["preview", "image"])
    {'image': 'image'}

    Raises:
        DataError: several columns may be meant; the text names them.
    """
    names = list(dict.fromkeys(names))
    shared = 0  # letters that all names begin with
    while len(names) > 1 and len({name[: shared + 1] for name in names}) == 1 and shared < len(names[0]):
        shared += 1
    tests: tuple[Callable[[str, str], bool], ...] = (
        lambda name, column: name == column,
        lambda name, column: name.casefold() == column.casefold(),
        lambda name, column: name[shared:].casefold() == column.casefold(),
        lambda name, column: bool(name[shared:]) and column.casefold().endswith(name[shared:].casefold()),
        lambda name, column: bool(name[shared:]) and column.casefold().startswith(name[shared:].casefold()),
    )
    found: dict[str, str] = {}
    for test in tests:
        for name in names:
            free = [column for column in columns if column not in found.values()]
            left = len(names) - len(found)
            fitting = free if len(free) == 1 == left else [column for column in free if test(name, column)]
            if name not in found and len(fitting) == 1:
                found[name] = fitting[0]
    if missing := [name for name in names if name not in found]:
        free = [column for column in columns if column not in found.values()]
        raise DataError(
            f"the regions are on {', '.join(map(repr, missing))}, and it is not clear which column of the tasks' data "
            f"that shows ({', '.join(map(repr, free or columns))}); name them alike, or train from the project"
        )
    return found


def _shown_again(
    tasks: Sequence[Mapping[str, Any]], config: LabelConfig, found: Mapping[str, Path | DataError]
) -> dict[tuple[str, str], str]:
    """Task and address of each image that another task shows too -> a sentence why it is left out.

    If the tasks say the same, the image of the first is used; else nothing tells which of them is right.
    """
    shown: dict[Path, list[tuple[Mapping[str, Any], TaskImage, str]]] = defaultdict(list)
    for task in tasks:
        for image in task_images(task, config) if newest_accepted(task["annotations"]) else ():
            address = str(address_at(task["data"], image.path)).strip()
            if isinstance(file := found.get(address), Path):
                shown[file].append((task, image, address))
    why: dict[tuple[str, str], str] = {}
    for rows in shown.values():
        ids = [*dict.fromkeys(str(task["id"]) for task, _, _ in rows)]
        if len(ids) == 1:
            continue
        alike = len({_said(task, image, config) for task, image, _ in rows}) == 1
        for task, _, address in rows:
            own = str(task["id"])
            if own != ids[0]:
                how = "the same" if alike else "otherwise; keep one of them"
                why[own, address] = f"task {ids[0]} shows it too, and says {how}"
            elif not alike:
                why[own, address] = f"task {ids[1]} shows it too, and says otherwise; keep one of them"
    return why


def _said(task: Mapping[str, Any], image: TaskImage, config: LabelConfig) -> str:
    """What counts of a task about one of its images, as text to compare; ids and times do not matter."""
    try:
        drawn = sort_regions(newest_accepted(task["annotations"]) or {}, config, task_images(task, config), Counter())
    except RegionError:
        return f"task {task['id']}"
    return json.dumps(sorted(json.dumps([one.region.get("type"), value_of(one.region)]) for one in drawn[image]))


class _Images(ImageLoader):
    """Reads the images of tasks from a folder.

    Args:
        files: address -> file, or why there is none.
        left_out: task and address -> why the image is not read.
    """

    def __init__(self, files: Mapping[str, Path | DataError], left_out: Mapping[tuple[str, str], str]) -> None:
        super().__init__(None)
        self._files, self._left_out = files, left_out

    def load(self, task: Mapping[str, Any], image_key: str) -> RgbImage:
        """See `ImageLoader.load`."""
        address = image_address(task, image_key)
        found = self._files[address]
        try:
            if isinstance(found, DataError):
                raise found
            if why := self._left_out.get((str(task["id"]), address.strip())):
                raise DataError(why)
            return read_image(found)
        except DataError as error:
            raise ImageError(f"task {task.get('id')}: image {brief_text(address)}: {error}") from error
