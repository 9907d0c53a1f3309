import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.checkpoint import read_card
from models.starter import STARTERS
from models.trimap import (
    BACKGROUND,
    FOREGROUND,
    GRIDS,
    SIZE,
    UNKNOWN,
    TrimapConfig,
    coarse_mask,
    grid_of,
    trimap_config,
    trimap_from_mask,
)

CONFIG = TrimapConfig()


def disc(radius, centre=(512, 512)):
    mask = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(mask, centre, radius, 1, -1)
    return mask


def radii(trimap, row=512):
    """Lengths of the foreground and of the foreground plus unknown along the middle row."""
    return (trimap[row] == FOREGROUND).sum(), (trimap[row] != BACKGROUND).sum()


def test_band_of_a_disc_has_the_configured_width():
    """A disc of radius 100 has a band of 0.3 x 100 on both sides."""
    inner, outer = radii(trimap_from_mask(disc(100), CONFIG))
    assert abs(inner - 2 * 70) <= 4
    assert abs(outer - 2 * 130) <= 4


def test_each_object_has_a_band_of_its_own_size():
    mask = disc(120, (300, 300)) | disc(20, (800, 800))
    trimap = trimap_from_mask(mask, CONFIG)
    large, small = trimap[:550, :550], trimap[650:, 650:]
    assert (large == UNKNOWN).sum() > 10 * (small == UNKNOWN).sum()
    assert (small == FOREGROUND).any()


@pytest.mark.parametrize("radius", [1, 2, 5, 20, 400])
def test_no_object_loses_its_foreground(radius):
    assert (trimap_from_mask(disc(radius), CONFIG) == FOREGROUND).any()


def test_nothing_in_nothing_out():
    assert (trimap_from_mask(np.zeros((SIZE, SIZE), np.uint8), CONFIG) == BACKGROUND).all()


def test_a_full_frame_is_all_foreground():
    trimap = trimap_from_mask(np.ones((SIZE, SIZE), np.uint8), CONFIG)
    assert (trimap == FOREGROUND).all()


def test_a_single_pixel_is_an_object_too():
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[512, 512] = 1
    trimap = trimap_from_mask(mask, CONFIG)
    assert trimap[512, 512] == FOREGROUND
    assert radii(trimap) == (1, 21)  # the least band, 10 pixels on both sides


@pytest.mark.parametrize("turns", range(4))
def test_the_frames_edge_is_no_edge_of_an_object(turns):
    """A half disc at the frame's edge is surely itself there, and has a band on its round side only."""
    trimap = np.rot90(trimap_from_mask(np.ascontiguousarray(np.rot90(disc(200, (0, 512)), turns)), CONFIG), -turns)
    assert (trimap[400:624, 0] == FOREGROUND).all()
    assert trimap[512, 150] == FOREGROUND
    assert (trimap[512, 165:235] == UNKNOWN).all()
    assert trimap[512, 250] == BACKGROUND


def test_a_hole_has_a_band_of_its_own_and_a_small_one_is_unknown():
    mask = disc(300) - disc(100)
    trimap = trimap_from_mask(mask, CONFIG)
    assert trimap[512, 512] == BACKGROUND
    assert trimap[512, 512 + 95] == trimap[512, 512 + 105] == UNKNOWN
    assert trimap[512, 512 + 200] == FOREGROUND
    assert trimap_from_mask(disc(300) - disc(5), CONFIG)[512, 512] == UNKNOWN


def test_bands_of_neighbours_meet():
    """Two objects closer than their bands share one unknown zone, and keep a core each."""
    trimap = trimap_from_mask(disc(60, (440, 512)) | disc(60, (570, 512)), CONFIG)
    assert (trimap[512, 490:521] == UNKNOWN).all()
    assert trimap[512, 440] == trimap[512, 570] == FOREGROUND


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint8, (24, 24), elements=st.integers(0, 1)))
def test_the_sure_pixels_are_right_about_the_mask(small):
    """For any mask: foreground lies inside it, background outside, and every object keeps some foreground."""
    mask = cv2.resize(small, (192, 192), interpolation=cv2.INTER_NEAREST)
    trimap = trimap_from_mask(mask, CONFIG)
    assert mask[trimap == FOREGROUND].all()
    assert not mask[trimap == BACKGROUND].any()
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    assert set(labels[trimap == FOREGROUND]) == set(range(1, count))


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint8, (24, 24), elements=st.integers(0, 1)), st.floats(0.05, 0.5), st.floats(1.0, 2.0))
def test_widening_the_band_only_adds_unknown_pixels(small, band, factor):
    mask = cv2.resize(small, (192, 192), interpolation=cv2.INTER_NEAREST)
    narrow = trimap_from_mask(mask, TrimapConfig(band=band, band_min=2, band_max=100))
    wide = trimap_from_mask(mask, TrimapConfig(band=band * factor, band_min=2, band_max=100))
    assert ((wide == UNKNOWN) | (narrow != UNKNOWN)).all()


@settings(max_examples=25, deadline=None)
@given(arrays(np.float32, (16, 16), elements=st.floats(0, 1, width=32)))
def test_a_coarse_mask_lies_near_its_map(cam):
    """Opening and closing move the edge by no more than their kernels."""
    mask = coarse_mask(cam, 0.5, CONFIG)
    resized = cv2.resize(cam, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) >= 0.5
    assert mask.shape == (SIZE, SIZE)
    assert not (mask.astype(bool) & ~cv2.dilate(resized.astype(np.uint8), np.ones((121, 121))).astype(bool)).any()


@pytest.mark.parametrize("side", [slice(None), slice(0, 64), slice(64, None)])
def test_smoothing_rounds_no_corner_at_the_frames_edge(side):
    """All foreground, or half of the frame: there is nothing to open or close where the frame ends."""
    cam = np.zeros((128, 128), np.float32)
    cam[side] = 1
    assert (coarse_mask(cam, 0.5, CONFIG) == (cv2.resize(cam, (SIZE, SIZE)) >= 0.5)).all()


def test_small_holes_close_and_large_ones_stay():
    cam = cv2.resize((disc(300) - disc(100) - disc(6, (312, 512))).astype(np.float32), (512, 512))
    mask = coarse_mask(cam, 0.5, CONFIG)
    assert mask[512, 512] == 0
    assert mask[512, 312] == 1


def test_small_components_are_dropped_and_objects_stay():
    cam = np.zeros((128, 128), np.float32)
    cam[40:80, 40:80] = 1
    cam[5, 5] = 1
    mask = coarse_mask(cam, 0.5, CONFIG)
    assert cv2.connectedComponents(mask)[0] == 2


@pytest.mark.parametrize("size", GRIDS)
def test_a_coarser_grid_gives_the_same_trimap_at_its_scale(size):
    """Widths keep their meaning: a large object, a small one, and one that is too small on any grid."""
    shapes = disc(200, (600, 420)) | disc(24, (200, 800)) | disc(5, (100, 100))
    cam = cv2.GaussianBlur(cv2.resize(shapes.astype(np.float32), (256, 256), interpolation=cv2.INTER_AREA), (0, 0), 1)
    fine = trimap_from_mask(coarse_mask(cam, 0.5, CONFIG), CONFIG)
    coarse = trimap_from_mask(coarse_mask(cam, 0.5, CONFIG, size), CONFIG.on_grid(size))
    assert coarse.shape == (size, size)
    enlarged = cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST)
    for value in (UNKNOWN, FOREGROUND):
        one, other = fine == value, enlarged == value
        assert (one & other).sum() / (one | other).sum() > 0.93
    assert cv2.connectedComponents((coarse > 0).astype(np.uint8))[0] == 3


def test_an_image_gets_a_grid_no_coarser_than_itself():
    assert [grid_of(*shape) for shape in [(1, 1), (512, 100), (513, 512), (768, 768), (769, 1), (4000, 4000)]] == [
        512, 512, 768, 768, 1024, 1024,
    ]  # fmt: skip


@pytest.mark.parametrize(("cam", "threshold"), [(np.zeros(3, np.float32), 0.5), (np.zeros((4, 4), np.float32), 1.0)])
def test_what_is_no_map_or_threshold_is_refused(cam, threshold):
    with pytest.raises(ValueError, match="must"):
        coarse_mask(cam, threshold, CONFIG)


def test_cards_of_earlier_releases_are_read():
    """They call the smallest component `speck`, the shipped ones among them."""
    for folder in STARTERS.values():
        values = read_card(folder).config["pipeline"]["trimap"]
        assert trimap_config(values).min_component == values.get("speck", values.get("min_component"))
    assert trimap_config({"min_component": 0.001, "band": 0.2}) == TrimapConfig(min_component=0.001, band=0.2)
    with pytest.raises(TypeError, match="width"):
        trimap_config({"width": 1.0})
