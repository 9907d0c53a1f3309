"""What an import takes from the tags of a DICOM file."""

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.data.decoding import is_pipe
from models.data.dicom import check_deflated, is_dicom
from models.data.scan_conversion import Scan

POLAR = "1.2.840.10008.5.1.4.1.1.14.2"  # Intravascular OCT Image Storage - For Processing
ULTRASOUND = ("US", "IVUS")
CENTIMETRES = 3  # unit of an ultrasound region
TWO_DIMENSIONAL = 1  # format of one
MAX_FRAMES = 200_000
MAX_VALUE_BYTES = 1 << 20  # a longer value of a tag is left on the disk: no tag that is read here has one


@dataclass(frozen=True)
class Header:
    """Tags of one DICOM file.

    Attributes:
        sop_class: SOP Class UID.
        sop_instance: SOP Instance UID.
        series: Series Instance UID.
        study: Study Instance UID.
        concatenation: UID of the concatenation that the file is a part of, "" for a whole one.
        order: sorts the files of a series: Instance Number, then the number within a concatenation.
        frames: how many it has; 0 for a file without pixels.
        patient: Patient ID, else name and date of birth; "" where the file states none.
        modality: such as IVOCT, IVUS, US.
        burned_in: Burned In Annotation, "" where it is absent.
        spacing: mm per pixel along x and along y; None where the file does not state them.
        scans: how the A-lines of each frame lie, for OCT frames that are stored as A-lines; else empty.
        columns: samples of an A-line.
    """

    sop_class: str
    sop_instance: str
    series: str
    study: str
    concatenation: str
    order: tuple[float, int]
    frames: int
    patient: str
    modality: str
    burned_in: str
    spacing: tuple[float, float] | None
    scans: tuple[Scan, ...]
    columns: int

    @property
    def radius(self) -> int:
        """Samples from the catheter's centre to the edge of the cross-section, the same in all frames."""
        return self.columns + max(0, *(scan.offset for scan in self.scans))


def read_header(path: Path) -> Header | None:
    """The tags of a DICOM file; None for any other file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it begins as DICOM and is damaged.
    """
    if is_pipe(path):
        raise ValueError("it is a pipe or a device, and no file")
    with path.open("rb") as file:
        if not is_dicom(file.read(132)):
            return None
        check_deflated(file)
    from pydicom import config, dcmread

    config.settings.reading_validation_mode = config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = dcmread(path, stop_before_pixels=True, force=True, defer_size=MAX_VALUE_BYTES)
            return _header(data)
    except OSError:
        raise
    except Exception as error:  # pydicom raises all kinds on damaged files
        raise ValueError(f"it is a damaged DICOM file: {error}") from error


def _header(data: Any) -> Header:
    frames = max(int(data.get("NumberOfFrames", 1) or 1), 1) if data.get("Rows") and data.get("Columns") else 0
    if frames > MAX_FRAMES:
        raise ValueError(f"Number of Frames is {frames}, at most {MAX_FRAMES} are taken")
    sop_class = _text(data, "SOPClassUID")
    part = int(data.get("InConcatenationNumber") or 0)
    number = data.get("InstanceNumber")
    scans = tuple(_scan(data, index) for index in range(frames)) if sop_class == POLAR else ()
    return Header(
        sop_class=sop_class,
        sop_instance=_text(data, "SOPInstanceUID"),
        series=_text(data, "SeriesInstanceUID"),
        study=_text(data, "StudyInstanceUID"),
        concatenation=_text(data, "ConcatenationUID"),
        order=(float(number) if number not in (None, "") else math.inf, part),
        frames=frames,
        patient=_text(data, "PatientID")
        or " ".join(filter(None, (_text(data, "PatientName"), _text(data, "PatientBirthDate")))),
        modality=_text(data, "Modality").upper(),
        burned_in=_text(data, "BurnedInAnnotation").upper(),
        spacing=_a_line_spacing(data) if scans else _spacing(data),
        scans=scans,
        columns=int(data.get("Columns") or 0),
    )


def _text(data: Any, name: str) -> str:
    return str(data.get(name) or "").strip().strip("\0")


def _groups(data: Any, sequence: str, index: int) -> Iterator[Any]:
    """Where attributes of a frame may be, the nearest first: its functional group, the shared one, the file."""
    for name, at in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        groups = data.get(name) or []
        if at < len(groups) and groups[at].get(sequence):
            yield groups[at].get(sequence)[0]
    yield data


def _first(data: Any, sequence: str, name: str, index: int = 0) -> Any:
    values = (group.get(name) for group in _groups(data, sequence, index))
    return next((value for value in values if value not in (None, "")), None)


def _scan(data: Any, index: int) -> Scan:
    """How the A-lines of a frame lie, as DICOM PS3.3 C.8.27 and PS3.17 EEE say."""

    def number(name: str) -> int:
        return int(_first(data, "IntravascularOCTFrameContentSequence", name, index) or 0)

    applied = _text(data, "OCTZOffsetApplied").upper() == "YES"
    return Scan(
        offset=0 if applied else number("OCTZOffsetCorrection"),
        padded=number("NumberOfPaddedALines"),
        line=number("SeamLineIndex"),
        angle=float(data.get("FirstALineLocation") or 0),
        clockwise=_text(data, "CatheterDirectionOfRotation").upper() != "CC",
    )


def _a_line_spacing(data: Any) -> tuple[float, float] | None:
    """mm between samples of an A-line in tissue."""
    spacing = float(data.get("ALinePixelSpacing") or 0)
    index = float(data.get("EffectiveRefractiveIndex") or 0)
    if _text(data, "RefractiveIndexApplied").upper() == "NO" and index > 0:
        spacing /= index
    return (spacing, spacing) if spacing > 0 else None


def _spacing(data: Any) -> tuple[float, float] | None:
    """mm per pixel along x and y, of the largest ultrasound region, else of the whole frame.

    Imager Pixel Spacing does not count: it is measured at the detector, not in the patient.
    """
    regions = [
        region
        for region in data.get("SequenceOfUltrasoundRegions") or []
        if region.get("RegionSpatialFormat") == TWO_DIMENSIONAL
        and region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES
    ]
    if regions:
        largest = max(regions, key=_area)
        x, y = (abs(float(largest.get(f"PhysicalDelta{axis}") or 0)) * 10 for axis in "XY")
        return (x, y) if x and y else None
    for sequence, name in (
        ("PixelMeasuresSequence", "PixelSpacing"),
        ("", "NominalScannedPixelSpacing"),
    ):
        value = _first(data, sequence, name)
        if value is not None and len(value) == 2 and all(float(one) > 0 for one in value):
            return float(value[1]), float(value[0])  # DICOM has rows first
    return None


def _area(region: Any) -> int:
    corners = [int(region.get(f"RegionLocation{name}") or 0) for name in ("MinX0", "MaxX1", "MinY0", "MaxY1")]
    return (corners[1] - corners[0]) * (corners[3] - corners[2])
