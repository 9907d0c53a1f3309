"""Images that look otherwise: each change is one, truth goes where the image goes, and the pipeline is asked again."""

from dataclasses import replace

import numpy as np
import pytest

from models.data.reader import open_data_folder
from models.evaluation.evaluate import measure, summarise
from models.evaluation.robustness import CHANGES, Change, ChangedSample, measure_robustness
from tests.models.test_pipeline import Brightness

MOVED = [name for name, change in CHANGES.items() if change.turns or change.scale != 1]


@pytest.fixture
def sample(squares_data):
    return open_data_folder(squares_data).samples["f3"]


@pytest.mark.parametrize("name", list(CHANGES)[1:])
def test_every_change_is_seen_and_makes_an_image_of_the_same_kind(sample, name):
    image, changed = sample.read_image(), ChangedSample(**vars(sample), change=CHANGES[name]).read_image()
    assert changed.dtype == np.uint8
    assert sorted(changed.shape) == sorted(image.shape)
    assert changed.shape != image.shape or np.abs(changed.astype(int) - image).mean() > 1


@pytest.mark.parametrize("name", MOVED)
def test_the_mask_goes_with_the_image(sample, name):
    changed = ChangedSample(**vars(sample), change=CHANGES[name])
    image = changed.read_image()
    mask = changed.read_mask("square", image.shape[:2])
    assert mask.shape == image.shape[:2]
    bright = image.min(axis=2) > 120
    assert (mask & bright).sum() > 0.95 * (mask | bright).sum()
    assert not changed.read_mask("nothing", image.shape[:2]).any()


def test_what_is_unchanged_scores_as_ever_and_what_is_hidden_is_lost(make_pipeline, squares_data, monkeypatch):
    black = Change(lambda image: image * np.uint8(0))
    monkeypatch.setattr(
        "models.evaluation.robustness.CHANGES", {"as it is": Change(), "turned": Change(turns=1), "black": black}
    )
    pipeline = make_pipeline(("square", "nothing"), seen_by=Brightness)
    pipeline.config = replace(pipeline.config, refiner="none")
    samples, told = open_data_folder(squares_data).split("val"), []
    result = measure_robustness(pipeline, samples, progress=lambda *done: told.append(done))
    as_ever = summarise(measure(pipeline, samples), pipeline)["classes"]["square"]
    assert result["as it is"]["square"] == {key: as_ever[key] for key in ("iou", "recall", "precision")}
    assert result["turned"]["square"]["iou"] == pytest.approx(as_ever["iou"], abs=0.05)
    assert as_ever["iou"] > 0.5
    assert result["black"]["square"] == {"iou": 0, "recall": 0, "precision": None}
    assert result["as it is"]["nothing"]["iou"] is None
    assert told == [(1, 3), (2, 3), (3, 3)]
