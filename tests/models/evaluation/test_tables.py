"""The paper's tables, from pipelines whose masks are known in advance."""

from dataclasses import replace

import numpy as np
import pytest

from models.config import METHODS
from models.data.reader import open_data_folder
from models.evaluation.annotator import LIMIT, TARGETS
from models.evaluation.evaluate import summarise
from models.evaluation.tables import classifier_row, compare_methods, effort_table, measure_with_effort
from models.masks.metrics import iou
from models.pipeline import Pipeline, Steps


class Painter(Pipeline):
    """Draws for each class what it is told: a function (image, label) -> mask."""

    def __init__(self, pipeline, draw):
        both = pipeline.classifier, pipeline.refiner
        super().__init__(
            pipeline.classifier_config, pipeline.refiner_config, lambda: both, pipeline.config, name="painter"
        )
        self.draw = draw

    def steps(self, images):
        return [[self.step(label, self.draw(image, label)) for label in self.classes] for image in images]

    @staticmethod
    def step(label, mask):
        alpha = mask.astype(np.float32)
        return Steps(label, float(mask.any()), bool(mask.any()), alpha, mask, mask.astype(np.uint8) * 255, alpha, mask)


def bright(image):
    """The square of the test images, exactly."""
    return (image.min(axis=2) >= 150) if image.max() >= 150 else np.zeros(image.shape[:2], bool)


def nothing(image, label):
    return np.zeros(image.shape[:2], bool)


@pytest.fixture
def val(squares_data):
    return open_data_folder(squares_data).split("val")


@pytest.fixture
def paint(make_pipeline):
    return lambda draw: Painter(make_pipeline(("square", "nothing")), draw)


def table_of(pipeline, samples):
    frames, efforts = measure_with_effort(pipeline, samples)
    return effort_table(efforts, summarise(frames, pipeline))


def test_perfect_masks_need_no_correction(paint, val):
    table = table_of(paint(lambda image, label: bright(image) & (label == "square")), val)
    square = table["classes"]["square"]
    assert square["from_model"][str(max(TARGETS))] == {"mean": 0, "median": 0, "never": 0}
    assert square["from_nothing"]["0.9"]["mean"] > 1
    manual, automatic, corrected = table["ways"]
    assert automatic["iou"] == corrected["iou"] == 1
    assert automatic["strokes"] == corrected["strokes"] == 0 < manual["strokes"]
    assert manual["seconds"] is None
    assert manual["iou"] >= max(TARGETS)


def test_a_model_that_draws_nothing_saves_nothing(paint, val):
    table = table_of(paint(nothing), val)
    manual, automatic, corrected = table["ways"]
    assert manual["strokes"] == corrected["strokes"]
    assert automatic["iou"] == 0
    assert table["classes"]["nothing"]["from_model"]["0.9"] == {"mean": None, "median": None, "never": 0}


def test_false_masks_cost_a_stroke_each(paint, val):
    """Four images, none of which shows 'nothing'; and three squares that are right."""
    pipeline = paint(lambda image, label: bright(image) if label == "square" else ~nothing(image, label))
    table = table_of(pipeline, val)
    assert table["classes"]["nothing"]["false_masks"] == len(val) == 4
    assert table["ways"][2]["strokes"] == 1


def test_images_with_labels_alone_ask_no_strokes(paint, val):
    unmasked = [replace(sample, masks={}, has_masks=False) for sample in val[:3]]
    frames, efforts = measure_with_effort(paint(nothing), [*unmasked, val[3]])
    assert (len(frames), len(efforts)) == (4, 1)


def test_strokes_of_who_gave_up_count_as_the_limit(paint, val, monkeypatch):
    monkeypatch.setattr("models.evaluation.annotator.correct.__defaults__", (TARGETS, 1))
    table = table_of(paint(nothing), val)
    assert table["classes"]["square"]["from_nothing"]["0.967"] == {"mean": LIMIT, "median": LIMIT, "never": 3}


def test_a_row_a_classifier(paint, val):
    pipeline = paint(lambda image, label: ~nothing(image, label))
    frames, _ = measure_with_effort(pipeline, val)
    row = classifier_row(summarise(frames, pipeline), pipeline)
    assert (row["model"], row["backbone"]) == ("painter", "tf_efficientnet_lite0")
    # 'square' is on three of four images and 'nothing' on none, whose recall is therefore unknown.
    assert row["accuracy"] == pytest.approx((3 / 4 + 0) / 2)
    assert row["precision"] == pytest.approx((3 / 4 + 0) / 2)
    assert row["recall"] == 1


def test_every_method_is_compared_at_the_threshold_that_suits_it(make_pipeline, val, monkeypatch):
    """Maps of 0.35 on the square and 0 elsewhere, and twice that for LayerCAM: perfect from 0.1 to 0.3 and 0.7."""

    def maps(pipeline, images):
        level = 0.7 if pipeline.config.cam == "LayerCAM" else 0.35
        image = images[0]
        return np.ones((1, 2)), [np.stack([bright(image) * level, nothing(image, "")]).astype(np.float32)]

    monkeypatch.setattr(Pipeline, "maps", maps)
    table = compare_methods(make_pipeline(("square", "nothing")), val)
    assert list(table) == list(METHODS)
    assert table["HiResCAM"]["square"] == {"iou": 1.0, "threshold": 0.1}
    assert table["HiResCAM"]["nothing"] == {"iou": None, "threshold": None}
    assert table["LayerCAM"]["square"]["iou"] == 1


def test_the_best_threshold_is_found(make_pipeline, val, monkeypatch):
    """A halo of 0.55 around a square of 0.9: below 0.6 the halo is taken in."""

    def maps(pipeline, images):
        halo = np.full(images[0].shape[:2], 0.55)
        return np.ones((1, 2)), [np.stack([np.where(bright(images[0]), 0.9, halo)] * 2).astype(np.float32)]

    monkeypatch.setattr(Pipeline, "maps", maps)
    known = compare_methods(make_pipeline(("square", "nothing")), val[:1])["HiResCAM"]["square"]
    image = val[0].read_image()
    assert known == {"iou": iou(bright(image), val[0].read_mask("square", image.shape[:2])), "threshold": 0.6}
