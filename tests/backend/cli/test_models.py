"""`premask predict | evaluate | phantom | train` as a user types them, with the starter weights."""

import json
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from backend.cli import COMMANDS, cli, main
from models.errors import ModelError
from models.phantom import CLASSES, render_phantom
from models.starter import STARTER, STARTERS
from models.training.schedule import Progress


@pytest.fixture
def frame(tmp_path):
    """A phantom that shows all four classes, as a PNG file."""
    seed = next(s for s in range(990_000, 990_100) if len(render_phantom(s, 64).masks) == 4)
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), cv2.cvtColor(render_phantom(seed).image, cv2.COLOR_RGB2BGR))
    return path


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)


def test_predict_writes_a_mask_per_class_and_every_step(frame, tmp_path):
    out = tmp_path / "out"
    done = invoke("predict", frame, "--out", out, "--overlay", "--steps", "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    lumen = cv2.imread(str(out / "Lumen" / "frame.png"), cv2.IMREAD_GRAYSCALE)
    assert lumen.shape == (512, 512)
    assert set(np.unique(lumen)) == {0, 255}
    assert cv2.imread(str(out / "overlay" / "frame.png")).shape == (512, 512, 3)
    steps = {path.name for path in (out / "steps" / "frame").iterdir()}
    wanted = {f"{c}-{s}.png" for c in CLASSES for s in ("1-map", "2-trimap", "3-boundary", "4-alpha", "5-mask")}
    assert steps == wanted
    trimap = cv2.imread(str(out / "steps" / "frame" / "Lumen-2-trimap.png"), cv2.IMREAD_GRAYSCALE)
    assert set(np.unique(trimap)) == {0, 128, 255}
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["model"] == STARTER.name
    assert set(result["images"][str(frame)]["presence"]) == set(CLASSES)


def test_a_shipped_model_is_chosen_by_its_name(frame, tmp_path):
    done = invoke("predict", frame, "--out", tmp_path / "out", "--model", "xception")
    assert done.exit_code == 0, done.output
    assert STARTERS["xception"].name in done.output
    assert (tmp_path / "out" / "Lumen" / "frame.png").is_file()
    wrong = invoke("predict", frame, "--out", tmp_path / "out", "--model", "heavy")
    assert wrong.exit_code == 2
    assert "heavy" in wrong.output


def test_predict_goes_on_past_a_broken_image_and_fails_in_the_end(frame, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["premask", "predict", str(tmp_path), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert stopped.value.code == 1
    assert (tmp_path / "out" / "Lumen" / "frame.png").exists()
    assert "broken.png cannot be read as an image" in capsys.readouterr().err


def test_evaluate_writes_the_figures_of_the_contract(tmp_path):
    assert invoke("phantom", "--out", tmp_path / "data", "--count", 4, "--seed", 7, "--size", 256).exit_code == 0
    done = invoke("evaluate", "--data", tmp_path / "data", "--split", "val", "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "r.json").read_text())
    keys = {"classes", "mean_iou", "seconds_per_frame", "frames", "model", "refiner", "cam", "skipped"}
    assert set(result) == keys | {"groups"}
    assert set(result["classes"]) == set(CLASSES)
    figures = {"frames", "iou", "dice", "boundary_f", "coarse_iou", "precision", "recall", "accuracy"}
    intervals = {"refiner_gain", "refiner_gain_ci", "iou_ci", "coarse_iou_ci", "accuracy_ci", "no_interval"}
    assert set(result["classes"]["Lumen"]) == figures | intervals
    assert result["classes"]["Lumen"]["iou"] > 0.7
    assert "Lumen" in done.output


def test_train_reports_on_the_data_before_it_begins(tmp_path, monkeypatch):
    """One class is drawn on a single image and another on none; that is said before an hour of training."""

    def begun(spec, report):
        report(Progress("classifier", 0, 1, "step 0"))
        raise ModelError("it has begun")

    monkeypatch.setattr("backend.cli.models.train_model", begun)
    for folder in ("images", "masks/crack"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data" / "classes.txt").write_text("crack\nrust\n")
    for i in range(4):
        cv2.imwrite(str(tmp_path / "data" / "images" / f"{i}.png"), np.full((48, 64, 3), 40 * i, np.uint8))
    cv2.imwrite(str(tmp_path / "data" / "masks" / "crack" / "1.png"), np.full((48, 64), 255, np.uint8))
    command = ["train", "--data", tmp_path / "data", "--from", STARTER, "--out", tmp_path / "model"]
    done = CliRunner().invoke(cli, [str(word) for word in command])
    assert str(done.exception) == "it has begun"
    lines = done.stdout.splitlines()
    assert lines[0] == "4 images, 3 to learn from and 1 held out"
    assert "Note: crack is drawn on 1 image to learn from: expect little; 10 or more help" in lines
    assert any(line.startswith("Note: rust is on no image: it cannot be learnt") for line in lines)
    assert any(line.startswith("training: classifier: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("oct", (), STARTERS["xception"]),
        ("oct", ("--backbone", "tf_efficientnet_lite0"), STARTERS["light"]),
        ("oct", ("--from", "light"), STARTERS["light"]),
        ("oct", ("--from", "none"), None),
        ("oct", ("--from-scratch",), None),
        ("oct", ("--backbone", "resnet50"), None),
        ("leaf", (), None),
        ("leaf", ("--from", "light"), STARTERS["light"]),
    ],
)
def test_a_training_begins_from_the_shipped_model_that_knows_its_classes(
    tmp_path, monkeypatch, kind, arguments, expected
):
    invoke("phantom", "--out", tmp_path / "data", "--count", 4, "--seed", 7, "--size", 96, "--kind", kind)
    begun = []

    def trained(spec, _):
        begun.append(spec.parent)
        raise SystemExit(0)

    monkeypatch.setattr("backend.cli.models.train_model", trained)
    done = invoke("train", "--data", tmp_path / "data", "--out", tmp_path / "model", *arguments)
    assert begun == [expected], done.output
    assert ("It begins from oct-" in done.output) == (expected is not None)


def test_the_refiner_can_be_left_out_and_the_method_chosen(tmp_path):
    invoke("phantom", "--out", tmp_path / "data", "--count", 4, "--seed", 7, "--size", 256)
    arguments = ("--refiner", "none", "--cam", "LayerCAM", "--json", tmp_path / "r.json")
    invoke("evaluate", "--data", tmp_path / "data", "--split", "val", *arguments)
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["refiner"], result["cam"]) == ("none", "LayerCAM")
    lumen = result["classes"]["Lumen"]
    assert lumen["iou"] == lumen["coarse_iou"]


def test_closed_form_matting_and_fused_layers_can_be_measured(tmp_path):
    invoke("phantom", "--out", tmp_path / "data", "--count", 4, "--seed", 7, "--size", 256)
    arguments = ("--refiner", "closed-form", "--layers", 8, "--layers", 4, "--json", tmp_path / "r.json")
    invoke("evaluate", "--data", tmp_path / "data", "--split", "val", *arguments)
    result = json.loads((tmp_path / "r.json").read_text())
    assert (result["refiner"], result["cam"]) == ("closed-form", "HiResCAM@4+8")
    lumen = result["classes"]["Lumen"]
    assert lumen["iou"] > 0.6
    assert lumen["iou"] != lumen["coarse_iou"]


@pytest.mark.slow
def test_a_model_of_other_classes_is_refused(tmp_path):
    for folder in ("images", "masks/crack"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    (tmp_path / "data" / "classes.txt").write_text("crack\n")
    cv2.imwrite(str(tmp_path / "data" / "images" / "a.png"), np.zeros((32, 32, 3), np.uint8))
    command = [sys.executable, "-c", "from backend.cli import main; main()", "evaluate", "--data", tmp_path / "data"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "name another --model" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict",),
        ("train", "--out", "x"),
        ("evaluate", "--data", "/nowhere"),
        ("phantom", "--count", "0"),
        ("phantom", "--count", "1", "--out", "x", "--difficulty", "nan"),
        ("train", "--data", ".", "--out", "x", "--minutes", "nan"),
        ("train", "--data", ".", "--out", "x", "--minutes", "inf"),
        ("train", "--data", ".", "--out", "x", "--seed", "-1"),
        ("import", ".", "--storage", "x", "--mm-per-pixel", "nan"),
        ("paint",),
    ],
)
def test_wrong_usage_is_exit_code_two(arguments):
    assert invoke(*arguments).exit_code == 2


def premask(*arguments, code="from backend.cli import main; main()"):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("place", ["/proc/none/r.json", "/dev/full"])
def test_a_place_that_cannot_be_written_to_is_a_sentence(tmp_path, place):
    done = premask("phantom", "--count", 1, "--size", 64, "--out", tmp_path / "out", "--json", place)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 1
    assert "premask: /" in err
    assert "cannot be read or written" in err
    assert "Traceback" not in err


def test_a_model_without_classes_predicts_nothing(frame, tmp_path):
    with pytest.raises(ModelError, match="prompts knows no class"):
        invoke("predict", frame, "--out", tmp_path / "out", "--model", STARTERS["light"].parent / "prompts")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_told_to_end_takes_away_what_it_had_unpacked(tmp_path, number):
    code = (
        "import tempfile, time, click, backend.cli as c\n"
        "@c.cli.command('wait')\n"
        "def wait():\n"
        "    with tempfile.TemporaryDirectory(dir='.') as folder:\n"
        "        click.echo(folder)\n"
        "        time.sleep(60)\n"
        "c.LazyGroup.get_command = lambda *_: wait\n"
        f"import os; os.chdir({str(tmp_path)!r})\n"
        "c.main()"
    )
    running = premask("wait", code=code)
    assert running.stdout.readline()
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert err.strip() == "Aborted!"
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_command_and_loads_no_networks():
    code = (
        "import sys; from backend.cli import cli; cli(['--help'], standalone_mode=False); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"
    for command in COMMANDS:
        assert command in done.stdout


def test_names_of_earlier_releases_work_and_are_not_listed():
    done = invoke("annotate", "--help")
    assert done.exit_code == 0
    assert done.output == invoke("predict-project", "--help").output.replace("predict-project", "annotate", 1)
    assert "annotate" not in invoke("--help").output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    done = invoke(command, "--help")
    assert done.exit_code == 0
    assert "Usage:" in done.output
