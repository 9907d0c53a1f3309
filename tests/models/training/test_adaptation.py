"""A class's first accepted image teaches the prompt network what its objects look like, and it forgets nothing else."""

import numpy as np
import pytest
import torch

from models.errors import DataError
from models.evaluation.clicks import clicked, objects_of
from models.families import load_model
from models.phantom.leaf import render_leaf
from models.prompt_model import PromptModel, load_prompt_model
from models.starter import PROMPTS
from models.training import adaptation
from models.training.adaptation import MAX_SIDE, adapted, fitted, main, read_examples, write_examples
from models.training.prompting import Labelled


def example(seed: int, label: str = "Leaf") -> Labelled:
    phantom = render_leaf(seed, 500, 0.5)
    return fitted(phantom.image, objects_of(phantom.masks[label]))


@pytest.fixture(scope="module")
def network():
    return load_prompt_model(PROMPTS).network


@pytest.mark.timeout(600)
def test_one_click_draws_more_of_a_class_after_one_image_of_it(network):
    copy = adapted(network, [example(1)])

    def mean(of):
        found = []
        for seed in (2, 3, 6):
            one = example(seed)
            truth = one.objects[0]
            found += clicked(PromptModel(of), PromptModel(of).embed(one.image), "Leaf", ~truth & False, truth, 1)[1:]
        return np.mean(found)

    assert mean(copy) > mean(network) + 0.1


def test_what_sees_the_image_stays_as_it_is_and_the_same_examples_give_the_same_copy(network, monkeypatch):
    monkeypatch.setattr(adaptation, "STEPS", 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one, other = (adapted(network, [example(1)]).state_dict() for _ in range(2))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(torch.equal(one[name], other[name]) for name in one)
    changed = {name.partition(".")[0] for name in one if not torch.equal(one[name], before[name])}
    assert changed == {"in4", "down8", "down16", "whole", "up8", "less8", "up4", "out"}


def test_large_images_are_made_smaller_and_what_vanishes_is_left_out():
    image = np.zeros((40, 2 * MAX_SIDE, 3), np.uint8)
    large, small = np.zeros((2, 40, 2 * MAX_SIDE), bool)
    large[10:30, 100:300] = True
    small[1, 1] = True
    found = fitted(image, [large, small])
    assert found.image.shape == (20, MAX_SIDE, 3)
    assert [one.sum() for one in found.objects] == [1000]


def test_without_an_object_that_can_be_seen_nothing_is_learnt(network, monkeypatch):
    with pytest.raises(DataError, match="no object"):
        adapted(network, [Labelled(np.zeros((50, 50, 3), np.uint8), ())])
    monkeypatch.setattr(adaptation, "SMALLEST", 10**6)
    with pytest.raises(DataError, match="too small"):
        adapted(network, [example(1)])


def test_the_command_writes_a_checkpoint_that_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation, "STEPS", 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    first, second = example(1), example(2)
    write_examples(tmp_path / "examples.npz", [first, second])
    again = read_examples(tmp_path / "examples.npz")
    assert all((a.image == b.image).all() for a, b in zip(again, [first, second], strict=True))
    assert main([str(PROMPTS), str(tmp_path / "examples.npz"), str(tmp_path / "copy")]) == 0
    model = load_model(tmp_path / "copy")
    assert model.name == "copy"
    assert isinstance(model, PromptModel)
