"""The robot that clicks: where it clicks, and that its clicks are answered by the pipeline."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.data.reader import open_data_folder
from models.evaluation.clicks import clicked, measure_clicks, next_click
from tests.models.test_pipeline import Brightness

MASKS = arrays(bool, (9, 13), elements=st.booleans())


@settings(deadline=None)
@given(MASKS, MASKS)
def test_a_click_lies_on_an_error_and_says_which_kind(mask, truth):
    click = next_click(mask, truth)
    if click is None:
        assert (mask == truth).all()
        return
    place = int(click.y), int(click.x)
    assert mask[place] != truth[place]
    assert click.positive == truth[place]


def test_the_largest_error_is_clicked_in_its_middle():
    truth = np.zeros((30, 40), bool)
    truth[2:9, 2:9] = truth[10:25, 20:35] = True
    click = next_click(np.zeros_like(truth), truth)
    assert (click.x, click.y, click.positive) == (27.5, 17.5, True)
    click = next_click(truth, np.zeros_like(truth))
    assert (click.x, click.y, click.positive) == (27.5, 17.5, False)


def test_clicks_mend_what_is_missing_and_take_away_what_is_too_much(make_pipeline):
    """The class is brightness: one object is missing, another is none."""
    pipeline = make_pipeline(seen_by=Brightness)
    rows, columns = np.mgrid[:130, :181]
    left, right, dark = (np.hypot(rows - 60, columns - x) < radius for x, radius in ((40, 25), (120, 20), (165, 8)))
    image = np.repeat(((left | right) * np.uint8(255))[..., None], 3, axis=2)
    ious = clicked(pipeline, pipeline.embed(image), "a", left | dark, left | right, 2)
    assert len(ious) == 3
    assert ious[0] < 0.7
    assert ious[2] > max(0.85, ious[1])


def test_every_present_class_is_clicked_from_nothing_and_from_the_model(make_pipeline, squares_data):
    samples = open_data_folder(squares_data).split("val")
    pipeline = make_pipeline(("square", "nothing"))
    told = []
    result = measure_clicks(pipeline, samples, 1, progress=lambda *done: told.append(done))
    assert set(result["classes"]) == {"square"}
    square = result["classes"]["square"]
    assert square["frames"] == 3
    assert square["nothing"][0] == 0
    assert all(len(square[start]) == 2 for start in ("nothing", "model"))
    assert told[-1] == (4, 4)
