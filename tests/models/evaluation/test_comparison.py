"""The pictures by which a lead judges between two versions."""

from dataclasses import replace
from typing import Any, cast

import cv2
import numpy as np

from models.checkpoint import Card, read_card
from models.data.sample import Sample
from models.evaluation.comparison import DIFFERS, MAX_IMAGES, add_comparison, most_different
from models.evaluation.evaluate import Agreement, Decision, FrameFigures
from models.pipeline import Steps


def frame(name, **ious):
    """Classes on an image; one drawn in vain has the IoU None."""
    agreements = {label: Agreement(*[iou] * 4) for label, iou in ious.items() if iou is not None}
    return FrameFigures(name, 0.1, agreements, {label: Decision(True, iou is not None) for label, iou in ious.items()})


def test_images_are_ranked_by_their_largest_difference():
    before = [frame("same", a=0.5), frame("little", a=0.5), frame("much", a=0.9, b=0.5), frame("vain", a=None)]
    right = replace(frame("vain", a=None), decisions={"a": Decision(False, False)})
    new = [frame("same", a=0.5), frame("little", a=0.6), frame("much", a=0.1, b=0.5), right]
    found = most_different(before, new)
    assert [name for name, _ in found] == ["vain", "much", "little"]
    assert dict(found)["much"] == {"a": (0.9, 0.1)}
    assert dict(found)["vain"] == {"a": (0.0, 1.0)}


def test_only_a_few_are_shown():
    names = [str(number) for number in range(9)]
    assert len(most_different([frame(n, a=0.1) for n in names], [frame(n, a=0.2) for n in names])) == MAX_IMAGES


class Square:
    classes, description = ("a",), {"refiner": "none", "cam": "none"}

    def __init__(self, side):
        self.side = side

    def steps(self, images):
        mask = np.zeros(images[0].shape[:2], bool)
        mask[: self.side, : self.side] = True
        cam = mask.astype(np.float32)
        return [[Steps("a", 0.9, True, cam, mask, mask.astype(np.uint8) * 255, cam, mask)] for _ in images]


def test_before_new_and_accepted_are_drawn_over_the_image(tmp_path):
    image = np.full((40, 60, 3), 100, np.uint8)
    cv2.imwrite(str(tmp_path / "t.png"), image)
    truth = np.zeros((40, 60), np.uint8)
    truth[:20, :20] = 255
    cv2.imwrite(str(tmp_path / "a.png"), truth)
    sample = Sample("task-4", tmp_path / "t.png", {"a": tmp_path / "a.png"}, {"a": True}, True)
    card = Card("r2", ["a"], "", "")
    models = cast(Any, (Square(5), Square(20)))
    add_comparison(tmp_path, card, models, [sample], ([frame("task-4", a=0.1)], [frame("task-4", a=1.0)]))
    (entry,) = read_card(tmp_path).gallery
    assert (entry["name"], entry["end"], entry["iou"], entry["before_iou"]) == ("task-4", DIFFERS, 1.0, 0.1)
    (shown,) = entry["classes"]
    drawn = {which: cv2.imread(str(tmp_path / "gallery" / shown[which])) for which in ("before", "new", "accepted")}
    inside = {which: abs(int(picture[12, 12, 1]) - 100) > 10 for which, picture in drawn.items()}
    assert inside == {"before": False, "new": True, "accepted": True}
