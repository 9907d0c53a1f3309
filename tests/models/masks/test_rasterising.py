"""Shapes as masks: a pixel belongs to a shape if its centre does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon, contains_xy

from models.masks.rasterising import fill_box, fill_ellipse, fill_polygon, fill_rectangle

POINT = st.tuples(st.floats(-3, 12, width=32), st.floats(-3, 9, width=32))
SHAPE = (7, 10)
ROWS, COLUMNS = np.mgrid[:7, :10] + 0.5


@settings(deadline=None)
@given(st.lists(POINT, min_size=3, max_size=3))
def test_a_triangle_holds_the_pixels_whose_centres_lie_in_it(corners):
    polygon = Polygon(corners)
    certain = np.array([[abs(polygon.exterior.distance(_point(x, y))) > 1e-4 for x, y in row] for row in _centres()])
    expected = contains_xy(polygon, COLUMNS, ROWS)
    assert (fill_polygon(np.array(corners), SHAPE) == expected)[certain].all()


def _point(x: float, y: float):
    from shapely import Point

    return Point(x, y)


def _centres():
    return np.stack([COLUMNS, ROWS], axis=-1)


def test_a_hole_is_cut_out():
    outer, hole = np.array([[1, 1], [8, 1], [8, 6], [1, 6]]), np.array([[3, 2], [5, 2], [5, 4], [3, 4]])
    expected = fill_polygon(outer, SHAPE)
    expected[2:4, 3:5] = False
    assert (fill_polygon(outer, SHAPE, [hole]) == expected).all()


def test_corners_far_outside_do_no_harm():
    assert fill_polygon(np.array([[-1e300, -1e300], [1e300, -1e300], [1e300, 1e300], [-1e300, 1e300]]), SHAPE).all()


@settings(deadline=None)
@given(st.floats(1, 4), st.floats(1, 3), st.floats(-180, 180))
def test_a_turned_ellipse_is_a_turned_circle(major, minor, degrees):
    found = fill_ellipse(np.array([5.0, 3.5]), np.array([major, minor]), degrees, SHAPE)
    inner = minor * (1 - 1e-6)  # pixels that lie on the edge itself are rounded to either side
    circle = fill_ellipse(np.array([5.0, 3.5]), np.array([inner, inner]), 0, SHAPE)
    assert (found >= circle).all() or major < minor
    half_turn = fill_ellipse(np.array([5.0, 3.5]), np.array([major, minor]), degrees + 180, SHAPE)
    assert np.count_nonzero(found != half_turn) <= 2  # rounding at the outline


def test_an_ellipse_without_a_radius_is_empty():
    assert not fill_ellipse(np.array([5.0, 3.5]), np.array([0.0, 3.0]), 0, SHAPE).any()


def test_a_rectangle_turns_about_its_corner():
    upright = fill_rectangle(np.array([2.0, 1.0]), np.array([4.0, 2.0]), 0, SHAPE)
    assert np.argwhere(upright).min(axis=0).tolist() == [1, 2]
    assert np.count_nonzero(upright) == 8
    turned = fill_rectangle(np.array([4.0, 1.0]), np.array([4.0, 2.0]), 90, SHAPE)
    assert np.argwhere(turned).min(axis=0).tolist() == [1, 2]
    assert np.argwhere(turned).max(axis=0).tolist() == [4, 3]


@pytest.mark.parametrize(
    ("corners", "rows", "columns"),
    [
        ([(1.0, 1.0), (3.0, 2.0)], [1], [1, 2]),
        ([(3.2, 2.9), (0.9, 1.1)], [1, 2], [0, 1, 2, 3]),
        ([(4.5, 4.5), (4.5, 4.5)], [4], [4]),
        ([(50.0, 50.0), (60.0, 60.0)], [6], [9]),
        ([(-50.0, -50.0), (-40.0, -40.0)], [0], [0]),
    ],
)
def test_a_box_takes_every_pixel_that_it_touches(corners, rows, columns):
    found = np.argwhere(fill_box(corners, SHAPE))
    assert sorted(set(found[:, 0])) == rows
    assert sorted(set(found[:, 1])) == columns
