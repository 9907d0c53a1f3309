"""Polygons around any mask: an editor can fill them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from shapely import Polygon

from models.masks.outlines import MAX_HOLES, outlines

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=30))


def discs(*circles, shape=(120, 160)):
    """Discs (row, column, radius) drawn one over the other, every other one erasing."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, bool)
    for index, (row, column, radius) in enumerate(circles):
        mask[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = index % 2 == 0
    return mask


@given(MASKS, st.integers(1, 3))
@settings(max_examples=200)
def test_no_polygon_crosses_itself_or_leaves_the_image(mask, scale):
    mask = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = mask.shape
    for corners in outlines(mask):
        assert len(corners) >= 3
        assert Polygon(corners).is_valid
        assert (corners >= 0).all()
        assert (corners <= (width, height)).all()


@given(MASKS)
def test_parts_come_largest_first(mask):
    areas = [Polygon(corners).area for corners in outlines(mask.repeat(4, axis=0).repeat(4, axis=1))]
    # Simplifying moves an area a little.
    assert all(a >= 0.9 * b for a, b in pairwise(areas))


def test_a_ring_keeps_its_hole():
    """A fibrous cap all around the lumen must not become a full disc."""
    (corners,) = outlines(discs((60, 80, 50), (60, 80, 30)))
    assert Polygon(corners).area == pytest.approx(np.pi * (50**2 - 30**2), rel=0.02)


def test_a_hole_within_reach_of_another_is_cut_open_too():
    (corners,) = outlines(discs((60, 80, 55), (60, 70, 10), (0, 0, 0), (60, 95, 10)))
    assert Polygon(corners).area == pytest.approx(np.pi * (55**2 - 2 * 10**2), rel=0.02)


def test_tiny_parts_get_no_polygon_and_pinholes_are_filled():
    mask = discs((60, 80, 30))
    mask[60, 80] = False
    mask[5, 5] = True
    (corners,) = outlines(mask)
    assert Polygon(corners).area == pytest.approx(np.pi * 30.5**2, rel=0.03)


def test_a_sieve_keeps_its_largest_holes_alone():
    """A thousand slits would make a polygon that cannot be edited."""
    mask = np.ones((200, 200), bool)
    mask[5:195:10, 5:195:10] = False  # single pixels
    mask[6:195:10, 5:195:10] = mask[5:195:10, 6:195:10] = mask[6:195:10, 6:195:10] = False  # now 2 x 2
    (corners,) = outlines(mask)
    assert len(corners) <= 4 + MAX_HOLES * 12


def test_an_empty_mask_has_no_outline():
    assert outlines(np.zeros((5, 5), bool)) == []
