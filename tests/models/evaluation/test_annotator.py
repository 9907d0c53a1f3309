"""The simulated annotator's strokes on masks of any shape."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from models.evaluation.annotator import correct
from models.masks.metrics import iou

unhurried = settings(deadline=None)


@st.composite
def pairs(draw):
    """A mask and a truth of the same shape, of small blobs, full frames and empty ones."""
    height, width = draw(array_shapes(min_dims=2, max_dims=2, max_side=6))
    mask, truth = (draw(arrays(bool, (height, width))) for _ in range(2))
    size = draw(st.integers(1, 5))
    return tuple(np.kron(part, np.ones((size, size), bool)) for part in (mask, truth))


@unhurried
@given(pairs())
def test_every_stroke_mends_and_none_does_harm(pair):
    """Fed back stroke by stroke, the mask stays right wherever it is right, and becomes right in more places."""
    mask, truth = pair
    for _ in range(12):
        if (mask == truth).all():
            break
        after = correct(mask, truth, targets=[1.0], limit=1).mask
        assert (after != truth).sum() < (mask != truth).sum()
        assert (after == truth)[mask == truth].all()
        mask = after


@unhurried
@given(pairs())
def test_the_strokes_lead_to_the_truth_and_the_figures_are_those_of_the_mask(pair):
    mask, truth = pair
    untouched = mask.copy()
    done = correct(mask, truth, targets=[0.5, 1.0], limit=mask.size)
    assert (mask == untouched).all()
    assert (done.mask == truth).all()
    assert done.ious[0] == iou(mask, truth)
    assert done.ious[-1] == iou(done.mask, truth) == 1
    assert done.strokes[1.0] == len(done.ious) - 1
    assert done.strokes[0.5] <= done.strokes[1.0]


@unhurried
@given(pairs())
def test_a_perfect_mask_needs_no_stroke(pair):
    truth = pair[0]
    done = correct(truth, truth)
    assert set(done.strokes.values()) == {0}
    assert done.ious == [1]


def disc(radius, side=101):
    y, x = np.mgrid[:side, :side] - side // 2
    return y**2 + x**2 < radius**2


def test_a_round_object_is_one_stroke():
    assert correct(np.zeros((101, 101), bool), disc(30)).strokes == {0.9: 1, 0.967: 1}


def test_a_mask_of_what_is_not_there_is_erased_in_one_stroke():
    false = disc(5) | np.roll(disc(5), 40, axis=0)
    assert correct(false, np.zeros_like(false)).strokes == {0.9: 1, 0.967: 1}


def test_the_largest_error_comes_first():
    truth = np.roll(disc(20), -25, axis=0) | np.roll(disc(5), 40, axis=0)
    first = correct(np.zeros_like(truth), truth, limit=1).mask
    assert first[25, 50]
    assert not first[90, 50]


def test_who_gives_up_says_so():
    """A thin ring takes many strokes; the target it reached before giving up is reported, the other is not."""
    ring = disc(40) & ~disc(37)
    done = correct(np.zeros_like(ring), ring, targets=[0.01, 0.99], limit=5)
    assert done.strokes[0.01] == 1
    assert done.strokes[0.99] is None
    assert len(done.ious) == 6
    assert done.ious[-1] == iou(done.mask, ring)
