"""What a model that errs, as models do, makes of annotations some of which are wrong."""

from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np
import pytest

from models.data.reader import open_data_folder
from models.data.writer import DataFolderWriter
from models.errors import DataError
from models.evaluation.planted import KINDS, measure_review, plant
from models.evaluation.review import MISSED, SHIFTED, SURPLUS, SWAPPED, Opinion, findings, opinions
from models.phantom import CLASSES, render_phantom
from models.segment import Prediction, Segment

COUNT, SIZE = 200, 96


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A project of small phantoms, labelled well."""
    folder = tmp_path_factory.mktemp("planted") / "data"
    with DataFolderWriter(folder, CLASSES) as writer:
        for seed in range(COUNT):
            phantom = render_phantom(4000 + seed, SIZE)
            masks = {label: mask for label, mask in phantom.masks.items() if mask.any()}
            presence = {label: label in masks for label in CLASSES}
            writer.add(f"task-{seed}", phantom.image, masks, presence)
    return open_data_folder(folder)


class Erring:
    """Sees what is there as a trained model does: outlines too wide, some classes missed, some imagined."""

    name, classes = "erring", CLASSES

    def __init__(self, folder):
        self._truth = {}
        for number, sample in enumerate(folder.samples.values()):
            image = sample.read_image()
            masks = {label: sample.read_mask(label, image.shape[:2]) for label in sample.masks}
            self._truth[image.tobytes()] = number, masks

    def predict(self, images):
        return [self._one(image) for image in images]

    def _one(self, image):
        number, masks = self._truth[image.tobytes()]
        rng = np.random.default_rng(number)
        presence, segments = {}, []
        for label in CLASSES:
            there = label in masks
            p = rng.beta(8, 2) if there else rng.beta(1.2, 12)
            presence[label] = float(p)
            if p < 0.5:
                continue
            truth = masks.get(label)
            mask = np.zeros(image.shape[:2], np.uint8)
            if truth is None:
                cv2.circle(mask, tuple(int(v) for v in rng.integers(20, SIZE - 20, 2)), 6, 1, -1)
            else:
                kernel = np.ones((int(rng.integers(1, 4)),) * 2, np.uint8)
                mask = cv2.dilate(truth.astype(np.uint8), kernel)
            segments.append(Segment(label, presence[label], mask.astype(bool)))
        return Prediction(presence, segments, frozenset(segment.label for segment in segments))


def test_of_planted_errors_a_review_of_a_tenth_finds_four_in_five(phantoms, tmp_path):
    found = measure_review(cast(Any, Erring(phantoms)), phantoms.split(None), tmp_path)
    print(found)
    assert (found["images"], found["planted"], found["reviewed"]) == (COUNT, COUNT // 20, COUNT // 10)
    assert found["recall"] >= 0.8


def test_planted_errors_are_what_they_are_called(phantoms, tmp_path):
    before = {sample.name: sample for sample in phantoms.split(None)}
    changed, planted = plant(phantoms.split(None), tmp_path, seed=3)
    assert set(planted.values()) == set(KINDS)
    for sample in changed:
        kind, was = planted.get(sample.name), before[sample.name]
        if kind is None:
            assert sample == was
        elif kind == "missing":
            assert len(sample.masks) == len(was.masks) - 1
        elif kind == "swapped":
            assert sorted(map(str, sample.masks.values())) == sorted(map(str, was.masks.values()))
            assert dict(sample.masks) != dict(was.masks)
        else:
            assert sample.masks.keys() == was.masks.keys()
            assert sample.masks != was.masks
    with pytest.raises(DataError, match="only 0 images have masks"):
        plant([], tmp_path)


def seen(image, label, *, drawn, accepted, presence=0.9, iou=None, others=()):
    return Opinion(image, label, presence, drawn, accepted, accepted, iou, dict(others))


USUAL = [seen(f"ok{n}", label, drawn=True, accepted=True, iou=0.85) for n in range(8) for label in ("a", "b")]


def test_each_kind_of_error_is_named():
    odd = [
        seen("miss", "a", drawn=True, accepted=False),
        seen("extra", "a", drawn=False, accepted=True, presence=0.02),
        seen("shift", "a", drawn=True, accepted=True, iou=0.2),
        seen("swap", "a", drawn=False, accepted=True, presence=0.02, others={"b": 0.8}),
    ]
    kinds = {one.image: one.kind for one in findings([*USUAL, *odd])}
    assert kinds == {"miss": MISSED, "extra": SURPLUS, "shift": SHIFTED, "swap": SWAPPED}
    sentences = {one.image: one.sentence for one in findings([*USUAL, *odd])}
    assert sentences["miss"] == "a is not drawn, and the model sees it (90%)"
    assert "where the model sees b (IoU 0.80)" in sentences["swap"]


def test_a_model_that_is_often_wrong_about_a_class_raises_less_suspicion():
    poor = [seen(f"poor{n}", "c", drawn=True, accepted=n < 2, iou=0.5 if n < 2 else None) for n in range(10)]
    found = findings([*USUAL, *poor, seen("miss", "a", drawn=True, accepted=False)])
    assert found[0].image == "miss"
    assert all(one.suspicion < found[0].suspicion for one in found[1:])


def test_a_wrong_label_is_likelier_where_the_class_in_its_place_is_missed_too():
    swap = seen("swap", "a", drawn=False, accepted=True, presence=0.4, others={"b": 0.7})
    present = [swap, seen("swap", "b", drawn=True, accepted=True, iou=0.85)]
    missed = [swap, seen("swap", "b", drawn=True, accepted=False, presence=0.7)]
    (alone,), (both,) = (
        [one for one in findings([*USUAL, *more]) if one.image == "swap"] for more in (present, missed)
    )
    assert (alone.kind, both.kind, both.other) == (SWAPPED, SWAPPED, "b")
    assert alone.suspicion < both.suspicion < 1


def test_an_image_is_listed_once_with_its_worst_class_and_one_that_agrees_is_not():
    found = findings(
        [
            *USUAL,
            seen("both", "a", drawn=True, accepted=True, iou=0.6),
            seen("both", "b", drawn=True, accepted=False, presence=0.99),
        ]
    )
    assert [(one.image, one.label) for one in found] == [("both", "b")]


def test_a_class_whose_presence_is_unknown_is_passed_over(phantoms):
    sample = next(iter(phantoms.samples.values()))
    labels = {one.label for one in opinions(cast(Any, Erring(phantoms)), [sample])}
    assert labels == set(CLASSES)
    unsure = replace(sample, presence={"Lumen": True})
    assert {one.label for one in opinions(cast(Any, Erring(phantoms)), [unsure])} == {"Lumen"}
