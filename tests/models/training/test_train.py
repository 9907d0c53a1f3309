"""A training run in a process of its own, as the backend starts it."""

import hashlib
import json
import re
import socket
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import astuple, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from models.classifier import Classifier
from models.config import ClassifierConfig, PipelineConfig
from models.data.reader import open_data_folder
from models.errors import CheckpointError, DataError
from models.first_refiner import first_refiner
from models.pipeline import load_pipeline
from models.training import train as training
from models.training.__main__ import main
from models.training.begin import _inherit, begin
from models.training.pretrained import HUB_SECONDS, LIGHT, XCEPTION, load_pretrained, resolve_backbone
from models.training.promotion import verdict
from models.training.schedule import Progress
from models.training.spec import TrainingSpec
from models.training.state import TrainingState
from models.training.train import train
from models.wall import WallView


def write_squares(root, count=6):
    (root / "images").mkdir(parents=True)
    (root / "masks" / "square").mkdir(parents=True)
    (root / "classes.txt").write_text("square\n")
    for i in range(count):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 60, (80, 120, 3)).astype(np.uint8)
        mask = np.zeros((80, 120), np.uint8)
        x, y = rng.integers(5, 40, 2)
        mask[y : y + 30, x : x + 30] = 255
        image[mask > 0] += 150
        cv2.imwrite(str(root / "images" / f"f{i}.png"), image)
        if i:
            cv2.imwrite(str(root / "masks" / "square" / f"f{i}.png"), mask)
    return root


def run(tmp_path, **spec):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"out": str(tmp_path / "out"), "name": "r1", **spec}))
    done = subprocess.run(
        [sys.executable, "-m", "models.training", str(path)], capture_output=True, text=True, timeout=250
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_run_tells_its_stages_and_leaves_a_checkpoint(tmp_path):
    data = write_squares(tmp_path / "data")
    code, lines = run(tmp_path, data=str(data), epochs=1)
    assert code == 0, lines
    stages = [line["stage"] for line in lines]
    assert list(dict.fromkeys(stages)) == ["classifier", "refiner", "evaluating", "saving", "done"]
    assert lines[-1]["promote"] is False
    assert "about 15 more corrected tasks would tell" in lines[-1]["evidence"]["missing"]
    assert lines[-1]["metrics"]["classes"]["square"]["frames"] == 1
    pipeline = load_pipeline(tmp_path / "out")
    assert pipeline.name == "r1"
    assert pipeline.classes == ("square",)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["data"]["train"] == 5
    assert card["data"]["held_out"] == 1
    assert card["metrics"]["mean_iou"] == lines[-1]["metrics"]["mean_iou"]
    (shown,) = card["gallery"]
    assert shown["iou"] == card["metrics"]["mean_iou"]
    assert (tmp_path / "out" / "gallery" / shown["frame"]).is_file()


@pytest.mark.slow
def test_minutes_that_are_over_before_training_begins_end_it_all_the_same(tmp_path):
    """0.3 minutes took 3.9; and every report tells the time left of the whole run."""
    data = write_squares(tmp_path / "data", count=12)
    code, lines = run(tmp_path, data=str(data), minutes=0.001)
    assert code == 0, lines
    steps = [line["metrics"]["step"] for line in lines if "step" in (line.get("metrics") or {})]
    assert max(steps, default=0) < 1000  # of at least 2400; on a slow machine not even one is told
    assert all("left" in line for line in lines if line["stage"] == "saving")
    assert lines[-1]["metrics"]["frames"] == 1  # of the two that are held out


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"data": "/nowhere"}, "classes.txt cannot be read"),
        ({"data": ".", "preset": "slow"}, "no preset 'slow'"),
        ({"data": ".", "speed": 1}, r"unknown keys ['speed']"),
        ({"data": ".", "minutes": 0}, "minutes must be above 0"),
        ({"data": ".", "out": "."}, "a checkpoint is never overwritten"),
        pytest.param(
            {"data": ".", "device": "cuda"},
            "no usable GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_a_run_that_cannot_start_says_why(tmp_path, capsys, spec, complaint):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"out": str(tmp_path / "out"), "name": "r1", **spec}))
    assert main(path) == 1
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["stage"] == "failed"
    assert complaint in last["reason"]


def test_heads_are_inherited_by_class_name():
    """A project that adds a class keeps what the model knew of the others, in any order."""
    parent = Classifier(ClassifierConfig(("a", "b"), LIGHT, width=16))
    torch.nn.init.normal_(parent.gain)
    child = Classifier(replace(parent.config, classes=("new", "b")))
    _inherit(child, parent)
    assert torch.equal(child.head.weight[1], parent.head.weight[1])
    assert child.gain[1] == parent.gain[1]
    assert child.gain[0] == 1
    assert torch.equal(child.smooth.get_parameter("0.weight"), parent.smooth.get_parameter("0.weight"))


def same(one, other):
    """Whether two layers have the same weights."""
    return all(map(torch.equal, one.parameters(), other.parameters()))


def test_a_reader_of_the_wall_is_inherited_where_there_is_a_wall(tmp_path, make_pipeline):
    wall = WallView("a", ("b", "c"), alone=False)
    parent = make_pipeline(("a", "b", "c"), wall_backbone=LIGHT, config=PipelineConfig(wall=wall))
    spec = TrainingSpec(tmp_path, tmp_path / "out", "x")
    begun = begin(spec, lambda: 384, ("new", "c", "a"), parent)
    assert begun.config.wall == WallView("a", ("c",), alone=False)
    reader, known = begun.classifier.wall_reader, parent.classifier.wall_reader
    assert torch.equal(reader.head.weight[1], known.head.weight[2])
    assert same(reader.smooth, known.smooth)
    for classes in (("a", "new"), ("b", "c"), ("other",)):  # nothing lies on the wall, no lumen, another domain
        begun = begin(spec, lambda: 384, classes, parent)
        assert begun.config.wall is None
        assert begun.classifier.wall_reader is None
        assert same(begun.classifier.smooth, parent.classifier.smooth)


@pytest.mark.parametrize("classes", [("b", "new"), ("other",)])
def test_only_a_parent_that_shares_a_class_gives_its_refiner_settings_and_size(tmp_path, make_pipeline, classes):
    config = PipelineConfig(band={"b": 0.15}, presence_threshold={"b": 0.2}, presence_scale=0.75)
    parent = make_pipeline(config=config)  # of a and b, at 128 pixels
    begun = begin(TrainingSpec(tmp_path, tmp_path / "out", "x"), lambda: 384, classes, parent)
    assert begun.classes == classes
    assert same(begun.classifier.smooth, parent.classifier.smooth)
    if "b" in classes:
        assert begun.refiner is parent.refiner
        assert begun.config == replace(config, presence_threshold={})
        assert begun.classifier.config.input_size == 128
    else:
        assert torch.equal(begun.refiner.out.bias, first_refiner().out.bias)
        assert begun.config == PipelineConfig()
        assert begun.classifier.config.input_size == 384


@pytest.mark.parametrize(
    ("at_hand", "weights", "from_scratch", "chosen"),
    [
        (True, None, False, XCEPTION),
        (False, None, False, LIGHT),
        (False, Path("xception.safetensors"), False, XCEPTION),
        (True, None, True, LIGHT),
    ],
)
def test_xception_is_the_choice_where_its_weights_are_at_hand(at_hand, weights, from_scratch, chosen, monkeypatch):
    monkeypatch.setattr("models.training.pretrained._hub_has", lambda backbone: at_hand)
    assert resolve_backbone("auto", weights, from_scratch=from_scratch) == chosen
    assert resolve_backbone("resnet50", weights, from_scratch=from_scratch) == "resnet50"


def test_a_hub_that_swallows_requests_is_not_waited_for(monkeypatch):
    deadlines = []

    def hang(*arguments, **options):
        deadlines.append(socket.getdefaulttimeout())
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("models.training.pretrained.timm.create_model", hang)
    assert resolve_backbone("auto", None, from_scratch=False) == LIGHT
    assert deadlines == [HUB_SECONDS]
    assert socket.getdefaulttimeout() is None


def test_weights_of_another_network_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    classifier = Classifier(ClassifierConfig(("a",), LIGHT))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_pretrained(classifier, tmp_path / "w.safetensors")
    save_file({key: torch.zeros(1) for key in classifier.backbone.state_dict()}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="do not fit"):
        load_pretrained(classifier, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_text("a text")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_pretrained(classifier, tmp_path / "w.safetensors")


def test_a_backbone_that_timm_does_not_know_is_refused():
    with pytest.raises(CheckpointError, match="timm has no network 'nope'"):
        resolve_backbone("nope", None, from_scratch=True)


def test_a_state_that_finds_the_disk_full_says_so_and_leaves_the_one_before(tmp_path, monkeypatch):
    state = TrainingState(tmp_path, "run")
    state.save("classifier", {"a": torch.zeros(1)}, {"step": 1})

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("models.training.state.save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left.*make room and train again"):
        state.save("classifier", {"a": torch.ones(1)}, {"step": 2})
    assert state.load("classifier") == ({"a": torch.zeros(1)}, {"step": 1})


def test_unreachable_weights_say_what_can_be_done(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*arguments, **options):
        raise OSError("offline")

    monkeypatch.setattr("models.training.pretrained.timm.create_model", refuse)
    network = Classifier.__new__(Classifier)
    torch.nn.Module.__init__(network)
    network.config = ClassifierConfig(("a",), "resnet50")
    with pytest.raises(CheckpointError, match="--weights"):
        load_pretrained(network, None)


def test_a_spec_is_checked_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        TrainingSpec(tmp_path, tmp_path / "out", "x", epochs=0)


@pytest.mark.slow
def test_a_run_killed_half_way_goes_on(tmp_path):
    """kill -9 after the first check: the same command takes up the classifier's training, and leaves nothing behind."""
    data = write_squares(tmp_path / "data")
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"data": str(data), "out": str(tmp_path / "out"), "name": "r1", "epochs": 10}))
    killed = subprocess.Popen([sys.executable, "-m", "models.training", str(path)], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not (tmp_path / ".out.training" / "classifier.safetensors").exists():
        assert killed.poll() is None, killed.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "out").exists()
    code, lines = run(tmp_path, data=str(data), epochs=10)
    assert code == 0
    assert any(re.match(r"goes on at step [2-9]", line.get("message", "")) for line in lines)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["data", "out", "spec.json"]


@pytest.mark.parametrize("patients", [1, 4])
def test_no_patient_is_learnt_from_and_held_out(tmp_path, monkeypatch, patients):
    """Twenty images in turn of four patients: training, calibration, figures and promotion keep each on one side."""
    data = write_squares(tmp_path / "data", count=20)
    groups = {f"f{i}": f"patient {i % patients}" for i in range(20)}
    (data / "groups.json").write_text(json.dumps(groups))
    sides: dict[str, set[str]] = {"learnt": set(), "held out": set()}

    def spied(name, *roles):
        original = getattr(training, name)

        def spy(*arguments, **options):
            for place, role in roles:
                sides[role] |= {sample.name for sample in arguments[place]}
            return original(*arguments, **options)

        monkeypatch.setattr(training, name, spy)

    spied("folder_frames", (0, "learnt"))
    spied("calibrate_presence", (1, "learnt"), (2, "held out"))
    spied("calibrate_maps", (1, "held out"))
    spied("calibrate_band", (1, "held out"))
    spied("made_worse", (1, "held out"), (2, "learnt"))
    spied("measure", (1, "held out"))
    spied("verdict", (0, "held out"))
    # Steps would only take time: the networks stay as they begin.
    monkeypatch.setattr(training, "train_classifier", lambda classifier, *_, **__: (classifier, []))
    monkeypatch.setattr(training, "train_refiner", lambda pipeline, *_, **__: pipeline.refiner)
    result = train(TrainingSpec(data, tmp_path / "out", "r1", epochs=1), lambda progress: None)
    assert not sides["learnt"] & sides["held out"]
    assert len(sides["learnt"] | sides["held out"]) == 20
    known = result.card.data
    if patients == 4:
        assert not {groups[name] for name in sides["learnt"]} & {groups[name] for name in sides["held out"]}
        assert known["held_out"] == 5
        assert known["groups"] == {"train": 3, "held_out": 1}
        assert known["notes"] == []
    else:
        assert known["groups"] == {"train": 1, "held_out": 1}
        assert "figures flatter" in known["notes"][0]


def test_a_state_of_an_earlier_release_is_not_taken_up(tmp_path):
    """Its tensors may have other names: the training starts again."""
    data = write_squares(tmp_path / "data")
    spec = TrainingSpec(data, tmp_path / "out", "r1", epochs=1)
    fingerprint = hashlib.sha256(repr((astuple(spec), None, open_data_folder(data).fingerprint())).encode()).hexdigest()
    TrainingState(tmp_path / ".out.training", fingerprint).save("classifier", {"a": torch.ones(2)}, {"elapsed": 9e9})
    stages: list[Progress] = []
    result = train(spec, stages.append)
    assert not any("goes on" in progress.message for progress in stages)
    assert result.card.training["seconds"] < 1e6
    assert not (tmp_path / ".out.training").exists()


@pytest.mark.slow
def test_nothing_needs_to_be_held_out(tmp_path):
    """All images are learnt from; there are no figures, and a model that is served stays served."""
    data = write_squares(tmp_path / "data")
    names = [f"f{i}" for i in range(6)]
    (data / "split.json").write_text(json.dumps({"train": names, "val": []}))
    code, lines = run(tmp_path, data=str(data), epochs=1)
    assert code == 0, lines
    assert lines[-1]["metrics"]["mean_iou"] is None
    assert json.loads((tmp_path / "out" / "card.json").read_text())["data"]["train"] == 6
    assert verdict([], [], tolerance=0.01).promote is False


def test_a_first_training_goes_half_the_way_from_the_shipped_refiner(tmp_path, monkeypatch):
    """Where nothing is held out, FBANet is the mean of the one that knows edges and the one that learnt on."""
    data = write_squares(tmp_path / "data")
    (data / "split.json").write_text(json.dumps({"train": [f"f{i}" for i in range(6)], "val": []}))

    def further(pipeline, *_, **__):
        learned = deepcopy(pipeline.refiner)
        with torch.no_grad():
            learned.out.bias += 1
        return learned

    monkeypatch.setattr("models.training.train.train_refiner", further)
    train(TrainingSpec(data, tmp_path / "first", "r1", epochs=1), lambda progress: None)
    moved = (load_pipeline(tmp_path / "first").refiner.out.bias - first_refiner().out.bias).mean().item()
    assert moved == pytest.approx(0.5, abs=2e-3)


@pytest.mark.slow
def test_fine_tuning_goes_half_the_way_and_keeps_a_refiner_that_nothing_can_be_held_against(tmp_path, monkeypatch):
    """What was known before is kept: the mean of the weights, and the parent's FBANet where no image is held out."""
    data = write_squares(tmp_path / "data")
    (data / "split.json").write_text(json.dumps({"train": [f"f{i}" for i in range(6)], "val": []}))
    spec = TrainingSpec(data, tmp_path / "first", "r1", epochs=1)
    train(spec, lambda progress: None)

    def further(classifier, *_, **__):
        learned = deepcopy(classifier)
        with torch.no_grad():
            learned.head.weight += 1
        return learned, []

    monkeypatch.setattr("models.training.train.train_classifier", further)
    train(replace(spec, out=tmp_path / "second", name="r2", parent=tmp_path / "first"), lambda progress: None)
    first, second = load_pipeline(tmp_path / "first"), load_pipeline(tmp_path / "second")
    moved = (second.classifier.head.weight - first.classifier.head.weight).detach()
    assert torch.allclose(moved, torch.tensor(0.5), atol=2e-3)  # weights are kept in half precision
    before, after = first.refiner.state_dict(), second.refiner.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_images_that_show_nothing_are_refused_in_words_for_whoever_accepted_them(tmp_path):
    """Leads read it on their pages: it names no folder of the server."""
    root = write_squares(tmp_path / "data")
    for mask in (root / "masks" / "square").iterdir():
        mask.unlink()
    with pytest.raises(
        DataError, match=r"^none of the \d images to train on shows any of square; draw some"
    ) as refused:
        train(TrainingSpec(data=root, out=tmp_path / "out", name="r1", backbone=LIGHT, minutes=0.1), print)
    assert str(tmp_path) not in str(refused.value)
