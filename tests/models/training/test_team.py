"""Several processes on one training: what they compute is what one computes, and none outlives another."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from unittest.mock import patch

import numpy as np
import psutil
import pytest
import torch

from models.checkpoint import packaged_backbone
from models.classifier import Classifier, ClassifierConfig
from models.devices import training_devices
from models.errors import DataError, ModelError
from models.fba_net import FBANet, FBANetConfig
from models.phantom import CLASSES
from models.training.augmentation import Frame
from models.training.classifier_loop import ClassifierHyperparameters, train_classifier
from models.training.frames import Frames, phantom_frames
from models.training.refiner_loop import Example, RefinerHyperparameters, fit_refiner
from models.training.schedule import Clock, Progress
from models.training.team import ALONE, Team, together
from models.wall import WallView

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
        two_readers(), phantoms(), hyperparameters, score=None, report=report, seed=1, device=CPU, seconds=None, team=team
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
