"""Scores are there to sort by: what needs most work is to come first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.confidence import PRIOR, Judged, absent_signs
from models.data.reader import open_data_folder
from models.evaluation.ordering import Scored, area_found, measure_ordering, order_figures
from models.phantom import write_phantoms
from models.pipeline import load_pipeline
from models.starter import STARTERS

WORK = st.lists(st.integers(0, 100), min_size=1, max_size=30)


@given(WORK)
def test_following_the_work_itself_is_best_and_its_contrary_worst(strokes):
    best, worst = area_found(strokes, [-s for s in strokes]), area_found(strokes, strokes)
    assert 0 <= worst <= 0.5 <= best <= 1
    assert best + worst == pytest.approx(1)
    assert area_found(strokes, [0.3] * len(strokes)) == pytest.approx(0.5)


def test_misses_come_before_images_that_are_surely_empty():
    """The least certain class would order the other way: absence counts more there than a mask that is drawn well."""
    sharp = (6.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    missed = Scored("missed", 60, 0.75, (Judged("a", absent_signs(0.25, 0.3), False),))
    drawn = [Scored(f"d{n}", 0, 0.6, (Judged("a", sharp, True),)) for n in range(3)]
    empty = [Scored(f"e{n}", 0, 0.99, (Judged("a", absent_signs(0.01, 0.3), True),)) for n in range(3)]
    scored = [*drawn, missed, *empty]
    figures = order_figures(scored, PRIOR, {one.name: one.name for one in scored})
    assert figures["orders"]["score"]["area"] > 0.9
    assert figures["orders"]["least certain class"]["area"] < 0.6
    assert (figures["images"], figures["strokes"], figures["need_correction"]) == (7, 60, 1)


def test_on_phantoms_the_scores_save_effort(tmp_path):
    """A model on images unlike those that it was made for: much is missed, and much drawn badly."""
    write_phantoms(tmp_path / "data", 16, seed=77, size=192)
    folder = open_data_folder(tmp_path / "data")
    figures = measure_ordering(load_pipeline(STARTERS["light"]), folder.split(None), folder.groups())
    orders = {name: order["area"] for name, order in figures["orders"].items()}
    assert orders["calibrated"] > max(orders["least certain class"], orders["random"]) + 0.05
    assert orders["perfect"] >= orders["calibrated"]
    assert figures["brier"]["calibrated"] < figures["brier"]["mean rate"]
