"""The images to export, and how every format goes through them: one image in memory at a time."""

import csv
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from backend.errors import ExportError
from backend.exports.names import file_names
from models.data.files import image_shape
from models.data.png import write_png
from models.data.reader import DataFolder
from models.data.sample import Sample
from models.data.splitter import split_samples

Mask = NDArray[np.bool_]
PREDICTED = "predicted"
TABLE = "images.csv"
ORIENTATION = 0x0112  # tag of EXIF
COPIED = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}  # files that every tool shows as they are


@dataclass(frozen=True)
class Frame:
    """Frame of a series, as the data of its task states it.

    Attributes:
        series: name or UID.
        number: in the series, from 1.
        file: that `premask import` has read it from; None where that is not recorded.
        page: in that file, from 1.
        sop_instance: SOP Instance UID of that file, "" where it is not DICOM.
        is_converted: the image is a cross-section that was made from the file's A-lines.
    """

    series: str
    number: int
    file: Path | None = None
    page: int = 1
    sop_instance: str = ""
    is_converted: bool = False


@dataclass(frozen=True)
class ExportImage:
    """One image to export.

    Attributes:
        sample: its file, masks and the presence of classes.
        name: for people.
        stem: of its files in the export, without ending: safe on every system, and unlike all others.
        subset: train, val or another split; PREDICTED where a model, and nobody else, has drawn the masks.
        annotator: whose masks they are, "" unless all annotators' are exported.
        frame: of a series; None where it is unknown.
    """

    sample: Sample
    name: str
    stem: str
    subset: str
    annotator: str = ""
    frame: Frame | None = None


@dataclass(frozen=True)
class Origin:
    """Where an image of a project comes from.

    Attributes:
        name: for people, such as "task-7, annotation 12".
        annotator: see `ExportImage`.
        frame: see `ExportImage`.
    """

    name: str
    annotator: str = ""
    frame: Frame | None = None


@dataclass(frozen=True)
class Export:
    """Everything that one export holds.

    Attributes:
        classes: all of them.
        drawn: those that masks are drawn of; of the others, such as Choices, only the presence is known.
        images: in the order of the data folder.
        version: model version whose predictions they are; None for accepted annotations.
        dicom: folder with the DICOM files that the images are frames of.
    """

    classes: tuple[str, ...]
    drawn: tuple[str, ...]
    images: tuple[ExportImage, ...]
    version: str | None = None
    dicom: Path | None = None

    @property
    def subsets(self) -> list[str]:
        """The subsets of the images, each once, in their order."""
        return list(dict.fromkeys(image.subset for image in self.images))


@dataclass
class Result:
    """What was written.

    Attributes:
        images: how many.
        objects: class -> connected parts, polygons or masks, by the format.
        left_out: image -> why it is not in the export.
        notes: sentences about the export.
        figures: measures of the format, such as the IoU of polygons; of JSON's types.
    """

    images: int = 0
    objects: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)

    def count(self, label: str, number: int = 1) -> None:
        """Add objects of a class."""
        self.objects[label] = self.objects.get(label, 0) + number


Tick = Callable[[int, int], None]  # images done, of how many


def drawn_classes(folder: DataFolder) -> tuple[str, ...]:
    """The classes that masks are drawn of: with a mask, or known to be absent and never present without one."""
    samples = list(folder.samples.values())

    def is_drawn(label: str) -> bool:
        told = {sample.presence.get(label) for sample in samples}
        return any(label in sample.masks for sample in samples) or (False in told and True not in told)

    return tuple(label for label in folder.classes if is_drawn(label))


def make_export(
    folder: DataFolder,
    problem: Callable[[Sample, Sequence[str], Sequence[str]], str],
    *,
    drawn: Sequence[str] | None = None,
    origins: Mapping[str, Origin] | None = None,
    version: str | None = None,
    dicom: Path | None = None,
) -> tuple[Export, dict[str, str]]:
    """The export of a data folder, and image -> why it is left out.

    Args:
        folder: the labelled images.
        problem: of the format; see `backend.exports.formats.Format`.
        drawn: see `Export`; None looks at the masks.
        origins: name of a sample -> origin.
        version: of the model, where the folder holds predictions: all images are then of the subset PREDICTED.
        dicom: see `Export`.

    Raises:
        ExportError: no image can be exported.
    """
    origin = {name: _origin(name, origins or {}) for name in folder.samples}
    of_masks = tuple(drawn_classes(folder) if drawn is None else (label for label in folder.classes if label in drawn))
    left_out: dict[str, str] = {}
    usable: list[Sample] = []
    for name, sample in folder.samples.items():
        if why := problem(sample, of_masks, folder.classes):
            left_out[origin[name].name] = why
        else:
            usable.append(sample)
    if not usable:
        first = next(iter(left_out.values()), "the source has no labelled image")
        raise ExportError(f"no image can be exported: {first}")
    subsets = _subsets(folder, usable) if version is None else {sample.name: PREDICTED for sample in usable}
    stems = file_names(origin[sample.name].name for sample in usable)
    images = tuple(
        _image(sample, stem, subsets[sample.name], origin[sample.name])
        for sample, stem in zip(usable, stems, strict=True)
    )
    return Export(folder.classes, of_masks, images, version, dicom), left_out


def _image(sample: Sample, stem: str, subset: str, origin: Origin) -> ExportImage:
    return ExportImage(sample, origin.name, stem, subset, origin.annotator, origin.frame)


def _origin(name: str, origins: Mapping[str, Origin]) -> Origin:
    """The origin of a sample; one of several images of a task is named task-7 and more."""
    task, blank, rest = name.partition(" ")
    found = origins.get(name) or origins.get(task)
    return Origin(name) if found is None else replace(found, name=f"{found.name}{blank}{rest}")


def _subsets(folder: DataFolder, samples: Sequence[Sample]) -> dict[str, str]:
    """Name -> subset: the folder's own splits; without train and val a fifth of the groups is held out as val."""
    given = {name: split for split, names in folder.splits.items() for name in names}
    if {"train", "val"} <= folder.splits.keys():
        safe = dict(zip(folder.splits, file_names(folder.splits), strict=True))
        return {sample.name: safe[given[sample.name]] if sample.name in given else "other" for sample in samples}
    tested = {name for name, split in given.items() if split == "test"}
    rest = [sample for sample in samples if sample.name not in tested]
    train, val = split_samples(rest) if len(rest) > 1 else (rest, [])
    subsets = {sample.name: "train" for sample in train} | {sample.name: "val" for sample in val}
    return subsets | dict.fromkeys(tested, "test")


def all_told(sample: Sample, drawn: Sequence[str], classes: Sequence[str]) -> str:
    """For formats with a place for unknown presence: every image can be told."""
    return ""


def unknown_masks(sample: Sample, drawn: Sequence[str], classes: Sequence[str]) -> str:
    """For formats of masks alone, in which a class without a mask is absent: each is drawn or known to be absent."""
    unknown = [label for label in drawn if label not in sample.masks and sample.presence.get(label) is not False]
    if not drawn:
        return "no class has masks; the formats png and cvat tell which classes are on an image"
    return f"it is unknown where {', '.join(unknown)} is on it, if at all" if unknown else ""


def unknown_presence(sample: Sample, drawn: Sequence[str], classes: Sequence[str]) -> str:
    """For formats that can also say that a class is there, but not where: the presence of each must be known."""
    unknown = [label for label in classes if label not in sample.masks and sample.presence.get(label) is None]
    return f"it is unknown whether {', '.join(unknown)} is on it" if unknown else ""


def each(export: Export, tick: Tick) -> Iterator[tuple[ExportImage, tuple[int, int]]]:
    """The images one after the other, with their height and width."""
    for done, image in enumerate(export.images):
        tick(done, len(export.images))
        yield image, image_shape(image.sample.image, image.sample.file_page)
    tick(len(export.images), len(export.images))


def save_picture(sample: Sample, folder: Path, stem: str) -> str:
    """Write an image as every tool shows it: PNG and JPEG files as they are, anything else as RGB in a PNG.

    Returns:
        The name of its file in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    suffix = sample.image.suffix.lower()
    if suffix in COPIED and _is_plain(sample.image, COPIED[suffix]):
        shutil.copyfile(sample.image, folder / f"{stem}{suffix}")
        return f"{stem}{suffix}"
    write_png(folder / f"{stem}.png", sample.read_image())
    return f"{stem}.png"


def _is_plain(path: Path, kind: str) -> bool:
    """Whether a file holds one picture of 8 bits, grey or RGB, that is shown as it is stored."""
    from PIL import Image

    try:
        with Image.open(path, formats=[kind]) as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            pages = getattr(image, "n_frames", 1)
            return image.mode in ("L", "RGB") and pages == 1 and not turned and "transparency" not in image.info
    except OSError:
        return False  # of another kind than its name says


def write_table(export: Export, out: Path, files: Mapping[str, str]) -> None:
    """Write images.csv: of each file its original name, source, subset, group, annotator and who has drawn its masks.

    Args:
        export: its images.
        out: folder of the export.
        files: stem -> path of the image or label in the export; images without one are not listed.
    """
    with (out / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "name", "subset", "group", "annotator", "masks"])
        drawn_by = "accepted" if export.version is None else f"predicted by {export.version}"
        for image in export.images:
            if image.stem in files:
                group = image.sample.group or ""
                row = [files[image.stem], image.name, image.subset, group, image.annotator, drawn_by]
                table.writerow([cell.encode(errors="replace").decode() for cell in row])
