import numpy as np
import pytest

from models.masks.metrics import boundary_f, dice, iou


def square(x, size=20, side=100):
    mask = np.zeros((side, side), bool)
    mask[30 : 30 + size, x : x + size] = True
    return mask


def test_half_overlap():
    assert iou(square(20), square(30)) == pytest.approx(200 / 600)
    assert dice(square(20), square(30)) == pytest.approx(400 / 800)


def test_equal_masks_agree_wholly_and_disjoint_ones_not_at_all():
    for measure in (iou, dice, boundary_f):
        assert measure(square(20), square(20)) == 1
        assert measure(square(20), square(70)) == 0


def test_two_empty_masks_agree_and_one_empty_does_not():
    empty = np.zeros((100, 100), bool)
    for measure in (iou, dice, boundary_f):
        assert measure(empty, empty) == 1
        assert measure(square(20), empty) == 0


def test_outlines_within_the_tolerance_agree():
    """A shift of one pixel costs area but no outline: the tolerance is 0.8 % of the diagonal, 1.1 pixels here."""
    assert boundary_f(square(20), square(21)) == 1
    assert boundary_f(square(20), square(25)) < 1
