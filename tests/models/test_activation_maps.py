import threading
from dataclasses import replace

import pytest
import torch

from models.activation_maps import RAW, SCORED_CHANNELS, activation_maps, explain, hires_cam, per_class, score_cam
from models.classifier import Classifier
from models.config import METHODS, ClassifierConfig
from models.errors import ModelError

GRADIENT_METHODS = [method for method in METHODS if method != "ScoreCAM"]


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(("a", "b", "c"), "tf_efficientnet_lite0", input_size=64, width=24)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def unit(raw):
    """As the reference rescales."""
    raw = raw - raw.amin()
    return raw / (1e-7 + raw.amax())


class FromLayer(torch.nn.Module):
    """The classifier from one of its layers on, as the reference wants it: one module, one tensor in, scores out."""

    def __init__(self, classifier, images, stride):
        super().__init__()
        self.classifier, self.stride, self.size = classifier, stride, images.shape[2:]
        self.layer = torch.nn.Identity()
        with torch.no_grad():
            lateral = classifier.lateral_features(images)
            self.start = classifier(images).layers[stride]
        self.finer = {s: feature for s, feature in lateral.items() if s < stride}

    def forward(self, activations):
        activations = self.layer(activations)
        if self.stride == 4:
            score_maps = self.classifier.head(activations)
        else:
            score_maps = self.classifier.top_down({self.stride: activations} | self.finer, *self.size).score_maps
        return score_maps.sum(dim=(2, 3))


@pytest.mark.parametrize("stride", [4, 8, 32])
@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_maps_equal_those_of_pytorch_grad_cam(classifier, images, method, stride):
    """The reference explains the same score (the sum of the class score map) at the same layer, map by map."""
    import pytorch_grad_cam

    explanation = explain(classifier, images, (8, 4, 32))
    layer = next(layer for layer in explanation.layers if layer.stride == stride)
    ours = RAW[method](explanation, layer)
    network, compared = FromLayer(classifier, images, stride), 0
    for index in range(3):
        target = [lambda scores, index=index: scores[index]] * 2
        with getattr(pytorch_grad_cam, method)(network, [network.layer]) as cam:
            theirs = torch.from_numpy(cam(network.start.clone().requires_grad_(), target))
        # The reference resizes nothing here (the input is the layer) and rescales every map to [0, 1].
        for a, b in zip(ours[:, index], theirs, strict=True):
            candidates = [unit(a.clamp(min=0))]
            if method.startswith("Eigen"):  # the reference leaves a component's sign to chance
                candidates.append(unit((-a).clamp(min=0)))
            assert min(float((b - c).norm()) for c in candidates) <= 1e-3 * float(b.norm())
            compared += bool(b.any())
    assert compared  # not only empty maps


class WithLayer(torch.nn.Module):
    """The classifier with a module whose output is one of its layers, for the reference to hook."""

    def __init__(self, classifier, stride):
        super().__init__()
        self.classifier, self.stride, self.layer = classifier, stride, torch.nn.Identity()

    def forward(self, images):
        output = self.classifier(images)
        self.layer(output.layers[self.stride])
        return output.logits


@pytest.mark.parametrize("stride", [4, 16])
def test_score_cam_with_all_channels_equals_that_of_pytorch_grad_cam(classifier, images, stride):
    import cv2
    import pytorch_grad_cam

    explanation = explain(classifier, images, (stride,))
    ours = score_cam(explanation, explanation.layers[0], bound=24)
    network = WithLayer(classifier, stride)
    for index in range(3):
        with pytorch_grad_cam.ScoreCAM(network, [network.layer]) as cam:
            theirs = torch.from_numpy(cam(images, [lambda scores, index=index: scores[index]] * 2))
        for a, b in zip(ours[:, index], theirs, strict=True):
            resized = torch.from_numpy(cv2.resize(unit(a.clamp(min=0)).numpy(), (64, 64)))
            assert float((unit(resized) - b).norm()) <= 1e-3 * float(b.norm())


def test_score_cam_passes_a_bounded_number_of_masked_images_for_all_classes_together(classifier, images):
    seen = []
    handle = classifier.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    activation_maps(explain(classifier, images), "ScoreCAM")
    handle.remove()
    assert sum(seen) == len(images) * (1 + SCORED_CHANNELS)


def test_score_cam_is_the_same_in_several_threads_at_once_and_hooks_nothing(classifier, images):
    alone = activation_maps(explain(classifier, images), "ScoreCAM")
    found = {}

    def work(name):
        found[name] = activation_maps(explain(classifier, images), "ScoreCAM")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.allclose(found[0], alone, atol=1e-5)
    assert torch.allclose(found[1], alone, atol=1e-5)
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.mark.parametrize("stride", [4, 8])
def test_all_classes_at_once_get_the_maps_of_each(classifier, images, stride):
    explanation = explain(classifier, images, (stride,))
    (layer,) = explanation.layers
    expected = per_class(hires_cam, explanation, layer)
    assert expected.any()
    torch.testing.assert_close(RAW["HiResCAM"](explanation, layer), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strides", [(4,), (16,), (4, 8), (32, 16, 8, 4)])
def test_layers_cost_one_pass_of_the_backbone_and_leave_no_gradients(classifier, images, strides):
    classifier.zero_grad()
    recorded = []
    handle = classifier.backbone.register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    explanation = explain(classifier, images, strides)
    handle.remove()
    assert recorded == [False]
    assert all(parameter.grad is None for parameter in classifier.parameters())
    for layer, stride in zip(explanation.layers, strides, strict=True):
        assert layer.activations.shape == (2, 24, 64 // stride, 64 // stride)
        assert layer.gradients.shape == (2, 3, 24, 64 // stride, 64 // stride)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strides", [(4,), (8, 32), (4, 8)])
def test_maps_are_in_the_unit_range_for_all_classes_at_once(classifier, images, method, strides):
    maps = activation_maps(explain(classifier, images, strides), method)
    cells = 64 // min(strides)
    assert maps.shape == (2, 3, cells, cells)
    assert maps.min() >= 0
    assert maps.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_fusing_layers_takes_the_larger_map_of_each_cell(classifier, images, method):
    fine, coarse, both = (activation_maps(explain(classifier, images, s), method) for s in ((4,), (8,), (8, 4)))
    enlarged = torch.nn.functional.interpolate(coarse, size=fine.shape[2:], mode="bilinear")
    assert torch.allclose(both, torch.maximum(fine, enlarged), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_an_absent_class_has_no_map(classifier, images, method):
    """Maps without a unit are gated by presence; a score map is low by itself where a class is absent."""
    explanation = explain(classifier, images, (8,))
    explanation = replace(explanation, logits=torch.full_like(explanation.logits, -20.0))
    assert activation_maps(explanation, method).max() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_forward_passes_give_maps_by_every_method(classifier, images, method):
    with torch.autocast("cpu", torch.bfloat16):
        maps = activation_maps(explain(classifier, images, (4, 8)), method)
    assert maps.isfinite().all()


def test_an_unknown_method_is_refused_by_name(classifier, images):
    with pytest.raises(ValueError, match="no activation-map method 'CAM'"):
        activation_maps(explain(classifier, images), "CAM")


def test_an_unknown_layer_is_refused_by_its_stride(classifier, images):
    with pytest.raises(ModelError, match="no layer of stride 2, only 4, 8, 16, 32"):
        explain(classifier, images, (4, 2))
