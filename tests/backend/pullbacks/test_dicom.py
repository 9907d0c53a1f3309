"""Tags of DICOM files: mm per pixel of every kind, and how A-lines lie."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from backend.pullbacks.dicom import read_header
from models.data.png import write_png
from models.data.scan_conversion import Scan
from tests.backend.pullbacks.files import PATIENT, PROCESSING, dataset, frames, items, write_dicom

MEASURES = {"PixelMeasuresSequence": items(PixelSpacing=[0.02, 0.01])}


def region(width: int, delta: float, unit: int = 3, kind: int = 1) -> Any:
    return dataset(
        RegionSpatialFormat=kind,
        PhysicalUnitsXDirection=unit,
        PhysicalUnitsYDirection=unit,
        PhysicalDeltaX=delta,
        PhysicalDeltaY=-delta,
        RegionLocationMinX0=0,
        RegionLocationMinY0=0,
        RegionLocationMaxX1=width,
        RegionLocationMaxY1=20,
    )


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, None),
        ({"PixelSpacing": [0.02, 0.01]}, (0.01, 0.02)),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
        ({"ImagerPixelSpacing": [0.1, 0.1]}, None),
        ({"PixelSpacing": [0, 0]}, None),
        ({"SharedFunctionalGroupsSequence": items(**MEASURES)}, (0.01, 0.02)),
        ({"PerFrameFunctionalGroupsSequence": items(**MEASURES), "PixelSpacing": [1, 1]}, (0.01, 0.02)),
        ({"SequenceOfUltrasoundRegions": Sequence([region(5, 0.5), region(30, 0.002)])}, (0.02, 0.02)),
        ({"SequenceOfUltrasoundRegions": Sequence([region(30, 0.5, unit=4), region(9, 0.002)])}, (0.02, 0.02)),
        ({"SequenceOfUltrasoundRegions": Sequence([region(30, 0.5, kind=3)])}, None),
    ],
)
def test_mm_per_pixel(tmp_path: Path, tags: dict[str, Any], expected: tuple[float, float] | None) -> None:
    header = read_header(write_dicom(tmp_path / "a.dcm", frames(1), **tags))
    assert header is not None
    assert header.spacing == (expected if expected is None else pytest.approx(expected))


def test_a_lines_by_frame(tmp_path: Path) -> None:
    contents = [
        {"OCTZOffsetCorrection": -4, "SeamLineIndex": 3, "NumberOfPaddedALines": 2},
        {"OCTZOffsetCorrection": 6},
    ]
    groups = [dataset(IntravascularOCTFrameContentSequence=items(**one)) for one in contents]
    tags: dict[str, Any] = {
        "SOPClassUID": PROCESSING,
        "PerFrameFunctionalGroupsSequence": Sequence(groups),
        "OCTZOffsetApplied": "NO",
        "FirstALineLocation": 30.0,
        "CatheterDirectionOfRotation": "CC",
        "ALinePixelSpacing": 0.006,
        "RefractiveIndexApplied": "NO",
        "EffectiveRefractiveIndex": 1.5,
    }
    header = read_header(write_dicom(tmp_path / "a.dcm", frames(2), **tags))
    assert header is not None
    assert header.scans == (Scan(-4, 2, 3, 30.0, False), Scan(6, 0, 0, 30.0, False))
    assert header.spacing == pytest.approx((0.004, 0.004))
    assert header.radius == 32 + 6
    tags |= {"OCTZOffsetApplied": "YES", "RefractiveIndexApplied": "YES"}
    header = read_header(write_dicom(tmp_path / "b.dcm", frames(2), **tags))
    assert header is not None
    assert [scan.offset for scan in header.scans] == [0, 0]
    assert header.spacing == pytest.approx((0.006, 0.006))


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, PATIENT),
        ({"PatientID": ""}, "Doe^Jane 19500101"),
        ({"PatientID": "", "PatientName": "", "PatientBirthDate": ""}, ""),
    ],
)
def test_the_patient_is_known_by_id_else_by_name_and_birth(tmp_path: Path, tags: dict[str, str], expected: str) -> None:
    header = read_header(write_dicom(tmp_path / "a.dcm", frames(1), **tags))
    assert header is not None
    assert header.patient == expected


def test_a_file_that_claims_billions_of_frames_is_refused_at_once(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(1), NumberOfFrames=2_000_000_000)
    with pytest.raises(ValueError, match="Number of Frames is 2000000000, at most 200000 are taken"):
        read_header(path)


def test_other_files_have_no_header(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    assert read_header(tmp_path / "a.png") is None
    plan = read_header(Path(str(get_testdata_file("rtplan.dcm"))))
    assert plan is not None
    assert plan.frames == 0
