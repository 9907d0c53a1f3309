"""Several processes on one training: what they compute is what one computes, and none outlives another."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from threading import Timer
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import torch

from models.checkpoint import packaged_backbone
from models.classifier import Classifier
from models.config import ClassifierConfig, FBANetConfig
from models.devices import training_devices
from models.errors import DataError, ModelError
from models.fba_net import FBANet
from models.phantom import CLASSES
from models.training.augmentation import Frame
from models.training.classifier_loop import ClassifierHyperparameters, train_classifier
from models.training.frames import Frames, phantom_frames
from models.training.refiner_loop import Example, RefinerHyperparameters, fit_refiner
from models.training.schedule import Clock
from models.training.team import ALONE, together
from models.wall import WallView
from tests.models.training.test_train import run, write_squares

CPU = torch.device("cpu")
WALL = WallView("Lumen", CLASSES[1:])


def made_frame(frames, index):
    return frames[index]


def phantoms():
    """Four phantoms with their walls, as frames that another process can have."""
    drawn = phantom_frames(range(4), CLASSES, 128, wall=WALL)
    frames = [drawn.read(index) for index in range(4)]
    unknown = Frame(frames[0].image, np.zeros_like(frames[0].masks), frames[0].presence, np.zeros(len(CLASSES), bool))
    frames.append(unknown)  # of which only the labels are known
    presence = np.stack([frame.presence for frame in frames])
    return Frames(len(frames), partial(made_frame, frames), presence, 128, unrolled=True)


def two_readers():
    """Of frames and of walls, so that either may be in none of a member's views."""
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(CLASSES, "tf_efficientnet_lite0", 128, 16, "tf_efficientnet_lite0"))
    for reader in classifier.readers:
        reader.backbone.load_state_dict(packaged_backbone("tf_efficientnet_lite0"), strict=False)
    return classifier


def learn_classifier(report, team):
    hyperparameters = ClassifierHyperparameters(3, batch=3, view=128, wall_share=0.5, frozen=0.2)
    trained, _ = train_classifier(
        two_readers(),
        phantoms(),
        hyperparameters,
        score=None,
        report=report,
        seed=1,
        device=CPU,
        seconds=None,
        team=team,
    )
    return arrays(trained)


def examples():
    """Discs with truth, discs without, and one so small that it has no trimap."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    made = []
    for index in range(8):
        radius = 2 if index == 0 else rng.uniform(12, 30)
        disc = (y - 48) ** 2 + (x - rng.uniform(35, 60)) ** 2 < radius**2
        image = (rng.integers(0, 60, (96, 96, 3)) + 120 * disc[..., None]).astype(np.uint8)
        truth = disc.astype(np.uint8) * 255
        cam = np.clip(disc + rng.normal(0, 0.2, disc.shape), 0, 1).astype(np.float32)
        made.append(Example(image, truth if index < 5 else None, cam, label=index % 2))
    return made


def narrow_refiner():
    torch.manual_seed(0)
    return FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64))


def learn_refiner(contrast, report, team):
    hyperparameters = RefinerHyperparameters(3, batch=5, contrast=contrast)
    trained = fit_refiner(
        narrow_refiner(), examples(), hyperparameters,
        clock=Clock(3, None), report=report, seed=0, device=CPU, team=team,
    )  # fmt: skip
    return arrays(trained)


def learn(report, team):
    """All that a team can learn; in float32, as answers in bfloat16 depend on the size of a batch."""
    team.tell(in_float32)
    with patch("models.training.refiner_loop.autocast", lambda device: nullcontext()):
        return learn_classifier(report, team), learn_refiner(0.0, report, team), learn_refiner(0.5, report, team)


def in_float32(team):
    patch("models.training.refiner_loop.autocast", lambda device: nullcontext()).start()


def arrays(network):
    """The weights, as what one process can send to another."""
    return {key: value.numpy() for key, value in network.state_dict().items() if value.is_floating_point()}


def moved(before, after):
    """How far training has moved the weights, as one vector."""
    return np.concatenate([(after[key] - value).ravel() for key, value in before.items()])


class Losses(list):
    def __call__(self, progress):
        self.append(progress.metrics["loss"])


@pytest.mark.slow
def test_several_processes_learn_what_one_does():
    """Weights and losses of three steps, of batches in which a member has no frame, no wall, or a crop too few."""
    alone, together_ = Losses(), Losses()
    lone = learn(alone, ALONE)
    shared = together(learn, ["cpu"] * 3, together_)
    assert len(alone) == 9
    assert together_ == pytest.approx(alone, rel=1e-4)
    for before, one, other in zip((two_readers(), narrow_refiner(), narrow_refiner()), lone, shared, strict=True):
        way, other_way = moved(arrays(before), one), moved(arrays(before), other)
        # Where a gradient is nothing but rounding AdamW takes a whole step all the same.
        assert np.linalg.norm(way - other_way) < 0.01 * np.linalg.norm(way)


def for_ever(report, team):
    hyperparameters = RefinerHyperparameters(10**6, batch=2)
    fit_refiner(
        narrow_refiner(), examples(), hyperparameters,
        clock=Clock(10**6, None), report=report, seed=0, device=CPU, team=team,
    )  # fmt: skip


def members():
    """Processes of a team that this process has started, the first member first."""
    return sorted(multiprocessing.active_children(), key=lambda member: member.name)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_member_that_is_killed_ends_the_training_with_a_sentence(victim):
    """kill -9, as the kernel does where memory is short: the others do not wait for it, and none is left."""
    team: list[multiprocessing.process.BaseProcess] = []

    def kill(progress):
        if not team:
            team.extend(members())
            os.kill(team[victim].pid, signal.SIGKILL)

    with pytest.raises(ModelError, match=r"one of the 2 processes .* killed by signal 9 \(SIGKILL; out of memory\?\)"):
        together(for_ever, ["cpu"] * 2, kill)
    assert len(team) == 2
    assert not members()


class Cancelled(Exception):
    pass


@pytest.mark.slow
def test_a_team_that_pauses_goes_on_and_one_that_is_cancelled_is_gone():
    steps = []

    def pause_then_cancel(progress):
        steps.append(progress.metrics["step"])
        if len(steps) == 1:
            paused = members()[1].pid
            os.kill(paused, signal.SIGSTOP)
            Timer(2, os.kill, (paused, signal.SIGCONT)).start()
        if len(steps) == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        together(for_ever, ["cpu"] * 2, pause_then_cancel)
    assert steps == [1, 2, 3, 4, 5]
    assert not members()


def fail(team):
    raise DataError(f"member {team.rank} cannot read f1.png")


def fail_elsewhere(report, team):
    team.tell(fail)
    team.whole(torch.ones(1))


@pytest.mark.slow
def test_what_goes_wrong_in_any_member_is_told_as_it_is():
    with pytest.raises(DataError, match="member 1 cannot read"):
        together(fail_elsewhere, ["cpu"] * 2, print)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_as_well_as_one_though_killed_half_way(tmp_path):
    """kill -9 of the process that started them: they end with it, and the next two go on where they were."""
    data = write_squares(tmp_path / "data", count=12)
    spec = {"data": str(data), "epochs": 4}
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    code, lines = run(tmp_path / "one", **spec, processes=1)
    assert code == 0, lines
    alone = lines[-1]["metrics"]

    path = tmp_path / "two" / "spec.json"
    path.write_text(json.dumps({**spec, "processes": 2, "out": str(tmp_path / "two" / "out"), "name": "r1"}))
    killed = subprocess.Popen([sys.executable, "-m", "models.training", str(path)], stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "two" / ".out.training" / "classifier.safetensors").exists():
        assert killed.stdout.readline()
    helpers = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.communicate()
    _, left = psutil.wait_procs(helpers, 30)
    assert len(helpers) >= 2
    assert not left

    code, lines = run(tmp_path / "two", **spec, processes=2)
    assert code == 0, lines
    assert any("goes on at step" in line.get("message", "") for line in lines)
    assert lines[-1]["metrics"]["mean_iou"] == pytest.approx(alone["mean_iou"], abs=0.05)
    assert alone["mean_iou"] > 0.8
    assert json.loads((tmp_path / "two" / "out" / "card.json").read_text())["training"]["processes"] == 2


@pytest.mark.parametrize(
    ("wanted", "processes", "gpus", "chosen"),
    [
        ("cpu", None, 2, ["cpu"]),
        ("cpu", 2, 2, ["cpu", "cpu"]),
        ("auto", None, 0, ["cpu"]),
        ("auto", 2, 0, ["cpu", "cpu"]),
        ("cuda", None, 1, ["cuda"]),
        ("cuda", None, 3, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", None, 8, [f"cuda:{n}" for n in range(4)]),  # as many as a batch has views
        ("cuda", 1, 3, ["cuda"]),
        ("auto", 1, 3, ["cuda:1"]),
        ("auto", 2, 3, ["cuda:1", "cuda:2"]),
        ("cuda:1", None, 3, ["cuda:1"]),
        ("cuda:1", 2, 3, "cuda:1 is one GPU"),
        ("cuda", 4, 3, "this machine has 3"),
        ("cuda", None, 0, "no usable GPU"),
        ("cpu", 5, 0, "at most 4"),
    ],
)
def test_each_gpu_gets_a_process_unless_told_otherwise(monkeypatch, wanted, processes, gpus, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr("models.devices.free_memory", lambda: [3, 9, 5][:gpus])
    if isinstance(chosen, str):
        with pytest.raises(ModelError, match=chosen):
            training_devices(wanted, processes, batch=4)
    else:
        assert training_devices(wanted, processes, batch=4) == chosen
