"""Label Studio's JSON export, without its server: tasks with annotations, and the images in a folder."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from backend.errors import ImageError
from backend.label_studio.annotations import write_data_folder
from backend.label_studio.controls import CHOICES, CONTROLS
from backend.label_studio.controls.control import Control
from backend.label_studio.images import ImageLoader, image_address
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.task_data import group_field
from backend.sources.conversion import Conversion, ImageFiles, check_names
from models.data.decoding import RgbImage
from models.data.files import IMAGE_SUFFIXES, read_image
from models.errors import DataError


def is_label_studio(content: Any) -> bool:
    """Whether a JSON file is a list of Label Studio's tasks."""
    return isinstance(content, list) and bool(content) and all(isinstance(task, dict) for task in content)


def convert_label_studio(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write the accepted annotations of an export as a data folder; see `write_data_folder`.

    An export does not hold the labelling config: the labels are those that were used. Groups are read from the first of
    the fields patient, study, series and group that all tasks have.

    Raises:
        DataError: it is another export of Label Studio's, or no task of it can be used.
    """
    tasks = [task for content in files.values() for task in content]
    for task in tasks:
        if not isinstance(task.get("data"), dict) or not isinstance(task.get("annotations"), list):
            names = ", ".join(path.name for path in files)
            raise DataError(
                f"{names} is not Label Studio's JSON export, whose tasks have data and annotations; "
                "export again and choose JSON, not JSON-MIN"
            )
    config = used_config(tasks)
    check_names(config.training_classes)
    field = group_field(task["data"] for task in tasks)
    report = write_data_folder(tasks, config, _Images(images), out, group_field=field)
    if not report.used:
        raise DataError(f"no task can be learnt from: {report.text}")
    return Conversion(report.used, report.text.splitlines(), {text.partition(":")[0]: text for text in report.problems})


def used_config(tasks: Sequence[Mapping[str, Any]]) -> LabelConfig:
    """A labelling config with the controls and labels that the annotations of tasks use.

    A group of choices of which no annotation has taken two is one in which at most one may be taken: of a task without
    any nothing is then known.

    Raises:
        DataError: nothing is drawn or chosen on an image.
    """
    adapters = {adapter.type: adapter for adapter in CONTROLS}
    labels: dict[tuple[str, str, str], dict[str, str]] = {}
    several: set[str] = set()
    for region in _regions(tasks):
        adapter = adapters.get(str(region.get("type")))
        if adapter is None:
            continue
        control = adapter.tag, str(region.get("from_name")), str(region.get("to_name"))
        used = adapter.labels(region)
        labels.setdefault(control, {}).update({label: label for label in used})
        if len(used) > 1:
            several.add(control[1])
    if not labels:
        raise DataError("the export has no masks, polygons, rectangles, ellipses or choices; annotate some tasks first")
    key = _image_key(tasks)
    return LabelConfig(
        tuple(
            Control(tag, name, to_name, key, found, single=tag == CHOICES.tag and name not in several)
            for (tag, name, to_name), found in labels.items()
        )
    )


def _regions(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for task in tasks:
        for annotation in task["annotations"]:
            yield from (region for region in annotation.get("result") or [] if isinstance(region, dict))


def _image_key(tasks: Sequence[Mapping[str, Any]]) -> str:
    """The column of the tasks' data that holds an image's address: the first that looks like one."""
    for task in tasks:
        for key, value in task["data"].items():
            if isinstance(value, str) and _parts(value)[-1].lower().endswith(IMAGE_SUFFIXES):
                return str(key)
    raise DataError(f"no column of the tasks' data is the address of an image ({', '.join(tasks[0]['data'])})")


class _Images(ImageLoader):
    """Reads the images of tasks from a folder."""

    def __init__(self, files: ImageFiles) -> None:
        super().__init__(None)
        self._files = files

    def load(self, task: Mapping[str, Any], image_key: str) -> RgbImage:
        """See `ImageLoader.load`; a file may lie at the end of the address or of any part of it."""
        address = image_address(task, image_key)
        parts = _parts(address)
        names = ["/".join(parts[i:]) for i in range(len(parts))]
        # Label Studio puts eight hexadecimal digits before the name of an upload.
        prefix, dash, original = parts[-1].partition("-")
        if dash and len(prefix) == 8:
            names.insert(-1, original)
        try:
            return read_image(self._files.find(*names))
        except DataError as error:
            raise ImageError(f"task {task.get('id')}: image {address}: {error}") from error


def _parts(address: str) -> list[str]:
    """The path in an image's address: of an upload, of local files, in a bucket, on a server or in a folder."""
    parsed = urlsplit(address.replace("\\", "/"))
    local = parse_qs(parsed.query).get("d")
    path = local[0] if local and parsed.path.endswith("/local-files/") else unquote(parsed.path)
    return [part for part in PurePosixPath(path).parts if part not in ("/", "..")] or [address]
