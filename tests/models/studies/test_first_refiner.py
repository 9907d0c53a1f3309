"""The FBANet that trainings begin from: how it is made, and that the shipped one follows edges it never saw."""

import sys

import numpy as np
import pytest
import torch

from models import first_refiner as shipped
from models.checkpoint import check_weights
from models.errors import CheckpointError
from models.fba_net import unknown_band
from models.masks.metrics import iou
from models.starter import FIRST_REFINER
from models.studies import first_refiner as script
from models.studies.first_refiner import collage, synthetic_examples
from models.training.refiner_loop import draw_crops


def test_a_collage_changes_the_image_inside_its_mask_alone():
    rng = np.random.default_rng(0)
    ground, figure = np.zeros((90, 120, 3), np.uint8), np.full((50, 40, 3), 200, np.uint8)
    example = collage(ground, figure, rng)
    assert example.image.shape == ground.shape
    assert example.truth is not None
    assert example.truth.any()
    inside = example.truth > 0
    assert example.image[inside].mean() > 5 * example.image[~inside].mean()


def test_the_shipped_refiner_follows_edges_better_than_the_map_on_images_it_never_saw():
    batch = draw_crops(synthetic_examples(3, seed=12345), 256, np.random.default_rng(0).spawn(24))
    inputs, truth = torch.from_numpy(batch.inputs), batch.targets >= 0.5
    with torch.inference_mode():
        alpha = shipped.first_refiner().eval()(inputs).alpha.numpy()
    band = unknown_band(inputs).numpy()
    right_before = ((batch.inputs[:, -1] >= 0.5) == truth)[band].mean()
    right_after = ((alpha >= 0.5) == truth)[band].mean()
    assert 1 - right_after < 0.7 * (1 - right_before)
    before = np.mean([iou(cam >= 0.5, mask) for cam, mask in zip(batch.inputs[:, -1], truth, strict=True)])
    after = np.mean([iou(mask >= 0.5, true) for mask, true in zip(alpha, truth, strict=True)])
    assert after > before


def test_the_script_writes_what_trainings_begin_from(tmp_path, monkeypatch, capsys):
    out = tmp_path / "refiner"
    monkeypatch.setattr(sys, "argv", ["first_refiner", "--out", str(out), "--steps", "2", "--images", "1"])
    script.main()
    assert "images of kind ultrasound" in capsys.readouterr().out
    assert "synthetic images alone" in check_weights(out).description
    monkeypatch.setattr(shipped, "FIRST_REFINER", out)
    assert sum(parameter.numel() for parameter in shipped.first_refiner().parameters()) > 100_000
    (out / "refiner.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        shipped.first_refiner()


def test_the_shipped_files_are_whole():
    card = check_weights(FIRST_REFINER)
    assert card.training["runs"][0] == "--steps 1500 --rate 0.001 --images 300 --seed 0"
