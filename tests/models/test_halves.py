"""A converted classifier in two: the same outputs, cut where the finest features leave the backbone."""

import numpy as np
import pytest
import torch
from torch import nn

from models.classifier import Classifier
from models.compiled import Compiled, computes_bfloat16
from models.config import ClassifierConfig
from models.conversion import _converted, _Features
from models.halves import halves

pytest.importorskip("openvino")


def converted(backbone):
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(("a", "b"), backbone, input_size=64, width=8)).eval()
    model = _converted(_Features(classifier), torch.rand(1, 3, 64, 64))
    model.reshape([1, 3, -1, -1])
    return model


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [("tf_efficientnet_lite0", 24), ("legacy_xception", 128), ("resnet18", 64), ("convnext_atto", 40)],
)
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 3, 96, 128)])
def test_the_halves_together_give_what_the_whole_gives(backbone, channels, shape):
    """At a quarter of the size, for frames of any size; the whole is not changed by it."""
    model = converted(backbone)
    images = np.random.default_rng(1).random(shape, dtype=np.float32)
    expected = Compiled(model, ["f32"])(images, 0, 1)
    first, rest = halves(model)
    tensor = Compiled(first, ["f32"])(images, 0)[0]
    assert tensor.shape[1] == channels
    assert abs(tensor.shape[2] - shape[2] // 4) <= 1
    assert [value.get_element_type().get_type_name() for value in rest.inputs] == ["f32", "f32"]
    for one, other in zip(expected, Compiled(model, ["f32", "f32"])(images, 0, 1), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    mixed = Compiled(model, ["f32", "bf16"])(images, 1)[0]
    assert np.array_equal(mixed, expected[1]) != computes_bfloat16()
    np.testing.assert_array_equal(Compiled(model, ["f32"])(images, 1)[0], expected[1])


class Branches(nn.Module):
    """Reads the images again at its end."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1))

    def forward(self, images):
        return self.layers(images) + images


def test_a_network_without_such_a_place_stays_whole():
    model = _converted(Branches(), torch.rand(1, 3, 16, 16))
    assert halves(model) is None
    images = np.random.default_rng(0).random((1, 3, 16, 16), dtype=np.float32)
    np.testing.assert_array_equal(Compiled(model, ["f32", "f32"])(images, 0), Compiled(model, ["f32"])(images, 0))
