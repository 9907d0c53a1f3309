"""A study from its DICOM files to DICOM Segmentations: imported, predicted, accepted in part, trained on, exported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from backend.database.jobs import FINISHED
from backend.demo.sample_project import CONFIG
from models.phantom import CLASSES, Phantom, render_phantom
from tests.backend.pullbacks.files import write_dicom, write_series
from tests.end_to_end.frames import Frame, regions
from tests.end_to_end.stack import Stack, premask
from tests.end_to_end.test_label_studio import newest_job, wait_for

pytestmark = [pytest.mark.end_to_end, pytest.mark.soak, pytest.mark.timeout(3600)]
PATIENTS, FRAMES, SIZE = ("A", "B", "C"), 90, 192
ACCEPTED = range(4, FRAMES + 1, 10)  # frames of each patient whose masks are submitted


@pytest.fixture(scope="module")
def phantoms() -> dict[str, list[Phantom]]:
    """The frames of each patient: ten neighbours show the same."""
    seeds = {patient: 930_000 + 100 * number for number, patient in enumerate(PATIENTS)}
    shown = {patient: [render_phantom(seed + n, SIZE) for n in range(FRAMES // 10)] for patient, seed in seeds.items()}
    return {patient: [distinct[n // 10] for n in range(FRAMES)] for patient, distinct in shown.items()}


def test_a_study_of_270_frames(stack: Stack, phantoms: dict[str, list[Phantom]], tmp_path: Path) -> None:
    client, data = stack.client, {"PREMASK_DATA_DIR": str(stack.folder)}
    images = {patient: [phantom.image for phantom in shown] for patient, shown in phantoms.items()}
    (tmp_path / "study").mkdir()
    write_dicom(tmp_path / "study" / "A.dcm", images["A"], PatientID="A")
    write_series(tmp_path / "study" / "B", images["B"], PatientID="B")
    write_dicom(tmp_path / "study" / "C.dcm", images["C"], PatientID="C")
    project = int(client.create_project("study", CONFIG)["id"])
    target = ("--url", stack.label_studio.url, "--api-key", stack.login.token, "--project", project)
    premask("import", tmp_path / "study", *target, "--json", tmp_path / "imported.json", **data)
    imported = json.loads((tmp_path / "imported.json").read_text(encoding="utf-8"))
    assert (imported["created"], imported["left_out"]) == (270, [])
    patient_of = {one["series"]: Path(one["source"]).stem for one in imported["pullbacks"]}

    premask("connect", *target, "--backend-url", stack.backend.url)
    premask("predict-project", *target, **data)
    predicted = {int(one["task"]): one for one in client.predictions(project)}
    rows = client.task_rows(project)
    assert sorted(predicted) == [row.id for row in rows]

    accepted = [row for row in rows if row.data["frame"] in ACCEPTED]
    for row in accepted:
        phantom = phantoms[patient_of[row.data["series"]]][row.data["frame"] - 1]
        shown = {label: mask for label, mask in phantom.masks.items() if mask.any()}
        result = regions(Frame("", b"", shown, (SIZE, SIZE)))
        submitted = {"result": result, "lead_time": 3.2, "parent_prediction": predicted[row.id]["id"]}
        client.call("POST", f"/api/tasks/{row.id}/annotations/", json=submitted)
    (backend,) = client.ml_backends(project)
    client.call("POST", f"/api/ml/{backend['id']}/train", json={})
    wait_for(lambda: newest_job(stack.backend.url, project)["state"] in FINISHED, 1200)
    job = newest_job(stack.backend.url, project)
    assert (job["state"], job["report"]["used"]) == ("done", len(accepted))

    premask("export", *target, "--format", "dicom-seg", "--out", tmp_path / "out", **data)
    files = [dcmread(path) for path in sorted((tmp_path / "out").glob("*.dcm"))]
    assert sorted(str(file.PatientID) for file in files) == list(PATIENTS)
    for file in files:
        assert_segments(file, phantoms[str(file.PatientID)], sources(tmp_path / "study", str(file.PatientID)))


def sources(study: Path, patient: str) -> dict[tuple[str, int], int]:
    """SOP Instance UID and frame within the file -> number of the frame in the pullback."""
    if patient == "B":
        files = [dcmread(path, stop_before_pixels=True) for path in (study / "B").iterdir()]
        return {(str(file.SOPInstanceUID), 1): int(file.InstanceNumber) for file in files}
    uid = str(dcmread(study / f"{patient}.dcm", stop_before_pixels=True).SOPInstanceUID)
    return {(uid, number): number for number in range(1, FRAMES + 1)}


def assert_segments(file: Any, phantoms: list[Phantom], numbers: dict[tuple[str, int], int]) -> None:
    """Every class of every accepted frame is there, pixel for pixel, and refers to the frame that it was drawn on."""
    labels = {int(segment.SegmentNumber): str(segment.SegmentLabel) for segment in file.SegmentSequence}
    assert set(labels.values()) == set(CLASSES)
    masks: NDArray[np.uint8] = file.pixel_array.reshape(-1, SIZE, SIZE)
    seen = set()
    for group, mask in zip(file.PerFrameFunctionalGroupsSequence, masks, strict=True):
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        page = int(source.get("ReferencedFrameNumber") or 1)
        number = numbers[str(source.ReferencedSOPInstanceUID), page]
        label = labels[int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        truth = phantoms[number - 1].masks.get(label, np.zeros((SIZE, SIZE), np.bool_))
        assert ((mask > 0) == truth).all(), (file.PatientID, number, label)
        seen.add((number, label))
    assert seen == {(number, label) for number in ACCEPTED for label in CLASSES}
