import pytest
import torch

from models.classifier import Classifier, ClassifierConfig
from models.fba_net import FBANet, FBANetConfig
from models.pipeline import Pipeline


def small_pipeline(classes=("a", "b"), **options):
    """An untrained pipeline: the light backbone at 128 pixels, narrow FBANet."""
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(classes, "tf_efficientnet_lite0", input_size=128, width=16))
    return Pipeline(classifier, FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64)), **options)


@pytest.fixture
def make_pipeline():
    """Builds small untrained pipelines."""
    return small_pipeline
