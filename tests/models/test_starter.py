"""The shipped weights: whole, small, and as good on held-out real frames as their card says."""

import pytest

from models.checkpoint import read_card
from models.evaluation.evaluate import evaluate
from models.phantom import CLASSES
from models.pipeline import load_pipeline
from models.starter import STARTER
from models.training.data_folder import open_data_folder


def test_the_card_tells_what_it_is():
    card = read_card(STARTER)
    assert tuple(card.classes) == CLASSES
    assert card.name == STARTER.name
    assert "Known failures" in card.description
    assert card.training["command"]
    assert sum(path.stat().st_size for path in STARTER.iterdir()) < 15e6


def test_held_out_real_frames_reach_the_figures_of_the_card(oct_data):
    """Lumen at 0.90 or better, and each class's final mask better than its coarse map."""
    metrics = evaluate(load_pipeline(STARTER), open_data_folder(oct_data).split("val"))
    card = read_card(STARTER).metrics
    for label, figures in metrics["classes"].items():
        # Processors without bfloat16 compute in float32, which moves a pixel here and there.
        assert figures["iou"] == pytest.approx(card["classes"][label]["iou"], abs=0.02), label
        assert figures["iou"] > figures["coarse_iou"], label
    assert metrics["classes"]["Lumen"]["iou"] >= 0.90
