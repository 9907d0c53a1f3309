"""The DICOM files that exported images are frames of."""

import re
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.exports.export import ExportImage
from models.data.dicom import is_dicom

POLAR = "1.2.840.10008.5.1.4.1.1.14.2"  # Intravascular OCT Image Storage - For Processing: frames of A-lines
NUMBERED = re.compile(r"(.+?)[-_. ]*(?:frame|page)?[-_. ]*(\d+)", re.IGNORECASE)


class NoFrame(Exception):
    """An image is no frame of a DICOM file; the text says why."""


@dataclass(frozen=True)
class Instance:
    """One DICOM file.

    Attributes:
        path: the file.
        series, sop_instance, sop_class: UIDs.
        number: Instance Number, 0 without one.
        frames: how many it has.
        size: height and width.
        is_multiframe: whether it states a number of frames, even if it is 1.
    """

    path: Path
    series: str
    sop_instance: str
    sop_class: str
    number: int
    frames: int
    size: tuple[int, int]
    is_multiframe: bool


@dataclass(frozen=True)
class SourceFrame:
    """A frame of a DICOM file; `number` from 1."""

    instance: Instance
    number: int


class DicomFiles:
    """Finds the DICOM frame of an image.

    An image is a frame if its own file is DICOM; if `premask import` has recorded where it comes from; if its task
    names a series and a frame; or if its name is a file's name and a number, such as run-012.

    Args:
        folder: looked through for DICOM files, also in the folders below; None for what the images name themselves.
    """

    def __init__(self, folder: Path | None) -> None:
        self._opened: dict[Path, Instance | None] = {}
        self._by_uid: dict[str, Instance] = {}
        self._by_name: dict[str, list[Instance]] = defaultdict(list)
        for path in sorted(folder.rglob("*")) if folder is not None else ():
            instance = self._open(path) if path.is_file() else None
            if folder is None or instance is None:
                continue
            relative = path.relative_to(folder)
            self._by_uid[instance.sop_instance] = instance
            names = {relative.as_posix(), path.name, path.stem, instance.series, instance.sop_instance}
            for name in names | ({path.parent.name} if len(relative.parts) > 1 else set()):
                self._by_name[name].append(instance)

    def frame(self, image: ExportImage) -> SourceFrame:
        """The frame that an image shows.

        Raises:
            NoFrame: there is none, or its pixels are not those of the image.
        """
        sample = image.sample
        own = self._open(sample.image)
        if own is not None:
            return _checked(own, sample.file_page + 1)
        frame = image.frame
        if frame is not None and frame.is_converted:
            raise NoFrame("it shows a cross-section, and the file has A-lines: their pixels do not correspond")
        if frame is not None and (frame.sop_instance or frame.file is not None):
            found = self._by_uid.get(frame.sop_instance) or self._recorded(frame.file, frame.sop_instance)
            if found is None:
                raise NoFrame(f"{frame.file} is not there any more; name the folder with the DICOM files by --dicom")
            return _checked(found, frame.page)
        if frame is not None:
            return self._numbered(frame.series, frame.number)
        for name in (image.name, image.stem):
            if (parts := NUMBERED.fullmatch(name)) and parts[1] in self._by_name:
                return self._numbered(parts[1], int(parts[2]))
        raise NoFrame("it is unknown which frame of which DICOM file it is")

    def _numbered(self, series: str, number: int) -> SourceFrame:
        """A frame by the name of its series and its number from 1."""
        instances = sorted(self._by_name.get(series, []), key=lambda one: (one.number, one.path.name))
        if len({instance.series for instance in instances}) > 1:
            raise NoFrame(f"the DICOM files that are named {series!r} are of several series")
        total = sum(instance.frames for instance in instances)
        if not 1 <= number <= total:
            raise NoFrame(f"frame {number} of series {series!r} is asked for, and {total} are among the DICOM files")
        for instance in instances:
            if number <= instance.frames:
                break
            number -= instance.frames
        return _checked(instance, number)

    def _recorded(self, path: Path | None, sop_instance: str) -> Instance | None:
        found = self._open(path) if path is not None and path.is_file() else None
        return found if found is not None and sop_instance in ("", found.sop_instance) else None

    def _open(self, path: Path) -> Instance | None:
        """What the tags of a file say; None for a file that is not DICOM, is damaged or has no pixels."""
        if path not in self._opened:
            self._opened[path] = _instance(path)
        return self._opened[path]


def _checked(instance: Instance, number: int) -> SourceFrame:
    if not 1 <= number <= instance.frames:
        raise NoFrame(f"{instance.path} has {instance.frames} frames, frame {number} is asked for")
    if instance.sop_class == POLAR:
        raise NoFrame(f"{instance.path} has A-lines, whose pixels are not those of the image")
    return SourceFrame(instance, number)


def _instance(path: Path) -> Instance | None:
    with path.open("rb") as file:
        if not is_dicom(file.read(132)):
            return None
    try:
        data = read_tags(path)
        if not data.get("Rows") or not data.get("Columns") or not data.get("SOPInstanceUID"):
            return None
        return Instance(
            path.resolve(),
            str(data.get("SeriesInstanceUID", "")),
            str(data.SOPInstanceUID),
            str(data.get("SOPClassUID", "")),
            int(data.get("InstanceNumber") or 0),
            max(int(data.get("NumberOfFrames") or 1), 1),
            (int(data.Rows), int(data.Columns)),
            "NumberOfFrames" in data,
        )
    except Exception:  # pydicom raises all kinds on damaged files
        return None


def read_tags(path: Path) -> Any:
    """All tags of a DICOM file before its pixels."""
    from pydicom import dcmread

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(path, stop_before_pixels=True, force=True)
