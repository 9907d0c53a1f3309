import pytest
import torch

from models.activation_maps import METHODS, activation_maps
from models.checkpoint import packaged_backbone
from models.classifier import BACKBONES, Classifier, ClassifierConfig, log_sum_exp_pool

LIGHT = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(("a", "b", "c"), LIGHT, input_size=96)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_evidence_at_stride_four(backbone):
    network = Classifier(ClassifierConfig(("a", "b"), backbone)).eval()
    with torch.inference_mode():
        output = network(torch.rand(1, 3, 64, 64))
    assert output.logits.shape == (1, 2)
    assert output.evidence.shape == (1, 2, 16, 16)  # also where the backbone's own map is 15 x 15
    assert (output.features >= 0).all()


def test_an_unknown_backbone_is_refused_by_name():
    with pytest.raises(ValueError, match="no network 'xceptoin'"):
        Classifier(ClassifierConfig(("a",), "xceptoin"))


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="at least one class"):
        Classifier(ClassifierConfig((), LIGHT))


def test_pooling_lies_between_mean_and_maximum():
    evidence = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    pooled = log_sum_exp_pool(evidence)
    assert (pooled >= evidence.mean(-1)).all()
    assert (pooled <= evidence.amax(-1)).all()


def test_the_package_carries_weights_for_the_light_backbone():
    """They are the trained ones: the first convolution is not what a fresh network has, and all keys fit."""
    weights = packaged_backbone(LIGHT)
    network = Classifier(ClassifierConfig(("a",), LIGHT)).backbone
    missing = [key for key in network.state_dict() if key not in weights and "num_batches" not in key]
    assert missing == []
    assert packaged_backbone("resnet50") is None


def unit(raw):
    """As the reference rescales."""
    raw = raw - raw.amin()
    return raw / (1e-7 + raw.amax())


@pytest.mark.parametrize("method", METHODS)
def test_maps_equal_those_of_pytorch_grad_cam(classifier, images, method):
    """The reference explains the same score (evidence summed over the frame) at the same layer, map by map."""
    import pytorch_grad_cam

    class Explained(torch.nn.Module):
        """The classifier from its last features on, as the reference wants it: one module, one tensor."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Identity()
            self.head = classifier.head

        def forward(self, features):
            return self.head(self.layer(features)).sum(dim=(2, 3))

    with torch.no_grad():
        output = classifier(images)
    ours = METHODS[method].raw(output.features, classifier.head.weight[:, :, 0, 0].detach())
    network, compared = Explained(), 0
    for index in range(3):
        target = [lambda scores, index=index: scores[index]] * 2
        with getattr(pytorch_grad_cam, method)(network, [network.layer]) as cam:
            theirs = torch.from_numpy(cam(output.features.clone().requires_grad_(), target))
        # The reference resizes nothing here (the input is the layer) and rescales every map to [0, 1].
        for a, b in zip(ours[:, index], theirs, strict=True):
            candidates = [unit(a.clamp(min=0))]
            if method.startswith("Eigen"):  # the reference leaves a component's sign to chance
                candidates.append(unit((-a).clamp(min=0)))
            assert min(float((b - c).norm()) for c in candidates) <= 1e-3 * float(b.norm())
            compared += bool(b.any())
    assert compared  # not only empty maps


@pytest.mark.parametrize("method", METHODS)
def test_maps_are_in_the_unit_range_for_all_classes_at_once(classifier, images, method):
    with torch.inference_mode():
        output = classifier(images)
        maps = activation_maps(output, classifier.head.weight[:, :, 0, 0], method)
    assert maps.shape == (2, 3, 24, 24)
    assert maps.min() >= 0
    assert maps.max() <= 1


def test_an_absent_class_has_no_map(classifier, images):
    """Max-scaled methods are gated by presence; logit maps are low by themselves."""
    with torch.inference_mode():
        output = classifier(images)
        absent = output._replace(logits=torch.full_like(output.logits, -20.0))
        assert activation_maps(absent, classifier.head.weight[:, :, 0, 0], "LayerCAM").max() < 1e-6


def test_an_unknown_method_is_refused_by_name(classifier, images):
    with torch.inference_mode(), pytest.raises(ValueError, match="no activation-map method 'CAM'"):
        activation_maps(classifier(images), classifier.head.weight[:, :, 0, 0], "CAM")
