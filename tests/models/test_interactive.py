"""Prompts: the object that an annotator points at is drawn, also where the classifier sees nothing."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.interactive import answer
from models.masks.metrics import iou
from models.phantom import render_phantom
from models.pipeline import load_pipeline
from models.prompt import Click, Prompt
from models.starter import STARTER
from tests.models.test_pipeline import Brightness


def disc(shape, x, y, radius):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(columns - x, rows - y) <= radius


def picture(*masks):
    """Bright objects on black."""
    return np.repeat(np.logical_or.reduce(masks)[..., None] * np.uint8(255), 3, axis=2)


@pytest.fixture
def bright(make_pipeline):
    """A pipeline whose class 'a' is brightness; 'b' it sees nowhere."""
    pipeline = make_pipeline(seen_by=Brightness)
    return pipeline


SHAPE = (130, 181)  # odd, not square
LEFT, RIGHT = disc(SHAPE, 50, 60, 25), disc(SHAPE, 130, 70, 20)


def test_a_click_draws_the_object_that_it_hits_and_no_other(bright):
    found = answer(bright, bright.embed(picture(LEFT, RIGHT)), "a", Prompt((Click(50, 60),)))
    assert found.improves is None
    assert iou(found.mask, LEFT) > 0.9
    assert 0 < found.score <= 1


def test_clicks_accumulate(bright):
    prompt = Prompt((Click(50, 60), Click(130, 70)))
    assert iou(answer(bright, bright.embed(picture(LEFT, RIGHT)), "a", prompt).mask, LEFT | RIGHT) > 0.9


def test_a_box_keeps_the_object_inside_it(bright):
    box = np.zeros(SHAPE, bool)
    box[48:92, 108:152] = True
    mask = answer(bright, bright.embed(picture(LEFT, RIGHT)), "a", Prompt(boxes=(box,))).mask
    assert iou(mask, RIGHT) > 0.85
    assert not (mask & ~cv2.dilate(box.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)).any()


def test_a_rough_outline_is_drawn_exactly(bright):
    rough = disc(SHAPE, 53, 62, 27)
    mask = answer(bright, bright.embed(picture(LEFT)), "a", Prompt(outlines=(rough,))).mask
    assert iou(mask, LEFT) > max(0.88, iou(rough, LEFT))


@pytest.mark.parametrize("label", ["b", "never taught"])
@pytest.mark.parametrize("prompt", ["click", "box", "outline"])
def test_a_prompt_where_the_classifier_sees_nothing_still_draws_there(bright, label, prompt):
    given = {
        "click": Prompt((Click(130, 70),)),
        "box": Prompt(boxes=(RIGHT,)),
        "outline": Prompt(outlines=(RIGHT,)),
    }[prompt]
    mask = answer(bright, bright.embed(picture(RIGHT)), label, given).mask
    assert mask[70, 130]
    assert mask.sum() < 4 * RIGHT.sum()


def test_a_negative_click_removes_the_object_that_it_hits_and_leaves_the_other_as_it_was(bright):
    existing = LEFT | disc(SHAPE, 130, 70, 8)
    found = answer(bright, bright.embed(picture(LEFT)), "a", Prompt((Click(130, 70, positive=False),)), [existing])
    assert found.improves == 0
    assert not found.mask[70, 130]
    np.testing.assert_array_equal(found.mask[:, :80], LEFT[:, :80])


def test_an_existing_mask_is_improved_by_a_click_on_what_it_lacks(bright):
    existing = LEFT & (np.arange(SHAPE[1]) < 55)
    found = answer(bright, bright.embed(picture(LEFT)), "a", Prompt((Click(65, 60),)), [RIGHT, existing])
    assert found.improves == 1
    assert iou(found.mask, LEFT) > max(0.85, iou(existing, LEFT))


def test_a_click_far_from_every_mask_begins_a_new_one(bright):
    found = answer(bright, bright.embed(picture(LEFT, RIGHT)), "a", Prompt((Click(130, 70),)), [LEFT])
    assert found.improves is None
    assert iou(found.mask, RIGHT) > 0.85


def test_only_negative_clicks_on_nothing_draw_nothing(bright):
    found = answer(bright, bright.embed(picture(LEFT)), "a", Prompt((Click(5, 5, positive=False),)))
    assert not found.mask.any()
    assert found.score == 0


@given(
    st.lists(st.tuples(st.floats(-50, 250), st.floats(-50, 250), st.booleans()), min_size=1, max_size=6),
    st.integers(3, 90),
    st.integers(3, 90),
)
@settings(max_examples=25, deadline=None)
def test_any_clicks_on_any_image_give_a_mask_of_its_size(clicks, height, width):
    """Outside of the image, twice at one place, both signs at one place."""
    from tests.models.conftest import small_pipeline

    pipeline = small_pipeline()
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    prompt = Prompt(tuple(Click(*click) for click in [*clicks, clicks[0]]))
    found = answer(pipeline, pipeline.embed(image), "a", prompt, [np.ones((height, width), bool)])
    assert found.mask.shape == (height, width)
    assert found.mask.dtype == bool


def test_the_starter_answers_one_click_and_one_box_on_every_tissue():
    """On a synthetic frame that it was not trained on, better than chance by far."""
    pipeline = load_pipeline(STARTER)
    phantom = render_phantom(900_002, 512)
    embedding = pipeline.embed(phantom.image)
    assert embedding.nbytes < 8 << 20
    for label, truth in phantom.masks.items():
        parts, numbered = cv2.connectedComponents(truth.astype(np.uint8))
        part = max((numbered == i for i in range(1, parts)), key=np.count_nonzero, default=None)
        if part is None:
            continue
        depth = cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        rows, columns = np.nonzero(part)
        box = np.zeros_like(part)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        assert iou(answer(pipeline, embedding, label, Prompt((Click(float(x), float(y)),))).mask, part) > 0.4, label
        assert iou(answer(pipeline, embedding, label, Prompt(boxes=(box,))).mask, part) > 0.6, label
