import pytest

from models.evaluation.evaluate import Agreement, Decision, FrameFigures
from models.training.promotion import verdict


def frames(*ious, right=True):
    """One image per IoU, a single class on it."""
    return [
        FrameFigures(f"f{i}", 0.1, {"a": Agreement(iou, iou, iou, iou)}, {"a": Decision(right, True)})
        for i, iou in enumerate(ious)
    ]


@pytest.mark.parametrize(
    ("new", "count", "promoted"),
    [(0.80, 30, True), (0.795, 30, True), (0.78, 30, False), (0.77, 1, True), (0.7, 1, False)],
)
def test_a_model_is_promoted_unless_it_is_worse_than_chance_explains(new, count, promoted):
    """A fall of 0.03 is too much on thirty images and may be chance on one."""
    promote, reason = verdict(frames(*[new] * count), frames(*[0.8] * count), tolerance=0.01)
    assert promote is promoted
    assert "before 0.800" in reason


def test_a_first_model_is_promoted():
    assert verdict(frames(0.1), None, tolerance=0.01)[0]


def test_masks_accepted_as_drawn_do_not_hold_a_new_model_back():
    """Their truth is the earlier model's own answer, so it scores 1 there, good or bad."""
    promote, reason = verdict(frames(0.9, 0.92), frames(1.0, 1.0), tolerance=0.01)
    assert promote
    assert "accepted as the model before drew them" in reason


def test_but_they_must_not_be_forgotten():
    assert not verdict(frames(0.5, 0.6), frames(1.0, 1.0), tolerance=0.01)[0]


def test_corrected_images_decide_where_there_are_some():
    better, worse = frames(0.9, 0.8), frames(0.9, 0.5)
    before = frames(1.0, 0.7)
    assert verdict(better, before, tolerance=0.01)[0]
    assert not verdict(worse, before, tolerance=0.01)[0]


def test_an_image_whose_presence_was_wrong_counts_as_corrected():
    """The annotator deleted or added a class: the earlier model was wrong there."""
    assert "before" in verdict(frames(0.9), frames(1.0, right=False), tolerance=0.01)[1]


def test_without_masks_presence_decides():
    def labels(*right):
        return [FrameFigures(f"f{i}", 0.1, {}, {"a": Decision(r, True)}) for i, r in enumerate(right)]

    assert verdict(labels(True, True), labels(True, False), tolerance=0.01)[0]
    assert not verdict(labels(False, False), labels(True, False), tolerance=0.01)[0]
