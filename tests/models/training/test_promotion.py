import numpy as np
import pytest

from models.evaluation.evaluate import Agreement, Decision, FrameFigures
from models.training.promotion import LEVEL, MIN_GROUPS, quality, sign_flip, verdict


def frames(*ious, right=True):
    """One image per IoU, a single class on it."""
    return [
        FrameFigures(f"f{i}", 0.1, {"a": Agreement(iou, iou, iou, iou)}, {"a": Decision(right, True)})
        for i, iou in enumerate(ious)
    ]


def in_groups(count, each):
    return {f"f{i}": f"patient {i // each}" for i in range(count)}


def test_as_few_groups_as_could_agree_by_chance_are_too_few():
    assert 2.0**-MIN_GROUPS <= LEVEL < 2.0 ** -(MIN_GROUPS - 1)


@pytest.mark.parametrize(
    ("new", "before", "promoted"),
    [
        ([0.9] * 4, [0.8] * 4, True),
        ([0.9] * 3, [0.1] * 3, False),
        ([0.8] * 6, [0.8] * 6, True),  # as good, all over
        ([0.78] * 30, [0.8] * 30, False),
        ([0.9, 0.9, 0.9, 0.9, 0.1], [0.8] * 5, False),  # worse on the whole
        ([0.99, 0.7, 0.7, 0.7], [0.7, 0.72, 0.72, 0.72], False),  # better on one alone
        ([0.85, 0.82, 0.9, 0.86, 0.84, 0.79], [0.8] * 6, True),
    ],
)
def test_a_model_is_promoted_if_enough_groups_say_so(new, before, promoted):
    """A mean over one image, or one image that outweighs all others, is no evidence."""
    found = verdict(frames(*new), frames(*before), 0.01)
    assert found.promote is promoted
    assert bool(found.missing) is not promoted
    assert f"before {np.mean(before):.3f}" in found.reason


def test_images_of_one_group_are_one_witness():
    new, before = frames(*[0.9] * 12), frames(*[0.8] * 12)
    assert not verdict(new, before, 0.01, groups=in_groups(12, 6)).promote
    assert verdict(new, before, 0.01, groups=in_groups(12, 3)).promote


def test_where_there_was_no_time_to_measure_a_longer_training_is_what_is_missing():
    """Not more tasks: enough of them are held out."""
    held_out = [f"f{i}" for i in range(5)]
    found = verdict(frames(0.9, 0.9), frames(0.8, 0.8), 0.01, groups={n: n for n in held_out}, held_out=held_out)
    assert found.missing == "a longer training would tell: there was time to measure 2 of 5 held-out groups"
    drawn = verdict(frames(0.9), None, 0.01, groups={n: n for n in held_out}, held_out=held_out, as_drawn=held_out[1:])
    assert drawn.missing.startswith("about 15 more corrected tasks would tell")


def test_one_task_accepted_as_drawn_serves_nobody():
    """The case of a project with seven accepted tasks: 0.928 against 0.999 on the only held-out one."""
    found = verdict(frames(0.928), frames(0.999), 0.01)
    assert not found.promote
    assert found.groups == 0
    assert (
        found.missing
        == "about 20 more corrected tasks would tell: no held-out groups have corrected masks, 4 are needed"
    )


def test_whence_the_missing_tasks_should_come_is_said():
    found = verdict(frames(0.9, 0.9), frames(0.8, 0.8), 0.01, groups={"f0": "p1", "f1": "p2"}, named=True)
    assert found.missing == (
        "about 10 more corrected tasks, each from another patient or series, would tell: "
        "2 held-out groups have corrected masks, 4 are needed"
    )


def test_masks_accepted_as_another_version_drew_them_are_no_evidence():
    """Neither for the model before nor for the new one: people only had to agree."""
    new, before = frames(*[0.9] * 6), frames(*[0.8] * 6)
    found = verdict(new, before, 0.01, as_drawn=[f"f{i}" for i in range(3)])
    assert (found.promote, found.groups) == (False, 3)


def test_masks_accepted_as_drawn_do_not_hold_a_new_model_back():
    """Their truth is the earlier model's own answer, so it scores 1 there, good or bad."""
    found = verdict(frames(0.9, 0.92, *[0.9] * 4), frames(1.0, 1.0, *[0.8] * 4), 0.01)
    assert found.promote
    assert "on 2 tasks accepted as drawn" in found.reason


def test_but_they_must_not_be_forgotten():
    found = verdict(frames(0.5, 0.6, *[0.9] * 4), frames(1.0, 1.0, *[0.8] * 4), 0.01)
    assert not found.promote
    assert "has lost masks" in found.missing


def test_an_image_whose_presence_was_wrong_counts_as_corrected():
    """The annotator deleted or added a class: the earlier model was wrong there."""
    assert verdict(frames(0.9), frames(1.0, right=False), 0.01).groups == 1


@pytest.mark.parametrize(("ious", "promoted"), [([0.8] * 4, True), ([0.8] * 3, False), ([0.24] * 9, False)])
def test_a_first_model_has_to_help(ious, promoted):
    found = verdict(frames(*ious), None, 0.01, classes=["a", "b"])
    assert found.promote is promoted
    assert found.classes["b"] == {"state": "not measured", "iou": None, "tasks": 0}
    assert found.classes["a"]["state"] == ("weak" if ious[0] < 0.5 else "measured")


def test_a_first_model_that_is_too_weak_is_told_so():
    assert "too weak to help" in verdict(frames(*[0.24] * 9), None, 0.01).missing


def test_nothing_held_out_promotes_nothing():
    assert verdict([], None, 0.01).promote is False
    found = verdict([], [], 0.01)
    assert (found.promote, found.reason) == (False, "no task is held out")


def test_a_mask_drawn_in_vain_counts_as_nothing_right():
    """Somebody has to delete it."""
    (frame,) = frames(0.8)
    wrong = FrameFigures("f0", 0.1, frame.agreements, {**frame.decisions, "b": Decision(True, False)})
    assert (quality(frame), quality(wrong)) == (0.8, 0.4)


def test_without_masks_presence_decides():
    def labels(*right):
        return [FrameFigures(f"f{i}", 0.1, {}, {"a": Decision(r, True)}) for i, r in enumerate(right)]

    assert verdict(labels(*[True] * 4), labels(*[False] * 4), 0.01, classes=["a"]).promote
    assert not verdict(labels(*[False] * 4), labels(*[True] * 4), 0.01).promote
    assert verdict(labels(True), None, 0.01, classes=["a"]).classes["a"] == {
        "state": "measured",
        "iou": None,
        "tasks": 1,
    }


def test_with_many_groups_the_signs_are_sampled():
    rng = np.random.default_rng(1)
    assert sign_flip(rng.normal(0.05, 0.05, 40)) < 0.01
    assert sign_flip(rng.normal(-0.05, 0.05, 40)) > 0.9


def test_a_model_that_is_worse_is_promoted_no_more_often_than_the_level_says():
    rng = np.random.default_rng(2)
    told = [sign_flip(rng.normal(0.0, 0.1, 6)) <= LEVEL for _ in range(1000)]
    assert np.mean(told) <= LEVEL * 1.25
