"""`premask import`: frames reach a project or a folder pixel for pixel, once, in order, without names."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid

from backend.cli import cli
from backend.errors import LabelStudioError, PullbackError
from backend.label_studio.client import LabelStudio
from backend.pullbacks import destination
from backend.pullbacks.origins import read_origins
from models.data.decoding import decode_image
from models.data.png import write_png
from models.data.scan_conversion import Scan, scan_convert
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG
from tests.backend.pullbacks.files import (
    LOSSLESS,
    NAME,
    PATIENT,
    PROCESSING,
    dataset,
    frames,
    items,
    write_dicom,
    write_film,
    write_series,
    write_stack,
)

REASONS = (
    "it is a DICOM file without pixels",
    "it is a DICOM Segmentation",
    "another file holds the same DICOM instance",
    "it is damaged",
    "it is a damaged DICOM file",
    "it is not an image",
    "it is a gzip archive",
)
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def server() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio() as running:
        yield running


@pytest.fixture
def project(server: FakeLabelStudio) -> int:
    return server.add_project(CONFIG)


@pytest.fixture
def environ(tmp_path: Path, server: FakeLabelStudio) -> dict[str, str]:
    return {
        "PREMASK_DATA_DIR": str(tmp_path / "data"),
        "LABEL_STUDIO_URL": server.url,
        "LABEL_STUDIO_API_KEY": server.legacy_token,
    }


@pytest.fixture
def invoke(environ: dict[str, str]) -> Callable[..., Result]:
    def call(*arguments: object) -> Result:
        return CliRunner().invoke(cli, ["import", *map(str, arguments)], env=environ, catch_exceptions=False)

    return call


@pytest.fixture
def run(invoke: Callable[..., Result], tmp_path: Path) -> Run:
    """Run the command to its end; gives its JSON with what it printed as `output`."""

    def call(*arguments: object) -> dict[str, Any]:
        done = invoke(*arguments, "--json", tmp_path / "report.json")
        assert done.exit_code == 0, done.output
        report: dict[str, Any] = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
        return {**report, "output": done.output}

    return call


def pixels(server: FakeLabelStudio, project: int) -> list[NDArray[np.uint8]]:
    """The images of a project in the order of its tasks, grey (H, W)."""
    tasks = [task for task in server.tasks.values() if task["project"] == project]
    return [decode_image(server.files[task["data"]["image"]], 1 << 20)[:, :, 0] for task in tasks]


def data_of(server: FakeLabelStudio, project: int) -> list[dict[str, Any]]:
    return [task["data"] for task in server.tasks.values() if task["project"] == project]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda one: one.name)
def test_frames_of_every_transfer_syntax_arrive_pixel_for_pixel_in_order(
    server: FakeLabelStudio, project: int, run: Run, tmp_path: Path, syntax: uid.UID
) -> None:
    images = frames(23)
    path = write_dicom(tmp_path / f"{NAME}.dcm", images, syntax, PixelSpacing=[0.01, 0.01])
    report = run(path, "--project", project)
    assert (report["created"], report["left_out"]) == (23, [])
    assert all((shown == image).all() for shown, image in zip(pixels(server, project), images, strict=True))
    data = data_of(server, project)
    assert [task["frame"] for task in data] == list(range(1, 24))
    assert {task["mm_per_pixel"] for task in data} == {0.01}
    assert len({(task["series"], task["patient"]) for task in data}) == 1
    assert all(set(task) == {"image", "series", "frame", "patient", "mm_per_pixel"} for task in data)


def test_series_films_stacks_and_folders_arrive(
    server: FakeLabelStudio, project: int, run: Run, tmp_path: Path
) -> None:
    images = frames(5)
    folder = tmp_path / "study"
    write_series(folder / "dicom", images)
    write_film(folder / "run.avi", images)
    write_stack(folder / "stack.tif", images)
    (folder / "pictures").mkdir()
    for number, image in enumerate(images):
        write_png(folder / "pictures" / f"{number}.png", image)
    report = run(folder, "--project", project)
    assert [one["created"] for one in report["pullbacks"]] == [5, 5, 5, 5]
    shown = pixels(server, project)
    for start in range(0, 20, 5):
        assert all((one == image).all() for one, image in zip(shown[start : start + 5], images, strict=True))
    assert all("mm_per_pixel" not in task for task in data_of(server, project))
    film = write_film(tmp_path / "run.mp4", images)
    assert run(film, "--project", project, "--mm-per-pixel", 0.02)["created"] == 5
    assert data_of(server, project)[-1]["mm_per_pixel"] == 0.02
    assert abs(pixels(server, project)[-1].astype(int) - images[-1]).mean() < 12


def test_colours_are_kept(server: FakeLabelStudio, project: int, run: Run, tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    run(write_dicom(tmp_path / "a.dcm", [colours]), "--project", project)
    (task,) = data_of(server, project)
    assert (decode_image(server.files[task["image"]], 1000) == colours).all()


def test_files_of_a_series_stay_comparable(server: FakeLabelStudio, project: int, run: Run, tmp_path: Path) -> None:
    """A slice of 10 bits beside one of 12 is not stretched to the same brightness, whichever of them is sent."""
    deep = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "Modality": "MR"}
    slices = [np.full((24, 32), value, "<u2") for value in (1000, 4000)]
    folder = write_series(tmp_path / "run", slices, **deep)
    run(folder, "--project", project, "--every", 2)
    run(folder, "--project", project)
    assert [int(image[0, 0]) for image in pixels(server, project)] == [
        round(value * 255 / 4095) for value in (1000, 4000)
    ]


def test_a_lines_become_cross_sections(server: FakeLabelStudio, project: int, run: Run, tmp_path: Path) -> None:
    images = frames(2, height=90, width=40)
    tags = {
        "SOPClassUID": PROCESSING,
        "SharedFunctionalGroupsSequence": items(
            IntravascularOCTFrameContentSequence=items(OCTZOffsetCorrection=5, SeamLineIndex=0)
        ),
        "ALinePixelSpacing": 0.005,
        "OCTZOffsetApplied": "NO",
    }
    report = run(write_dicom(tmp_path / "a.dcm", images, **tags), "--project", project)
    assert report["pullbacks"][0]["scan_converted"]
    assert report["pullbacks"][0]["mm_per_pixel"] == 0.005
    for shown, image in zip(pixels(server, project), images, strict=True):
        assert (shown == scan_convert(image, Scan(offset=5), 45)).all()


def test_a_second_run_sends_nothing_and_another_step_only_what_is_missing(
    server: FakeLabelStudio, project: int, run: Run, tmp_path: Path
) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(9))
    assert run(path, "--project", project, "--every", 4)["created"] == 3
    again = run(path, "--project", project, "--every", 4)
    assert (again["created"], again["present"]) == (0, 3)
    path = path.rename(tmp_path / "moved.dcm")
    assert run(path, "--project", project)["created"] == 6
    assert len(server.files) == 9
    assert sorted(task["frame"] for task in data_of(server, project)) == list(range(1, 10))


@pytest.mark.parametrize("kind", ["refused", "done"])
def test_after_a_failure_it_goes_on(
    server: FakeLabelStudio,
    project: int,
    run: Run,
    invoke: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Any,
) -> None:
    """Files that Label Studio refused, or took and did not confirm."""
    monkeypatch.setattr(destination, "FRAMES_AT_ONCE", 4)
    path = write_dicom(tmp_path / "a.dcm", frames(10))
    assert run(path, "--project", project, "--every", 9)["created"] == 2
    server.faults.append(("/import", 502, kind))
    with pytest.raises(LabelStudioError, match="502"):
        invoke(path, "--project", project)
    report = run(path, "--project", project)
    assert report["created"] + report["present"] == 10
    assert sorted(task["frame"] for task in data_of(server, project)) == list(range(1, 11))


def test_tasks_whose_creation_was_not_confirmed_are_not_created_again(
    server: FakeLabelStudio,
    project: int,
    run: Run,
    invoke: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(3))
    with monkeypatch.context() as patched:

        def created(client: LabelStudio, project_id: int, data: Any) -> int:
            for fields in data:
                server.add_task(project_id, fields)
            raise LabelStudioError("no answer in time")

        patched.setattr(LabelStudio, "create_tasks", created)
        with pytest.raises(LabelStudioError):
            invoke(path, "--project", project)
    assert run(path, "--project", project)["present"] == 3
    assert len(server.files) == 3


def test_killed_half_way_it_goes_on(
    server: FakeLabelStudio, project: int, run: Run, environ: dict[str, str], tmp_path: Path
) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(300, height=200, width=200))
    command = [sys.executable, "-c", "from backend.cli import main; main()", "import", path, "--project", project]
    with subprocess.Popen([str(part) for part in command], env=os.environ | environ, stderr=subprocess.DEVNULL) as one:
        deadline = time.monotonic() + 120
        while not server.tasks and time.monotonic() < deadline:
            time.sleep(0.01)
        one.send_signal(signal.SIGKILL)
    before = len(server.tasks)
    assert before > 0
    report = run(path, "--project", project)
    assert report["present"] >= before
    assert [task["frame"] for task in data_of(server, project)] == list(range(1, 301))


def test_no_name_leaves_and_a_patient_keeps_the_same_pseudonym(
    server: FakeLabelStudio, project: int, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    first = write_dicom(folder / f"{PATIENT}.dcm", frames(1))
    second = write_series(folder / "later", frames(1), StudyInstanceUID="1.2.4")
    other = write_dicom(folder / "other.dcm", frames(1), PatientID="ID-1")
    for path in (first, second, other):
        run(path, "--project", project)
    one, two, three = (task["patient"] for task in data_of(server, project))
    assert one == two != three
    assert one.startswith("patient-")
    sent = json.dumps([data_of(server, project), list(server.files)])
    sent += "".join(file.decode("latin-1") for file in server.files.values())
    for secret in (NAME, "Doe", PATIENT, "4711", "1950", "Somewhere", "later"):
        assert secret not in sent
    salt = tmp_path / "data" / "pullbacks" / "salt"
    assert salt.stat().st_mode & 0o077 == 0
    assert salt.read_text() not in sent


def test_another_data_folder_has_other_pseudonyms(
    server: FakeLabelStudio, project: int, run: Run, environ: dict[str, str], tmp_path: Path
) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(1))
    run(path, "--project", project)
    environ["PREMASK_DATA_DIR"] = str(tmp_path / "other")
    run(path, "--project", project)
    one, two = data_of(server, project)
    assert one["patient"] != two["patient"]
    assert one["series"] != two["series"]


def test_names_are_kept_where_that_is_asked_for(
    server: FakeLabelStudio, project: int, run: Run, tmp_path: Path
) -> None:
    report = run(write_dicom(tmp_path / "run 1.dcm", frames(1)), "--project", project, "--keep-names")
    (task,) = data_of(server, project)
    assert task["patient"] == PATIENT
    assert task["series"].startswith("run 1-")
    assert "--keep-names" in report["output"]
    assert "run 1" not in task["image"]


def test_files_without_a_patient_have_the_one_that_is_named_else_one_each(
    server: FakeLabelStudio, project: int, run: Run, tmp_path: Path
) -> None:
    first, second = (write_film(tmp_path / f"{n}.avi", frames(2 + n)) for n in range(2))
    run(first, second, "--project", project, "--every", 9)
    run(first, second, "--project", project, "--every", 9, "--series", "named", "--patient", PATIENT)
    run(write_dicom(tmp_path / "a.dcm", frames(1)), "--project", project)
    patients = [task["patient"] for task in data_of(server, project)]
    assert patients[0] != patients[1]
    assert len(set(patients[2:])) == 1


def test_a_series_has_the_name_that_is_given(server: FakeLabelStudio, project: int, run: Run, tmp_path: Path) -> None:
    first, second = (write_dicom(tmp_path / f"{n}.dcm", frames(2 + n)) for n in range(2))
    run(first, "--project", project, "--series", "trial")
    assert run(first, second, "--project", project, "--series", "trial")["created"] == 3
    names = [task["series"] for task in data_of(server, project)]
    assert names[:2] == ["trial", "trial"]
    assert len(set(names[2:])) == 1
    assert names[2].startswith("trial-")


def test_a_name_is_not_given_to_another_pullback(
    server: FakeLabelStudio, project: int, run: Run, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    run(write_dicom(tmp_path / "a.dcm", frames(2)), "--project", project, "--series", "trial")
    with pytest.raises(PullbackError, match=r"another pullback.*--series"):
        invoke(write_dicom(tmp_path / "b.dcm", frames(2)), "--project", project, "--series", "trial")
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_png(folder / "b.png", frames(1)[0])
    run(folder, "--project", project)
    write_png(folder / "a.png", frames(1)[0])
    with pytest.raises(PullbackError, match=r"frame 1 .* was .*b\.png and is .*a\.png"):
        invoke(folder, "--project", project)
    assert len(server.tasks) == 3


def test_boxes_become_black(server: FakeLabelStudio, project: int, run: Run, tmp_path: Path) -> None:
    white = np.full((24, 32), 255, np.uint8)
    path = write_dicom(tmp_path / "a.dcm", [white], Modality="US")
    warned = run(path, "--storage", tmp_path / "out")
    assert any("burnt into" in note and "not stated" in note for note in warned["notes"])
    report = run(path, "--project", project, "--black-out", "0,0,10,3", "--black-out", "30,20,99,99")
    assert not any("burnt into" in note for note in report["notes"])
    expected = white.copy()
    expected[:3, :10] = expected[20:, 30:] = 0
    (shown,) = pixels(server, project)
    assert (shown == expected).all()


def test_a_box_outside_the_frame_stops_before_anything_is_sent(
    server: FakeLabelStudio, project: int, invoke: Callable[..., Result], tmp_path: Path
) -> None:
    with pytest.raises(PullbackError, match="outside a frame of 32 x 24"):
        invoke(write_dicom(tmp_path / "a.dcm", frames(1)), "--project", project, "--black-out", "40,0,50,9")
    assert not server.files


def test_a_folder_for_local_files(run: Run, tmp_path: Path) -> None:
    images = frames(3)
    path = write_dicom(tmp_path / "a.dcm", images)
    out = tmp_path / "my out"
    assert run(path, "--storage", out, "--every", 2)["created"] == 2
    report = run(path, "--storage", out)
    assert (report["created"], report["present"]) == (1, 2)
    assert "LOCAL_FILES_DOCUMENT_ROOT" in report["output"]
    tasks = [task["data"] for task in json.loads((out / "tasks.json").read_text(encoding="utf-8"))]
    assert [task["frame"] for task in tasks] == [1, 2, 3]
    for task, image in zip(tasks, images, strict=True):
        folder, _, name = task["image"].removeprefix("/data/local-files/?d=").partition("/")
        assert folder == "my%20out"
        assert (np.asarray(Image.open(BytesIO((out / name).read_bytes()))) == image).all()


def test_a_folder_whose_tasks_are_created_in_a_project(
    server: FakeLabelStudio, project: int, run: Run, tmp_path: Path
) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(3))
    for expected in (3, 0):
        assert run(path, "--storage", tmp_path / "out", "--project", project)["created"] == expected
    assert server.files == {}
    assert data_of(server, project) == [
        task["data"] for task in json.loads((tmp_path / "out" / "tasks.json").read_text(encoding="utf-8"))
    ]


def test_origins_are_kept_in_the_data_folder(run: Run, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "run", frames(3))
    report = run(folder, "--storage", tmp_path / "out")
    origins = read_origins(tmp_path / "data" / "pullbacks", report["pullbacks"][0]["series"])
    assert [Path(origins[number].file).name for number in (1, 2, 3)] == ["IM998", "IM997", "IM996"]
    assert len({origin.sop_instance_uid for origin in origins.values()}) == 3
    assert {(origin.page, origin.scan_converted) for origin in origins.values()} == {(1, False)}
    assert read_origins(tmp_path / "data" / "pullbacks", "another") == {}


def test_a_damaged_frame_is_left_out_by_name(server: FakeLabelStudio, project: int, run: Run, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "run", frames(3))
    whole = (folder / "IM997").read_bytes()
    (folder / "IM997").write_bytes(whole[:-400])
    report = run(folder, "--project", project)
    assert [task["frame"] for task in data_of(server, project)] == [1, 3]
    (left_out,) = report["left_out"]
    assert left_out["what"].endswith("IM997 frame 1")
    assert "left out: " in report["output"]


def test_pydicoms_samples_are_tasks_or_named(run: Run, tmp_path: Path) -> None:
    samples = Path(pydicom.__file__).parent / "data" / "test_files"
    report = run(samples, "--storage", tmp_path / "out")
    assert report["created"] > 60
    damaged = [one["what"] for one in report["left_out"] if "damaged" in one["why"]]
    # A frame that claims to be as wide as a street, and "1A" frames.
    assert [Path(what).name for what in damaged] == ["badVR.dcm", "JPEG2000-embedded-sequence-delimiter.dcm frame 1"]
    wrong = [one for one in report["left_out"] if not one["why"].startswith(REASONS)]
    assert wrong == []


def test_nothing_to_import_is_a_failure(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_text("not DICOM")
    with pytest.raises(PullbackError, match=r"nothing was imported: .*a\.dcm: it is not an image"):
        invoke(tmp_path / "a.dcm", "--storage", tmp_path / "out")


@pytest.mark.parametrize(
    "arguments",
    [
        ["PATH"],
        ["missing.dcm", "--project", "1"],
        ["PATH", "--project", "1", "--every", "0"],
        ["PATH", "--project", "1", "--black-out", "5,5,1,1"],
        ["PATH", "--project", "1", "--black-out", "nonsense"],
        [],
    ],
)
def test_wrong_usage(invoke: Callable[..., Result], tmp_path: Path, arguments: list[str]) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(1))
    done = invoke(*(path if one == "PATH" else one for one in arguments))
    assert done.exit_code == 2


def test_a_project_needs_an_address_and_a_key(environ: dict[str, str], tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", frames(1))
    del environ["LABEL_STUDIO_API_KEY"]
    done = CliRunner().invoke(cli, ["import", str(path), "--project", "1"], env=environ | {"LABEL_STUDIO_API_KEY": ""})
    assert done.exit_code == 2
    assert "LABEL_STUDIO_API_KEY" in done.output


def test_a_missing_project_is_said_before_files_are_read(invoke: Callable[..., Result], tmp_path: Path) -> None:
    with pytest.raises(LabelStudioError, match="/api/projects/99/: not found"):
        invoke(write_dicom(tmp_path / "a.dcm", frames(1)), "--project", 99)


def test_a_project_without_a_usable_config_gets_its_images_under_image(
    server: FakeLabelStudio, run: Run, tmp_path: Path
) -> None:
    project = server.add_project("<View></View>")
    report = run(write_dicom(tmp_path / "a.dcm", frames(1)), "--project", project)
    assert "image" in data_of(server, project)[0]
    assert any("under 'image'" in note for note in report["notes"])


def test_a_projects_own_key_is_used(server: FakeLabelStudio, run: Run, tmp_path: Path) -> None:
    project = server.add_project(CONFIG.replace("$image", "$scan"))
    run(write_dicom(tmp_path / "a.dcm", frames(1)), "--project", project)
    assert set(data_of(server, project)[0]) == {"scan", "series", "frame", "patient"}


def test_a_project_that_shows_lists_gets_a_list_of_one(server: FakeLabelStudio, run: Run, tmp_path: Path) -> None:
    project = server.add_project(CONFIG.replace('value="$image"', 'valueList="$pages"'))
    run(write_dicom(tmp_path / "a.dcm", frames(1)), "--project", project)
    (task,) = data_of(server, project)
    assert [address in server.files for address in task["pages"]] == [True]


def test_two_imports_do_not_run_side_by_side(invoke: Callable[..., Result], tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "data" / "pullbacks").mkdir(parents=True)
    with (
        FileLock(tmp_path / "data" / "pullbacks" / "lock"),
        pytest.raises(PullbackError, match="another import"),
    ):
        invoke(write_dicom(tmp_path / "a.dcm", frames(1)), "--storage", tmp_path / "out")


def test_the_radius_covers_every_frame(server: FakeLabelStudio, project: int, run: Run, tmp_path: Path) -> None:
    """Frames of one pullback have one size and scale, whatever their offsets."""
    groups = [dataset(IntravascularOCTFrameContentSequence=items(OCTZOffsetCorrection=offset)) for offset in (-3, 8)]
    tags = {"SOPClassUID": PROCESSING, "PerFrameFunctionalGroupsSequence": groups}
    run(write_dicom(tmp_path / "a.dcm", frames(2, height=30, width=20), **tags), "--project", project)
    assert [image.shape for image in pixels(server, project)] == [(56, 56), (56, 56)]
