"""The shipped weights: whole, small, and as good on held-out real frames as their card says."""

import pytest

from models.checkpoint import read_card
from models.data.reader import open_data_folder
from models.evaluation.evaluate import evaluate
from models.phantom import CLASSES
from models.pipeline import load_pipeline
from models.starter import STARTERS


@pytest.fixture(params=sorted(STARTERS))
def starter(request):
    return STARTERS[request.param]


def test_the_card_tells_what_it_is(starter):
    card = read_card(starter)
    assert tuple(card.classes) == CLASSES
    assert card.name == starter.name
    assert "Known failures" in card.description
    assert card.training["command"]
    assert all(path.stat().st_size <= 15e6 for path in starter.iterdir())


def test_all_weights_together_are_small_enough_for_a_repository():
    files = [path for path in STARTERS["light"].parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 60e6


@pytest.mark.slow
def test_held_out_real_frames_reach_the_figures_of_the_card(oct_data, starter):
    """Lumen at 0.90 or better, and each class's final mask better than its coarse map."""
    metrics = evaluate(load_pipeline(starter), open_data_folder(oct_data).split("val"))
    card = read_card(starter).metrics
    for label, figures in metrics["classes"].items():
        # Processors without bfloat16 compute in float32, which moves a pixel here and there.
        assert figures["iou"] == pytest.approx(card["classes"][label]["iou"], abs=0.02), label
        assert figures["iou"] > figures["coarse_iou"], label
    assert metrics["classes"]["Lumen"]["iou"] >= 0.90
