"""Bootstrap over groups, on values whose intervals can be told in advance."""

import numpy as np
import pytest

from models.evaluation.evaluate import Agreement, Decision, FrameFigures
from models.evaluation.intervals import MIN_GROUPS, interval, with_intervals


def grouped(groups, each, spread, seed=0):
    """`groups` groups of `each` equal values: normal about 0.5 between the groups."""
    means = np.random.default_rng(seed).normal(0.5, spread, groups)
    return [(f"g{i}", float(mean)) for i, mean in enumerate(means) for _ in range(each)]


def test_the_interval_holds_the_mean_and_the_same_seed_gives_the_same():
    values = grouped(20, 3, 0.1)
    low, high = interval(values)
    assert low < np.mean([value for _, value in values]) < high
    assert interval(values) == [low, high]
    assert interval(values, seed=1) != [low, high]


def test_copies_of_an_image_within_its_group_teach_nothing_new():
    """Ten near-copies a patient leave the interval as wide as one image a patient; taken singly it would shrink."""
    one, ten = grouped(20, 1, 0.1), grouped(20, 10, 0.1)
    assert interval(ten) == pytest.approx(interval(one))
    low, high = interval([(str(i), value) for i, (_, value) in enumerate(ten)])
    assert high - low < 0.5 * (interval(ten)[1] - interval(ten)[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Nominally 95 of 100; with 30 groups the percentile interval falls a little short."""
    hits = 0
    for seed in range(100):
        low, high = interval(grouped(30, 2, 0.1, seed))
        hits += low <= 0.5 <= high
    assert 86 <= hits <= 99


def test_larger_groups_count_for_more():
    """Means of images, not means of groups: a group of a hundred images, and nine of one."""
    low, high = interval([("a", 1.0)] * 100 + [(str(i), 0.0) for i in range(9)])
    assert low == 0.0
    assert high > 0.97


@pytest.mark.parametrize("groups", range(MIN_GROUPS + 1))
def test_a_few_groups_give_no_interval(groups):
    values = [(f"g{i % groups}", 0.1 * i) for i in range(4 * groups)]
    assert (interval(values) is None) == (groups < MIN_GROUPS)


def test_what_the_refiner_adds_is_compared_image_by_image():
    """IoU varies widely between images, the gain does not: its interval is narrow."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0.2, 0.8, 24)
    frames = [
        FrameFigures(f"f{i}", 1.0, {"a": Agreement(c + 0.1, c, c, c)}, {"a": Decision(i != 3, True)})
        for i, c in enumerate(coarse)
    ]
    figures = {
        "classes": {"a": {"iou": coarse.mean() + 0.1, "coarse_iou": coarse.mean()}, "b": dict.fromkeys(("iou",))}
    }
    found = with_intervals(figures, frames, {f"f{i}": str(i // 3) for i in range(24)})
    known = found["classes"]["a"]
    assert found["groups"] == 8
    assert known["refiner_gain"] == pytest.approx(0.1)
    assert known["refiner_gain_ci"] == pytest.approx([0.1, 0.1])
    assert known["iou_ci"][0] < known["iou"] < known["iou_ci"][1]
    assert known["accuracy_ci"][0] < 23 / 24 <= known["accuracy_ci"][1]
    assert known["no_interval"] is None
    assert found["classes"]["b"]["iou_ci"] is found["classes"]["b"]["refiner_gain"] is None
    assert found["classes"]["b"]["no_interval"] == "drawn on images of 0 groups, an interval needs 5"


def test_figures_say_why_there_is_no_interval():
    """Twenty images of four patients: as many as one could wish, but too few patients."""
    frames = [
        FrameFigures(f"f{i}", 1.0, {"a": Agreement(0.5, 0.5, 0.5, 0.4)}, {"a": Decision(True, True)}) for i in range(20)
    ]
    figures = {"classes": {"a": {"iou": 0.5, "coarse_iou": 0.4}}}
    found = with_intervals(figures, frames, {f"f{i}": f"patient {i % 4}" for i in range(20)})
    assert found["groups"] == 4
    assert found["classes"]["a"]["no_interval"] == "drawn on images of 4 groups, an interval needs 5"
    assert [found["classes"]["a"][f"{key}_ci"] for key in ("iou", "coarse_iou", "refiner_gain", "accuracy")] == [
        None
    ] * 4
