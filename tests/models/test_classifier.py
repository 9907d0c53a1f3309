from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from models.checkpoint import packaged_backbone
from models.classifier import Classifier, log_sum_exp_pool
from models.config import BACKBONES, ClassifierConfig

LIGHT = "tf_efficientnet_lite0"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_has_score_maps_at_stride_four(backbone):
    network = Classifier(ClassifierConfig(("a", "b"), backbone)).eval()
    with torch.inference_mode():
        output = network(torch.rand(1, 3, 64, 64))
    assert output.logits.shape == (1, 2)
    assert output.score_maps.shape == (1, 2, 16, 16)  # also where the backbone's own map is 15 x 15
    assert (output.features >= 0).all()
    assert sorted(output.layers) == [4, 8, 16, 32]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_threads_that_run_a_network_at_once_get_their_own_images_maps(backbone):
    """A click runs the network from its first layer to its last while a task is in the middle of it."""
    network = Classifier(ClassifierConfig(("a",), backbone)).eval()
    task, click = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def run(image):
        with torch.inference_mode():
            return network(image).score_maps

    alone = run(task), run(click)
    convolutions = [module for module in network.backbone.modules() if isinstance(module, torch.nn.Conv2d)]
    between: list[torch.Tensor] = []
    with ThreadPoolExecutor(1) as clicks:

        def interrupt(*_):
            handle.remove()
            between.append(clicks.submit(run, click).result())

        handle = convolutions[len(convolutions) // 2].register_forward_hook(interrupt)
        assert torch.equal(run(task), alone[0])
    assert torch.equal(between[0], alone[1])


def test_an_unknown_backbone_is_refused_by_name():
    with pytest.raises(ValueError, match="no network 'xceptoin'"):
        Classifier(ClassifierConfig(("a",), "xceptoin"))


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="at least one class"):
        Classifier(ClassifierConfig((), LIGHT))


def test_pooling_lies_between_mean_and_maximum():
    score_maps = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    pooled = log_sum_exp_pool(score_maps)
    assert (pooled >= score_maps.mean(-1)).all()
    assert (pooled <= score_maps.amax(-1)).all()


def test_the_package_carries_weights_for_the_light_backbone():
    """They are the trained ones: the first convolution is not what a fresh network has, and all keys fit."""
    weights = packaged_backbone(LIGHT)
    network = Classifier(ClassifierConfig(("a",), LIGHT)).backbone
    missing = [key for key in network.state_dict() if key not in weights and "num_batches" not in key]
    assert missing == []
    assert packaged_backbone("resnet50") is None
