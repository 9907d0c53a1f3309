"""What the prompt network learns from: scenes, prompts as people give them, and a run that can be killed."""

import argparse
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.families import load_model
from models.prompt import Click, Prompt
from models.studies import prompt_network as script
from models.studies.prompt_scenes import KINDS, Sources, shape_of
from models.training.prompting import Labelled, first_prompts, mask_loss, place_inside, scribble, with_next_clicks


def square(side=64):
    truth = np.zeros((side, side), bool)
    truth[20:50, 10:40] = True
    return truth


@pytest.fixture(scope="module")
def sources():
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8)
    target = np.zeros((90, 130), bool)
    target[30:60, 40:90] = True
    return Sources([Labelled(image, (target,))], [image], collages=0.5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_every_scene_has_one_object_that_can_be_pointed_at(sources, seed):
    image, target = sources.scene(64, np.random.default_rng(seed))
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert target.shape == (64, 64)
    assert target.sum() >= 12


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_of_every_kind_differ_and_are_as_large_as_asked_for(sources, kind):
    rng = np.random.default_rng(1)
    small, large = ([shape_of(sources, kind, radius, rng).sum() for _ in range(40)] for radius in (0.05, 0.2))
    assert np.median(large) > 3 * np.median(small) > 0
    assert len(set(large)) > 20


def test_first_prompts_are_on_the_object():
    rng = np.random.default_rng(0)
    truth = square()
    prompts, kinds = first_prompts(np.stack([truth] * 60), rng)
    assert set(kinds) == {"click", "box", "scribble", "outline"}
    for index, kind in enumerate(kinds):
        points = prompts.points[index][~prompts.points[index, :, 0].isnan()].numpy()
        assert all(truth[int(y), int(x)] and on == 1 for x, y, on in points)
        assert (len(points) > 0) >= (kind in ("click", "scribble"))
        assert bool(prompts.has_earlier[index]) == (kind == "outline")
        if kind == "box":
            assert np.abs(prompts.boxes[index].numpy() - (10, 20, 40, 50)).max() < 12


def test_the_next_click_is_on_the_largest_error_and_says_which_kind():
    rng = np.random.default_rng(0)
    truth = np.stack([square()] * 40)
    found = torch.zeros(40, 1, 16, 16)
    found[:20, :, :4, :4] = 1  # too much in a corner, and all is missing
    found[20:, :, 5:13, 2:10] = 1  # nearly all is there, and the right half too much
    found[20:, :, :, 11:] = 1
    prompts = with_next_clicks(first_prompts(truth, rng)[0], found, truth, rng)
    assert prompts.has_earlier.all()
    newest = [points[~points[:, 0].isnan()][-1] for points in prompts.points if not points[0, 0].isnan()]
    assert newest
    for x, y, on in (point.tolist() for point in newest):
        assert bool(on) == bool(truth[0, int(y), int(x)])


def test_a_person_clicks_inside_and_not_always_in_the_middle():
    rng = np.random.default_rng(0)
    places = {place_inside(square(), rng) for _ in range(60)}
    assert len(places) > 15
    assert all(square()[int(y), int(x)] for x, y in places)
    assert all(square()[int(y), int(x)] for x, y in scribble(square(), rng))


def test_the_loss_falls_as_the_mask_comes_near():
    truth = torch.from_numpy(square(16))[None, None].float()
    truth[..., 4:9, 3:8] = 1
    good, bad = (mask_loss(scale * (2 * truth - 1), truth) for scale in (3.0, -3.0))
    assert good < 0.3 < 1 < bad


def test_a_run_that_was_killed_goes_on_and_writes_a_checkpoint_that_draws(tmp_path, monkeypatch, capsys):
    command = ["x", "--out", tmp_path / "network", "--images", 1, "--size", 64, "--batch", 2]
    command += ["--leave-out", "oct,vessel,leaf,ultrasound"]

    def run(minutes):
        monkeypatch.setattr(sys, "argv", [*map(str, command), "--minutes", str(minutes)])
        script.main()

    class Killed(Exception):
        pass

    steps = []

    def stop(progress):
        steps.append(progress.metrics["step"])
        if len(steps) == 3:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(script, "SAVE_SECONDS", 0)
        patched.setattr(script, "print_progress", stop)
        with pytest.raises(Killed):
            run(1000)  # the step ends it, on any machine
    run(0.2)
    assert "going on from step 2" in capsys.readouterr().out
    model = load_model(tmp_path / "network")
    assert model.name == "network"
    image = np.zeros((50, 70, 3), np.uint8)
    assert model.prompt(model.embed(image), Prompt((Click(30, 20),)), "a").mask.shape == (50, 70)
    with pytest.raises(SystemExit):
        run(0.2)
    assert "never overwritten" in capsys.readouterr().err


def test_a_kind_that_does_not_exist_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--out", str(tmp_path / "n"), "--leave-out", "moon"])
    with pytest.raises(SystemExit):
        script.main()
    assert "moon" in capsys.readouterr().err


def test_a_kind_that_is_left_out_is_not_learnt_from():
    arguments = argparse.Namespace(seed=0, images=1, data=[], photos=[], collages=0.5)
    assert len(script.gather(arguments, {"oct", "vessel", "leaf"}).labelled) == 2
