"""Masks read back from Label Studio, compared with the phantoms."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.demo.predictions import iou, masks, newest_predictions, score
from backend.demo.sample_project import SIZE
from backend.label_studio.rle import encode_rle
from models.phantom import render_phantom


def region(mask: NDArray[np.bool_], label: str) -> dict[str, Any]:
    height, width = mask.shape
    rle = encode_rle(mask)
    value = {"format": "rle", "rle": rle, "brushlabels": [label]}
    return {"type": "brushlabels", "original_width": width, "original_height": height, "value": value}


def test_masks_come_back_as_they_were_drawn() -> None:
    mask = np.zeros((5, 9), bool)
    mask[1:3, 2:7] = True
    choice = {"type": "choices", "value": {"choices": ["Lumen"]}}
    found = masks([region(mask, "Lumen"), choice])
    assert list(found) == ["Lumen"]
    np.testing.assert_array_equal(found["Lumen"], mask)


def test_two_regions_of_a_label_are_one_mask() -> None:
    left, right = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    left[:, :2], right[:, 4:] = True, True
    np.testing.assert_array_equal(masks([region(left, "a"), region(right, "a")])["a"], left | right)


def test_a_mask_of_another_size_is_worth_nothing() -> None:
    assert iou(np.ones((4, 4), bool), np.ones((4, 5), bool)) == 0
    assert iou(None, np.ones((4, 5), bool)) == 0
    assert iou(np.ones((4, 5), bool), np.ones((4, 5), bool)) == 1


def test_the_prediction_stored_last_counts() -> None:
    rows = [{"id": 7, "task": 1}, {"id": 3, "task": 1}, {"id": 5, "task": 2}]
    assert {task: one["id"] for task, one in newest_predictions(rows).items()} == {1: 7, 2: 5}


def test_a_class_that_was_not_drawn_counts_zero_and_an_absent_one_not_at_all() -> None:
    truth = render_phantom(900_000, SIZE).masks
    drawn = [region(mask, name) for name, mask in truth.items() if name == "Lumen"]
    scores = score({1: 900_000, 2: 900_000}, {1: {"result": drawn, "model_version": "v1"}})
    assert (scores.tasks, scores.predicted, scores.with_masks, scores.versions) == (2, 1, 1, ("v1",))
    assert (scores.classes["Lumen"].frames, scores.classes["Lumen"].iou) == (2, 0.5)
    assert all(one.frames == 0 for name, one in scores.classes.items() if name not in truth)
