"""Work near the objects only gives what work on the whole grid gives, to the last pixel."""

from unittest.mock import patch

import cv2
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.masks.components import connected_components, without_small_components
from models.masks.morphology import dilated, eroded
from models.refiner import network_input
from models.trimap import GRIDS, TrimapConfig, coarse_mask, trimap_from_mask
from models.wall import RAYS, Wall, find_wall, roll_up
from tests.models import whole_grid

SIDES = st.integers(1, 40)
SMALL_MASKS = st.tuples(SIDES, SIDES).flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 1)))
CONFIGS = st.builds(
    TrimapConfig,
    smoothing=st.sampled_from([0.0, 0.05, 0.1, 0.3]),
    band=st.floats(0.05, 0.6),
    band_min=st.sampled_from([1.0, 4.5, 10.0]),
    band_max=st.sampled_from([10.0, 25.0, 40.0]),
    core=st.sampled_from([0.3, 0.6, 0.9]),
    min_component=st.sampled_from([0.0, 2e-4, 3e-3]),
)


@st.composite
def scenes(draw, side):
    """Discs, rings, bars and dots anywhere on a grid, also over its border; some are cut out again."""
    mask = np.zeros((side, side), np.uint8)
    for _ in range(draw(st.integers(0, 6))):
        value = draw(st.sampled_from([1, 1, 1, 0]))
        x, y = draw(st.integers(-20, side + 20)), draw(st.integers(-20, side + 20))
        radius = draw(st.sampled_from([0, 1, 3, 9, 30, 90, 200]))
        kind = draw(st.sampled_from(["disc", "ring", "bar"]))
        if kind == "bar":
            mask[max(y, 0) : max(y + radius + 1, 0), max(x, 0) : max(x + 7 * radius + 1, 0)] = value
        else:
            cv2.circle(mask, (x, y), radius, value, -1 if kind == "disc" else max(radius // 6, 1))
    return mask


@settings(max_examples=200, deadline=None)
@given(SMALL_MASKS, st.floats(0, 12, width=32))
@example(np.eye(9, dtype=np.uint8), 3.0)
@example(np.ones((5, 7), np.uint8), 2.5)
def test_discs_reach_exactly_as_far_as_they_should(mask, radius):
    assert np.array_equal(dilated(mask, radius), whole_grid.dilated(mask, radius))
    assert np.array_equal(eroded(mask, radius), whole_grid.eroded(mask, radius))


@settings(max_examples=25, deadline=None)
@given(scenes(side=400), CONFIGS)
def test_a_trimap_is_that_of_the_whole_grid(mask, config):
    assert np.array_equal(trimap_from_mask(mask, config), whole_grid.trimap_from_mask(mask, config))


def three_of_which_two_are_neighbours():
    """The box around the two neighbours holds the third, which is further from both than their bands reach."""
    mask = np.zeros((30, 30), np.uint8)
    mask[2, 2] = mask[8, 8] = mask[2, 8] = 1
    return mask


@settings(max_examples=25, deadline=None)
@given(SMALL_MASKS, CONFIGS, st.sampled_from([4, 11, 37]))
@example(three_of_which_two_are_neighbours(), TrimapConfig(band_min=1.0, band_max=10.0), 4)
@example(three_of_which_two_are_neighbours(), TrimapConfig(band_min=1.0, band_max=10.0), 3)
def test_a_trimap_of_noise_is_that_of_the_whole_grid(small, config, factor):
    """Dozens of objects whose bands meet, of every shape."""
    mask = small.repeat(factor, axis=0).repeat(factor, axis=1)
    assert np.array_equal(trimap_from_mask(mask, config), whole_grid.trimap_from_mask(mask, config))


@settings(max_examples=12, deadline=None)
@given(
    scenes(side=256),
    st.sampled_from([(256, 256), (128, 128), (97, 255), (512, 300), (768, 768)]),
    CONFIGS,
    st.sampled_from(GRIDS),
)
def test_a_coarse_mask_is_that_of_the_whole_grid(scene, shape, config, size):
    height, width = shape
    cam = cv2.GaussianBlur(cv2.resize(scene.astype(np.float32), (width, height)), (0, 0), 2)
    found = coarse_mask(cam, 0.5, config, size)
    assert np.array_equal(found, whole_grid.coarse_mask(cam, 0.5, config, size))


@settings(max_examples=200, deadline=None)
@given(SMALL_MASKS, st.floats(0, 1))
def test_small_components_are_those_of_the_whole_frame(mask, share):
    mask = mask.astype(bool)
    found = without_small_components(mask, share)
    assert np.array_equal(found, whole_grid.without_small_components(mask, share))


@settings(max_examples=50, deadline=None)
@given(scenes(side=200), st.floats(0, 0.2))
def test_small_components_of_scenes_are_those_of_the_whole_frame(mask, share):
    """Pieces of background at the frame's border belong together only where the frame connects them."""
    mask = mask.astype(bool)
    found = without_small_components(mask, share)
    assert np.array_equal(found, whole_grid.without_small_components(mask, share))


@settings(max_examples=100, deadline=None)
@given(SMALL_MASKS, st.sampled_from([4, 8]))
def test_components_are_those_of_the_whole_frame(mask, connectivity):
    """Numbers, boxes and areas: OpenCV's own, of the whole frame."""
    labels, found = connected_components(mask, connectivity)
    _, expected, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity)
    assert np.array_equal(labels, expected)
    assert [tuple(component[1:]) for component in found] == [tuple(row) for row in stats[1:].tolist()]


@settings(max_examples=40, deadline=None)
@given(scenes(side=160))
def test_a_wall_is_found_where_all_of_the_frame_would_show_it(mask):
    """The largest object's edge, looked for no further than it reaches."""
    wall = find_wall(mask > 0)
    if wall is None:
        return
    labels, found = connected_components(mask)
    largest = max(found, key=lambda component: component.area)
    own = (labels == largest.number).astype(np.uint8)
    with patch("models.wall._smooth", lambda edge: edge.astype(np.float32)):
        unsmoothed = find_wall(mask > 0)
    # Places on a ray are rounded to pixels: one that grazes a corner may fall on either side of it.
    assert (unsmoothed.edge == whole_grid.edge_of(own, wall.x, wall.y).astype(np.float32)).mean() > 0.99


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_maps_that_are_rolled_up_together_are_those_of_each_alone(data):
    height, width = data.draw(SIDES) * 4, data.draw(SIDES) * 4
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    side = max(height, width)
    wall = Wall(rng.uniform(0, width), rng.uniform(0, height), rng.uniform(1, side / 3, RAYS).astype(np.float32), side)
    strips = list(rng.random((data.draw(st.integers(0, 3)), 16, 48), dtype=np.float32))
    shape = (height * 2, width * 2) if data.draw(st.booleans()) else (height, width)
    together = roll_up(strips, wall, shape)
    assert len(together) == len(strips)
    for strip, found in zip(strips, together, strict=True):
        assert np.array_equal(found, whole_grid.roll_up(strip, wall, shape))


@settings(max_examples=50, deadline=None)
@given(arrays(np.uint8, (32, 32), elements=st.sampled_from([0, 128, 255])), st.sampled_from([None, 0, 128, 255]))
def test_what_fbanet_reads_is_that_of_each_plane_alone(trimap, everywhere):
    trimap = trimap if everywhere is None else np.full_like(trimap, everywhere)
    rng = np.random.default_rng(0)
    crop, cam = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8), rng.random((32, 32), dtype=np.float32)
    assert np.array_equal(network_input(crop, trimap, cam), whole_grid.network_input(crop, trimap, cam))
