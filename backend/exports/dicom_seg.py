"""DICOM Segmentation objects: one for each series, with all labelled frames and a segment for each class.

highdicom writes the object's head. It takes several frames only of sources with a frame of reference, which pullbacks
and ultrasound films lack, so the frames are added here, one image at a time. A frame that is labelled is there for
every segment, empty where the class is absent; a frame that is not labelled is not there.
"""

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import ExportError
from backend.exports.dicom_files import DicomFiles, Instance, NoFrame, SourceFrame, read_tags
from backend.exports.export import Export, ExportImage, Result, Tick, write_table
from backend.exports.names import file_names
from models.data.files import image_shape

SERIES_NUMBER = 900
MAX_LABEL = 64  # characters of DICOM's type LO
UTF_8 = "ISO_IR 192"
PRIVATE = "99PREMASK"  # coding scheme of the classes, which have names alone
REQUIRED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
)
# highdicom takes the head's source for a picture of one frame without a place in space; every reference to it is
# replaced by the one of its own frame.
ONE_FRAME = "1.2.840.10008.5.1.4.1.1.6.1"  # Ultrasound Image Storage
# Tags that would make highdicom ask for one position a frame; positions are copied frame by frame instead.
OF_FRAMES = (
    *("NumberOfFrames", "FrameOfReferenceUID", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"),
    *("DimensionIndexSequence", "DimensionOrganizationSequence"),
)

Labelled = tuple[ExportImage, SourceFrame]


def write_dicom_seg(export: Export, out: Path, tick: Tick) -> Result:
    """Write an export: NAME.dcm for each series, and for each annotator where all annotators' masks are exported.

    Raises:
        ExportError: highdicom is not installed, or no image is a frame of a DICOM file.
    """
    highdicom = _highdicom()
    result = Result()
    series = _series(export, result)
    done = 0
    files: dict[str, str] = {}
    names = file_names(_title(frames) for frames in series.values())
    for name, frames in zip(names, series.values(), strict=True):
        segmentation = _Segmentation(highdicom, export, frames[0], [frame.instance for _, frame in frames])
        for image, frame in frames:
            tick(done, len(export.images))
            masks = [image.sample.read_mask(label, frame.instance.size) for label in export.drawn]
            segmentation.add(frame, masks)
            for label, mask in zip(export.drawn, masks, strict=True):
                if mask.any():
                    result.count(label)
            files[image.stem] = f"{name}.dcm"
            done += 1
            result.images += 1
        segmentation.save(out / f"{name}.dcm")
    tick(len(export.images), len(export.images))
    write_table(export, out, files)
    result.notes.append(f"{len(series)} DICOM Segmentation objects, each with all labelled frames of its series")
    return result


def _highdicom() -> Any:
    try:
        import highdicom.seg
    except ImportError as error:
        raise ExportError(
            f"the format dicom-seg needs highdicom, which is not installed ({error}); "
            "install it with: pip install 'premask[dicom-seg]'"
        ) from error
    return highdicom


def _series(export: Export, result: Result) -> dict[tuple[str, str], list[Labelled]]:
    """Series UID and annotator -> frames, sorted; images that are no frame are left out."""
    files = DicomFiles(export.dicom)
    found: dict[tuple[str, str], list[Labelled]] = defaultdict(list)
    for image in export.images:
        try:
            frame = files.frame(image)
            _check_size(image, frame)
        except NoFrame as error:
            result.left_out[image.name] = str(error)
            continue
        found[frame.instance.series, image.annotator].append((image, frame))
    if not found:
        first = next(iter(result.left_out.values()))
        raise ExportError(
            f"no image is a frame of a DICOM file: {first}. A DICOM Segmentation refers to its source images; name "
            "their folder by --dicom. Pictures without DICOM are not wrapped as secondary captures: export them to png"
        )
    for (_, annotator), frames in found.items():
        frames.sort(key=lambda one: (one[1].instance.number, one[1].instance.path.name, one[1].number))
        _check_once(frames, annotator)
        sizes = {frame.instance.size for _, frame in frames}
        if len(sizes) > 1:
            raise ExportError(f"series {_title(frames)} has frames of several sizes, which one object cannot hold")
    return found


def _check_size(image: ExportImage, frame: SourceFrame) -> None:
    shape, size = image_shape(image.sample.image, image.sample.file_page), frame.instance.size
    if shape != size:
        raise NoFrame(f"it is {shape[1]}x{shape[0]}, and its DICOM frame {size[1]}x{size[0]}: the pixels do not fit")


def _check_once(frames: Sequence[Labelled], annotator: str) -> None:
    seen: dict[SourceFrame, str] = {}
    for image, frame in frames:
        if frame in seen:
            raise ExportError(
                f"{seen[frame]} and {image.name} are the same frame, {frame.number} of {frame.instance.path}; "
                "keep one of the tasks"
            )
        seen[frame] = image.name


def _title(frames: Sequence[Labelled]) -> str:
    """Name of a series' file, for people."""
    image, frame = frames[0]
    several = len({one.instance for _, one in frames}) > 1
    title = frame.instance.path.parent.name if several else frame.instance.path.stem
    title = image.frame.series if image.frame is not None else title
    return f"{title} {image.annotator}".strip()


class _Segmentation:
    """One object, to which frames are added.

    Args:
        highdicom: the library.
        export: names its classes.
        first: its first frame.
        instances: all files that it refers to.
    """

    def __init__(self, highdicom: Any, export: Export, first: Labelled, instances: Sequence[Instance]) -> None:
        self._rows: list[Any] = []
        self._bits: list[bytes] = []
        self._rest: NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._digest = hashlib.sha256()
        self._positions = _Positions()
        self._set = _head(highdicom, export, first)
        self._template = deepcopy(self._set.PerFrameFunctionalGroupsSequence[0])
        listed = self._set.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        template = deepcopy(listed[0])
        del listed[:]
        for instance in dict.fromkeys(instances):
            reference = deepcopy(template)
            reference.ReferencedSOPClassUID = instance.sop_class
            reference.ReferencedSOPInstanceUID = instance.sop_instance
            listed.append(reference)
        self._index = 0
        self._overlap = False

    def add(self, frame: SourceFrame, masks: Sequence[NDArray[np.bool_]]) -> None:
        """Add a labelled frame with the mask of each segment, shape (H, W), bool."""
        self._index += 1
        position = self._positions.of(frame)
        self._overlap = self._overlap or bool((np.sum(masks, axis=0) > 1).any())
        for segment, mask in enumerate(masks, start=1):
            self._rows.append(self._row(frame, segment, position))
            self._pack(mask)

    def _row(self, frame: SourceFrame, segment: int, position: Any) -> Any:
        """The functional groups of a frame of one segment."""
        from pydicom.dataset import Dataset

        row = deepcopy(self._template)
        content = row.FrameContentSequence[0]
        content.DimensionIndexValues = [segment, self._index]
        content.StackID, content.InStackPositionNumber = "1", self._index
        source = row.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPClassUID = frame.instance.sop_class
        source.ReferencedSOPInstanceUID = frame.instance.sop_instance
        if frame.instance.is_multiframe:
            source.ReferencedFrameNumber = frame.number
        identification = Dataset()
        identification.ReferencedSegmentNumber = segment
        row.SegmentIdentificationSequence = [identification]
        if position is not None:
            row.PlanePositionSequence = [position]
        return row

    def _pack(self, mask: NDArray[np.bool_]) -> None:
        """Append a mask's bits; frames do not begin at whole bytes."""
        bits = np.concatenate([self._rest, mask.reshape(-1)])
        whole = bits.size // 8 * 8
        packed = np.packbits(bits[:whole], bitorder="little").tobytes()
        self._digest.update(packed)
        self._bits.append(packed)
        self._rest = bits[whole:]

    def save(self, path: Path) -> None:
        """Write the object."""
        from pydicom.dataset import Dataset

        last = np.packbits(self._rest, bitorder="little").tobytes()
        pixels = b"".join([*self._bits, last])
        data = self._set
        data.PixelData = pixels + b"\0" * (len(pixels) % 2)
        data["PixelData"].VR = "OB"
        data.NumberOfFrames = len(self._rows)
        data.SegmentsOverlap = "YES" if self._overlap else "NO"
        shared = data.SharedFunctionalGroupsSequence[0]
        if "SegmentIdentificationSequence" in shared:
            del shared.SegmentIdentificationSequence
        if self._positions.complete:
            data.FrameOfReferenceUID = self._positions.reference
            shared.PlaneOrientationSequence = [self._positions.orientation]
            shared.PixelMeasuresSequence = [self._positions.measures]
        else:
            for row in self._rows:
                if "PlanePositionSequence" in row:
                    del row.PlanePositionSequence
        data.PerFrameFunctionalGroupsSequence = self._rows
        organisation = data.DimensionOrganizationSequence[0].DimensionOrganizationUID
        dimensions = []
        for pointer, group, text in (
            (0x0062000B, 0x0062000A, "Segment Number"),  # Referenced Segment Number
            (0x00209057, 0x00209111, "Frame"),  # In-Stack Position Number
        ):
            dimension = Dataset()
            dimension.DimensionIndexPointer, dimension.FunctionalGroupPointer = pointer, group
            dimension.DimensionOrganizationUID, dimension.DimensionDescriptionLabel = organisation, text
            dimensions.append(dimension)
        data.DimensionIndexSequence = dimensions
        self._digest.update(last)
        instance = _uid(f"instance {self._digest.hexdigest()} {data.SeriesInstanceUID}")
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = instance
        data.save_as(path, enforce_file_format=True)


class _Positions:
    """Where the frames lie in the patient, as their files say; complete if all do, in one frame of reference."""

    def __init__(self) -> None:
        self._tags: dict[Path, Any] = {}
        self._told: list[bool] = []
        self.reference: str | None = None
        self.orientation: Any = None
        self.measures: Any = None

    @property
    def complete(self) -> bool:
        """Whether the position of every frame is known."""
        return all(self._told)

    def of(self, frame: SourceFrame) -> Any:
        """The item of a Plane Position Sequence for a frame; None where the file does not state it."""
        from pydicom.dataset import Dataset

        path = frame.instance.path
        if path not in self._tags:
            self._tags = {path: read_tags(path)}  # one file at a time: frames are sorted by file
        tags = self._tags[path]
        values = [
            _stated(tags, frame.number, sequence, name)
            for sequence, name in (
                ("PlanePositionSequence", "ImagePositionPatient"),
                ("PlaneOrientationSequence", "ImageOrientationPatient"),
                ("PixelMeasuresSequence", "PixelSpacing"),
            )
        ]
        reference = str(tags.get("FrameOfReferenceUID") or "")
        if not reference or None in values:
            self._told.append(False)
            return None
        position, orientation, measures = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient, orientation.ImageOrientationPatient, measures.PixelSpacing = values
        thickness = _stated(tags, frame.number, "PixelMeasuresSequence", "SliceThickness")
        measures.SliceThickness = 1 if thickness is None else thickness
        if self.reference is None:
            self.reference, self.orientation, self.measures = reference, orientation, measures
        same = (self.reference, self.orientation, self.measures) == (reference, orientation, measures)
        self._told.append(same)
        return position


def _stated(tags: Any, number: int, sequence: str, name: str) -> Any:
    """A value of a frame: in its functional groups, the shared ones, or the file itself; None without one."""
    groups = tags.get("PerFrameFunctionalGroupsSequence") or []
    shared = tags.get("SharedFunctionalGroupsSequence") or []
    for group in [*groups[number - 1 : number], *shared[:1]]:
        if group.get(sequence) and group[sequence][0].get(name) not in (None, ""):
            return group[sequence][0].get(name)
    value = tags.get(name)
    return None if value in (None, "") else value


def _head(highdicom: Any, export: Export, first: Labelled) -> Any:
    """A Segmentation of one empty frame, whose tags are those of the object."""
    image, frame = first
    source = read_tags(frame.instance.path)
    for name in REQUIRED:
        if name not in source:
            setattr(source, name, None if "Date" in name or "Time" in name else "")
    for name in OF_FRAMES:
        if name in source:
            delattr(source, name)
    source.SOPClassUID = ONE_FRAME
    height, width = frame.instance.size
    series = _uid(f"series {frame.instance.series} {image.annotator} {export.version}")
    return highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=np.zeros((1, height, width, len(export.drawn)), dtype=np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=_segments(highdicom, export),
        series_instance_uid=series,
        series_number=SERIES_NUMBER,
        sop_instance_uid=_uid(f"instance of {series}"),
        instance_number=1,
        manufacturer="premask",
        manufacturer_model_name="premask",
        software_versions=_version(),
        device_serial_number="1",
        content_label="PREMASK",
        content_description=(
            "accepted annotations" if export.version is None else "predictions that nobody has accepted"
        ),
        content_creator_name=None,
        series_description="premask: " + ("accepted" if export.version is None else "predicted, not accepted"),
        specific_character_set=UTF_8,
        omit_empty_frames=False,
    )


def _version() -> str:
    from importlib.metadata import version

    return version("premask")


def _segments(highdicom: Any, export: Export) -> list[Any]:
    """A description for each class: its label, shortened where DICOM's is shorter, and whole in Segment Description."""
    from pydicom.sr.codedict import codes

    algorithm = None
    if export.version is not None:
        algorithm = highdicom.AlgorithmIdentificationSequence(
            name="premask", version=export.version[:MAX_LABEL], family=codes.cid7162.ArtificialIntelligence
        )
    segments = []
    for number, (label, short) in enumerate(zip(export.drawn, _short(export.drawn), strict=True), start=1):
        segment = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=short,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=highdicom.sr.CodedConcept(f"CLASS-{number}", PRIVATE, short),
            algorithm_type="MANUAL" if algorithm is None else "AUTOMATIC",
            algorithm_identification=algorithm,
        )
        segment.SegmentDescription = label
        segments.append(segment)
    return segments


def _short(labels: Sequence[str]) -> list[str]:
    """Labels of DICOM's type LO, each once: at most 64 characters, no backslash and no control character."""
    taken: set[str] = set()
    found = []
    for label in labels:
        text = "".join("-" if sign == "\\" or not sign.isprintable() else sign for sign in label).strip() or "class"
        short, number = text[:MAX_LABEL].strip(), 1
        while short in taken:
            number += 1
            short = f"{text[: MAX_LABEL - len(str(number)) - 1]}-{number}"
        taken.add(short)
        found.append(short)
    return found


def _uid(text: str) -> str:
    """A UID that the same content always gets."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'premask {text}').int}"
