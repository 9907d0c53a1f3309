from dataclasses import replace

import cv2
import numpy as np
import pytest

from models.data.sample import Sample
from models.evaluation.evaluate import Agreement, FrameFigures
from models.pipeline import Pipeline
from models.training.calibration import (
    _clearly_better,
    calibrate_band,
    calibrate_maps,
    calibrate_presence,
    made_worse,
    platt_line,
)


def test_the_line_is_the_one_that_made_the_labels():
    """Labels drawn with probability sigmoid(2 x - 1): slope and offset come back in any unit of the scores."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 2, 20_000)
    present = rng.random(len(x)) < 1 / (1 + np.exp(-(2 * x - 1)))
    slope, offset = platt_line(x * 10 + 7, present)
    assert slope * 10 == pytest.approx(2, abs=0.1)
    assert offset + slope * 7 == pytest.approx(-1, abs=0.1)


def test_scores_that_tell_all_apart_get_a_finite_line_between_them():
    scores = np.array([-1.0, -0.9, -0.8, 0.1, 0.2])
    present = np.array([False, False, False, True, True])
    slope, offset = platt_line(scores, present)
    assert 0 < slope < 1000
    assert ((slope * scores + offset > 0) == present).all()


def test_presence_is_calibrated_on_whole_frames(make_pipeline, tmp_path):
    """Class a is on one frame of four; class b on all, which leaves its line alone; unknown labels do not count."""
    pipeline = make_pipeline()
    samples = []
    for i in range(8):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.random.default_rng(i).integers(0, 256, (64, 64, 3)).astype(np.uint8))
        presence = {"a": i < 1, "b": True} if i < 4 else {"b": True}
        samples.append(Sample(str(i), path, {}, presence, False))
    before = pipeline.classifier.bias.detach().clone()
    calibrate_presence(pipeline, [], samples)
    known = [pipeline.predict([sample.read_image()])[0].presence["a"] for sample in samples[:4]]
    # Platt's targets: 2/3 for the one positive, 1/5 for the three negatives.
    assert np.mean(known) == pytest.approx((2 / 3 + 3 / 5) / 4, abs=0.05)
    assert pipeline.classifier.bias[1] == before[1]


def bright_squares(tmp_path, count):
    """Images with a square of 100 on black, its masks, and a pipeline whose map of it is its brightness."""
    samples = []
    for i in range(count):
        image, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
        at = 8 + 2 * i
        image[at : at + 24, at : at + 24] = 100
        mask[at : at + 24, at : at + 24] = 255
        cv2.imwrite(str(tmp_path / f"{i}.png"), image)
        cv2.imwrite(str(tmp_path / f"m{i}.png"), mask)
        samples.append(Sample(str(i), tmp_path / f"{i}.png", {"a": tmp_path / f"m{i}.png"}, {"a": True}, False))
    return samples


def dim_maps(monkeypatch):
    """Maps that are as strong as the image is bright: 0.39 on the square, 0 elsewhere; the class is surely there."""
    monkeypatch.setattr(
        Pipeline,
        "maps_by",
        lambda self, images, methods: (
            np.ones((len(images), 2), np.float32),
            {m: [np.stack([image[..., 0] / np.float32(255)] * 2) for image in images] for m in methods},
        ),
    )


def test_a_map_that_is_dim_all_over_is_cut_lower(make_pipeline, tmp_path, monkeypatch):
    dim_maps(monkeypatch)
    config = calibrate_maps(make_pipeline(), bright_squares(tmp_path, 6))
    assert config.map_threshold_of("a") < 0.39
    assert config.map_threshold_of("b") == 0.5
    assert replace(config, cam="LayerCAM").threshold("a") < 0.39


def test_what_the_model_trained_from_had_measured_stands_where_nothing_is_better(make_pipeline, tmp_path, monkeypatch):
    dim_maps(monkeypatch)
    pipeline = make_pipeline()
    pipeline.config = replace(pipeline.config, map_threshold={"HiResCAM": {"a": 0.2, "b": 0.7}})
    config = calibrate_maps(pipeline, bright_squares(tmp_path, 6))
    assert config.map_threshold["HiResCAM"] == {"a": 0.2, "b": 0.7}


def test_few_held_out_frames_move_nothing(make_pipeline, tmp_path, monkeypatch):
    dim_maps(monkeypatch)
    pipeline, samples = make_pipeline(), bright_squares(tmp_path, 4)
    assert calibrate_maps(pipeline, samples).threshold("a") == 0.5
    assert calibrate_band(pipeline, samples) == pipeline.config


def test_a_difference_that_may_be_chance_moves_nothing():
    rng = np.random.default_rng(0)
    same = np.clip(rng.normal(0.6, 0.2, (8, 1)) + rng.normal(0, 0.001, (8, 3)), 0, 1)
    noisy = [[0.5, 0.9], [0.5, 0.2], [0.5, 0.9], [0.5, 0.2], [0.5, 0.4], [0.5, 0.5]]
    assert _clearly_better(noisy) == 0
    better = np.column_stack([same[:, 0], same[:, 0] - 0.1, same[:, 0] + 0.05])
    assert _clearly_better(better.tolist()) == 2


def figures_of(leads):
    """Frames on which the map of class a is ahead of its mask by so much."""
    return [FrameFigures(str(i), 0.0, {"a": Agreement(0.5, 0.5, 0.5, 0.5 + lead)}, {}) for i, lead in enumerate(leads)]


@pytest.mark.parametrize(
    ("held_out", "learnt", "worse"),
    [
        ([0.1, 0.12, 0.08, 0.1, 0.1], [], ("a",)),
        ([-0.1, 0.12, -0.08, 0.1, 0.0], [], ()),
        ([-0.1, -0.12, -0.08, -0.1, -0.1], [0.1] * 9, ()),
        ([0.1] * 4, [0.1, 0.12, 0.08, 0.1, 0.1], ("a",)),
        ([0.1] * 4, [0.1, 0.12, 0.08, 0.1], ()),
        ([], [0.3, 0.0, 0.0, 0.0, 0.2], ()),  # ahead by 1.7 standard errors, on images that were learnt
        ([0.3, 0.0, 0.0, 0.0, 0.2], [], ("a",)),
    ],
)
def test_classes_are_left_as_mapped_where_the_refiner_harms_them(
    make_pipeline, tmp_path, monkeypatch, held_out, learnt, worse
):
    """Held-out frames decide; training frames where those show the class too seldom."""
    monkeypatch.setattr("models.training.calibration.measure", lambda *_: figures_of(learnt))
    assert made_worse(make_pipeline(), figures_of(held_out), bright_squares(tmp_path, 5)) == worse
