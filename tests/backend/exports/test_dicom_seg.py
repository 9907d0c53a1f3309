import subprocess
import sys

import numpy as np
import pytest
from pydicom import dcmread

from backend.errors import ExportError
from backend.exports.export import Frame, Origin
from models.data.reader import open_data_folder
from models.data.writer import DataFolderWriter
from tests.backend.exports.made import CT, data_folder, dicom_file, square, written

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
SIZE = (13, 21)  # 273 pixels: frames do not end at whole bytes
CLASSES = ("Lumen", "Фиброзная крышка")
LUMEN, CAP = square(SIZE, 2, 3, 5), square(SIZE, 4, 5, 6)


@pytest.fixture
def pullback(tmp_path):
    """Four of seven frames are labelled: both overlapping, one, none; and one of which a class is unknown."""
    source = dicom_file(tmp_path / "dicom/run.dcm", 7, SIZE)
    images = {"run-002": {"Lumen": LUMEN, CLASSES[1]: CAP}, "run-003": {CLASSES[1]: CAP}, "run-006": {}, "run-007": {}}
    presence = {"run-007": {"Lumen": None, CLASSES[1]: False}}
    folder = data_folder(tmp_path / "data", CLASSES, images, size=SIZE, presence=presence)
    return source, folder


def test_one_object_has_all_labelled_frames_of_a_series_and_their_exact_masks(pullback, tmp_path):
    import highdicom

    source, folder = pullback
    result, left_out = written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom")
    (file,) = (tmp_path / "out").glob("*.dcm")
    segmentation = highdicom.seg.segread(file)
    read = segmentation.get_pixels_by_source_frame(
        source.SOPInstanceUID, [2, 3, 6], assert_missing_frames_are_empty=False
    )
    expected = np.zeros((3, *SIZE, 2), dtype=bool)
    expected[0, ..., 0], expected[0, ..., 1], expected[1, ..., 1] = LUMEN, CAP, CAP
    assert (read == expected).all()
    assert segmentation.NumberOfFrames == 6
    assert segmentation.SegmentsOverlap == "YES"
    assert result.images == 3
    assert list(left_out) == ["run-007"]


def test_a_frame_that_is_not_labelled_is_not_there(pullback, tmp_path):
    import highdicom

    _, folder = pullback
    written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom")
    (file,) = (tmp_path / "out").glob("*.dcm")
    told = {
        int(item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber)
        for item in highdicom.seg.segread(file).PerFrameFunctionalGroupsSequence
    }
    assert told == {2, 3, 6}


def test_pydicom_reads_the_object_with_labels_patient_and_references(pullback, tmp_path):
    source, folder = pullback
    written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom")
    (file,) = (tmp_path / "out").glob("*.dcm")
    data = dcmread(file)
    assert data.pixel_array.shape == (6, *SIZE)
    assert [segment.SegmentDescription for segment in data.SegmentSequence] == list(CLASSES)
    assert (str(data.PatientName), data.StudyInstanceUID) == ("Test^Pätient", source.StudyInstanceUID)
    (series,) = data.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert [one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence] == [source.SOPInstanceUID]
    assert {segment.SegmentAlgorithmType for segment in data.SegmentSequence} == {"MANUAL"}


def test_the_same_labels_give_the_same_uids(pullback, tmp_path):
    _, folder = pullback
    uids = set()
    for name in ("a", "b"):
        written(folder, "dicom-seg", tmp_path / name, dicom=tmp_path / "dicom")
        uids.add(dcmread(next((tmp_path / name).glob("*.dcm"))).SOPInstanceUID)
    assert len(uids) == 1


def test_predictions_are_marked_as_automatic(pullback, tmp_path):
    _, folder = pullback
    written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom", version="v7")
    data = dcmread(next((tmp_path / "out").glob("*.dcm")))
    algorithm = data.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (data.SegmentSequence[0].SegmentAlgorithmType, algorithm.AlgorithmVersion) == ("AUTOMATIC", "v7")
    assert data.ContentDescription == "predictions that nobody has accepted"


def test_files_of_one_frame_keep_their_place_in_the_patient(tmp_path):
    import highdicom

    study = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5"}
    space = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [0.5, 0.5], "SliceThickness": 2}
    for number in (1, 2, 3):
        place = {"InstanceNumber": number, "ImagePositionPatient": [0, 0, 2 * number]}
        dicom_file(tmp_path / f"dicom/scan/{number}.dcm", 1, SIZE, sop_class=CT, **study, **space, **place)
    folder = data_folder(tmp_path / "data", ("Lumen",), {"task-1": {"Lumen": LUMEN}, "task-2": {}}, size=SIZE)
    origins = {"task-1": Origin("task-1", "", Frame("scan", 3)), "task-2": Origin("task-2", "", Frame("1.2.4", 1))}
    written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom", origins=origins)
    segmentation = highdicom.seg.segread(next((tmp_path / "out").glob("*.dcm")))
    places = [item.PlanePositionSequence[0].ImagePositionPatient for item in _frames(segmentation)]
    assert places == [[0, 0, 2], [0, 0, 6]]
    assert segmentation.FrameOfReferenceUID == "1.2.5"
    uid = dcmread(tmp_path / "dicom/scan/3.dcm").SOPInstanceUID
    assert (segmentation.get_pixels_by_source_instance([uid])[0, ..., 0] == LUMEN).all()


def test_images_that_are_dicom_files_need_no_folder(tmp_path):
    source = dicom_file(tmp_path / "a.dcm", 1, SIZE, sop_class=CT)
    with DataFolderWriter(tmp_path / "data", ("Lumen",)) as folder:
        folder.add("a", tmp_path / "a.dcm", {"Lumen": LUMEN}, None)
    written(open_data_folder(tmp_path / "data"), "dicom-seg", tmp_path / "out")
    data = dcmread(next((tmp_path / "out").glob("*.dcm")))
    assert (
        data.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    )
    assert (data.pixel_array == LUMEN).all()


def test_a_recorded_file_is_found_also_after_a_move(pullback, tmp_path):
    source, folder = pullback
    gone = Frame("pseudonym", 2, tmp_path / "moved.dcm", 5, source.SOPInstanceUID)
    origins = {
        name: Origin(name, "", Frame("pseudonym", 9, tmp_path / "lost.dcm", 1, "1.9")) for name in folder.samples
    }
    origins["run-002"] = Origin("run-002", "", gone)
    _, left_out = written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom", origins=origins)
    item = _frames(dcmread(next((tmp_path / "out").glob("*.dcm"))))[0]
    assert item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber == 5
    assert "lost.dcm is not there any more" in left_out["run-003"]


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (Frame("run", 8), "frame 8 of series 'run' is asked for, and 7"),
        (Frame("walk", 1), "frame 1 of series 'walk'"),
        (Frame("run", 1, is_converted=True), "A-lines"),
        (None, "unknown which frame"),
    ],
)
def test_pictures_without_dicom_are_refused_in_a_sentence(tmp_path, frame, complaint):
    dicom_file(tmp_path / "dicom/run.dcm", 7, SIZE)
    folder = data_folder(tmp_path / "data", CLASSES, {"a": {"Lumen": LUMEN}}, size=SIZE)
    with pytest.raises(ExportError, match="not wrapped as secondary captures") as raised:
        written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom", origins={"a": Origin("a", "", frame)})
    assert complaint in str(raised.value)


def test_masks_of_another_size_than_the_frame_are_left_out(tmp_path):
    dicom_file(tmp_path / "dicom/run.dcm", 2, (14, 21))
    folder = data_folder(tmp_path / "data", CLASSES, {"run-1": {"Lumen": LUMEN}}, size=SIZE)
    with pytest.raises(ExportError, match="it is 21x13, and its DICOM frame 21x14"):
        written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom")


def test_labels_too_long_for_dicom_are_shortened_and_kept_whole_beside(tmp_path):
    labels = ("é" * 260, "é" * 259, "a\\b")
    dicom_file(tmp_path / "dicom/run.dcm", 2, SIZE)
    folder = data_folder(tmp_path / "data", labels, {"run-1": dict.fromkeys(labels, LUMEN)}, size=SIZE)
    written(folder, "dicom-seg", tmp_path / "out", dicom=tmp_path / "dicom")
    segments = dcmread(next((tmp_path / "out").glob("*.dcm"))).SegmentSequence
    assert [segment.SegmentDescription for segment in segments] == list(labels)
    assert [segment.SegmentLabel for segment in segments] == ["é" * 64, "é" * 62 + "-2", "a-b"]


def test_without_highdicom_the_error_names_the_extra(tmp_path):
    code = "import sys; sys.modules['highdicom'] = None; from backend.exports.dicom_seg import _highdicom; _highdicom()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'premask[dicom-seg]'" in done.stderr


def _frames(data):
    return data.PerFrameFunctionalGroupsSequence
