import cv2
import numpy as np
import pytest
import torch

from models.classifier import Classifier
from models.config import ClassifierConfig, FBANetConfig
from models.fba_net import FBANet
from models.pipeline import Pipeline


def small_pipeline(classes=("a", "b"), wall_backbone=None, seen_by=lambda classifier: classifier, **options):
    """An untrained pipeline: the light backbone at 128 pixels, narrow FBANet.

    `seen_by` makes another classifier of it.
    """
    torch.manual_seed(0)
    layers = ClassifierConfig(classes, "tf_efficientnet_lite0", 128, 16, wall_backbone)
    classifier = Classifier(layers)
    return Pipeline.of(seen_by(classifier), FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64)), **options)


@pytest.fixture
def make_pipeline():
    """Builds small untrained pipelines."""
    return small_pipeline


@pytest.fixture
def squares_data(tmp_path):
    """A data folder of ten small images with a bright square, class 'square', and 'nothing', which is nowhere.

    The first six are the train split; the last has no square.
    """
    root = tmp_path / "data"
    for folder in ("images", "masks/square"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("square\nnothing\n")
    for index in range(10):
        rng = np.random.default_rng(index)
        image = rng.integers(0, 60, (80, 120, 3)).astype(np.uint8)
        mask = np.zeros((80, 120), np.uint8)
        x, y = rng.integers(5, 40, 2)
        mask[y : y + 30, x : x + 30] = 255
        if index < 9:
            image[mask > 0] += 150
            cv2.imwrite(str(root / "masks" / "square" / f"f{index}.png"), mask)
        cv2.imwrite(str(root / "images" / f"f{index}.png"), image)
    names = [f"f{index}" for index in range(10)]
    (root / "split.json").write_text(f'{{"train": {names[:6]}, "val": {names[6:]}}}'.replace("'", '"'))
    return root
