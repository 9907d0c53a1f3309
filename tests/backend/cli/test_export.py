import csv
import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from pydicom import dcmread

from backend.cli import cli
from backend.errors import ExportError
from backend.label_studio.controls.brush import BrushLabels
from backend.label_studio.label_config import parse_label_config
from models.data.png import encode_png
from models.data.reader import open_data_folder
from models.segment import Segment
from tests.backend.exports.made import data_folder, dicom_file, masks_of, square
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG

SIZE = (24, 31)
LUMEN, CAP = square(SIZE, 2, 3, 9), square(SIZE, 8, 8, 7)
(CONTROL,) = parse_label_config(CONFIG).region_controls
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def brush(**masks):
    """Regions of an annotation: label -> mask, an underscore for a blank."""
    adapter, regions = BrushLabels(), []
    for label, mask in masks.items():
        regions += adapter.to_regions(Segment(label.replace("_", " "), 0.9, mask), CONTROL)
    return [{**region, "id": f"r{number}"} for number, region in enumerate(regions)]


@pytest.fixture
def label_studio():
    with FakeLabelStudio() as server:
        yield server


@pytest.fixture
def run(tmp_path, starter, label_studio):
    environ = {
        "PREMASK_DATA_DIR": str(tmp_path / "premask-data"),
        "PREMASK_STARTER": str(starter),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.legacy_token,
    }

    def invoke(*arguments, code=0):
        done = CliRunner().invoke(cli, [str(one) for one in arguments], env=environ)
        if code == 1:
            assert isinstance(done.exception, ExportError)
            return str(done.exception)
        assert done.exit_code == code, done.output
        return done.output

    return invoke


@pytest.fixture
def project(label_studio):
    """Four accepted tasks, one of them by two annotators; one cancelled; two predicted, of two versions."""
    project = label_studio.add_project(CONFIG)
    picture = encode_png(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8))
    tasks = [label_studio.add_upload(project, f"{number}.png", picture) for number in range(7)]
    for task in tasks[:4]:
        label_studio.add_annotation(task, brush(Lumen=LUMEN), completed_by=11)
    label_studio.add_annotation(tasks[0], brush(Lumen=LUMEN, Fibrous_cap=CAP), completed_by=12)
    label_studio.add_annotation(tasks[4], brush(Lumen=CAP), was_cancelled=True)
    for task, version in zip(tasks[4:], ("oct-lite0", "oct-lite0", "older"), strict=True):
        label_studio.add_prediction({"task": task, "result": brush(Fibrous_cap=CAP), "model_version": version})
    label_studio.add_prediction({"task": tasks[0], "result": brush(Lumen=CAP), "model_version": "oct-lite0"})
    return project, tasks


def test_the_newest_accepted_annotation_of_each_task(run, project, tmp_path):
    number, tasks = project
    out = run(
        "export", "--project", number, "--format", "png", "--out", tmp_path / "out", "--json", tmp_path / "a.json"
    )
    read = open_data_folder(tmp_path / "out")
    assert set(read.samples) == {f"task-{task}" for task in tasks[:4]}
    drawn = read.samples[f"task-{tasks[0]}"]
    assert (drawn.read_mask("Lumen", SIZE) == LUMEN).all()
    assert (drawn.read_mask("Fibrous cap", SIZE) == CAP).all()
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["images"] == 4
    assert report["objects"] == {"Lumen": 4, "Fibrous cap": 1}
    assert sum(report["subsets"].values()) == 4
    assert "4 images" in out


def test_all_annotators_are_images_of_their_own_of_one_group(run, project, tmp_path):
    number, tasks = project
    run("export", "--project", number, "--format", "coco", "--annotators", "all", "--out", tmp_path / "out")
    with (tmp_path / "out/images.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["name"].startswith(f"task-{tasks[0]},")]
    assert [row["annotator"] for row in rows] == ["annotator 11", "annotator 12"]
    assert len({(row["group"], row["subset"]) for row in rows}) == 1
    contents = [json.loads(file.read_text()) for file in (tmp_path / "out/annotations").iterdir()]
    assert sum(len(content["images"]) for content in contents) == 5


def test_predictions_are_apart_and_of_the_served_version_alone(run, project, tmp_path):
    number, tasks = project
    options = ("--with", "predictions", "--out", tmp_path / "out", "--json", tmp_path / "a.json")
    run("export", "--project", number, "--format", "coco", *options)
    report = json.loads((tmp_path / "a.json").read_text())
    assert report["images"] == 4
    assert (report["predicted"]["version"], report["predicted"]["images"]) == ("oct-lite0", 2)
    with zipfile.ZipFile(tmp_path / "out/predicted.zip") as archive:
        content = json.loads(archive.read("annotations/instances_predicted.json"))
    assert {image["name"] for image in content["images"]} == {f"task-{task}" for task in tasks[4:6]}
    assert {image["predicted"] for image in content["images"]} == {"oct-lite0"}


def test_what_is_read_back_holds_no_prediction(run, project, tmp_path):
    number, _ = project
    for name in ("coco", "cvat", "png"):
        run("export", "--project", number, "--format", name, "--with", "predictions", "--out", tmp_path / name)
        run("export", "--data", tmp_path / name, "--format", "png", "--out", tmp_path / f"{name}-again")
        assert len(open_data_folder(tmp_path / f"{name}-again").samples) == 4


@pytest.mark.parametrize("keep", [(), ("--keep-names",)])
def test_an_imported_pullback_leaves_as_one_object_with_exact_masks(run, label_studio, tmp_path, keep):
    import highdicom

    project = label_studio.add_project(CONFIG)
    source = dicom_file(tmp_path / "study/run.dcm", 6, SIZE)
    run("import", tmp_path / "study/run.dcm", "--project", project, *keep)
    labelled = {}
    for task in list(label_studio.tasks.values()):
        frame = task["data"]["frame"]
        if frame in (2, 3, 5):
            label_studio.add_annotation(task["id"], brush(Lumen=LUMEN, Fibrous_cap=CAP) if frame != 3 else [])
            labelled[frame] = frame != 3
    out = tmp_path / "out"
    run("export", "--project", project, "--format", "dicom-seg", "--out", out, "--json", tmp_path / "a.json")
    (file,) = out.glob("*.dcm")
    segmentation = highdicom.seg.segread(file)
    read = segmentation.get_pixels_by_source_frame(
        source.SOPInstanceUID, sorted(labelled), assert_missing_frames_are_empty=False
    )
    for masks, is_drawn in zip(read, labelled.values(), strict=True):
        assert (masks[..., 0] == (LUMEN & is_drawn)).all()
        assert (masks[..., 1] == (CAP & is_drawn)).all()
    assert dcmread(file).NumberOfFrames == 6
    assert json.loads((tmp_path / "a.json").read_text())["images"] == 3


def test_a_data_folder_is_exported_and_what_does_not_fit_is_named(run, tmp_path):
    images = {"a": {"Lumen": LUMEN}, "b": {}, "c": {"Lumen": CAP}}
    presence: dict[str, dict[str, bool | None]] = {"b": {"Lumen": None}}
    folder = data_folder(tmp_path / "data", ("Lumen",), images, size=SIZE, presence=presence)
    out = run("export", "--data", tmp_path / "data", "--format", "yolo-seg", "--out", tmp_path / "out")
    assert "1 left out, the first: b: it is unknown where Lumen is on it" in out
    assert "polygons against masks, mean IoU: Lumen" in out
    run("export", "--data", tmp_path / "data", "--format", "png", "--out", tmp_path / "png")
    assert masks_of(open_data_folder(tmp_path / "png")) == masks_of(folder)


def test_an_out_that_is_not_empty_is_refused_and_stays(run, tmp_path):
    data_folder(tmp_path / "data", ("Lumen",), {"a": {"Lumen": LUMEN}, "b": {}}, size=SIZE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    line = ("export", "--data", tmp_path / "data", "--format", "png", "--out", tmp_path / "out")
    assert "exists and is not an empty folder" in run(*line, code=1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    (tmp_path / "out/mine").unlink()
    (tmp_path / ".out.partial").mkdir()  # of an export that was killed
    (tmp_path / ".out.partial/half").write_text("half")
    run(*line)
    assert "half" not in {path.name for path in (tmp_path / "out").iterdir()}
    assert not (tmp_path / ".out.partial").exists()


def test_an_export_that_fails_leaves_nothing_behind(run, tmp_path):
    data_folder(tmp_path / "data", ("Lumen",), {"a": {"Lumen": LUMEN}, "b": {}}, size=SIZE)
    said = run("export", "--data", tmp_path / "data", "--format", "dicom-seg", "--out", tmp_path / "out", code=1)
    assert "no image is a frame of a DICOM file" in said
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "starter", "premask-data"}


def test_a_project_without_accepted_annotations_is_said_to_have_none(run, label_studio, tmp_path):
    project = label_studio.add_project(CONFIG)
    assert "has no accepted annotation" in run(
        "export", "--project", project, "--format", "coco", "--out", tmp_path / "out", code=1
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "either --project or --data"),
        (("--project", "1", "--data", "."), "either --project or --data"),
        (("--data", ".", "--with", "predictions"), "are for --project"),
        (("--data", ".", "--annotators", "all"), "are for --project"),
        (("--data", ".", "--dicom", "."), "is for --format dicom-seg"),
    ],
)
def test_wrong_usage(run, tmp_path, options, complaint):
    assert complaint in run("export", "--format", "coco", "--out", tmp_path / "out", *options, code=2)
