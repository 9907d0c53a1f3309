"""The unrolled wall: there and back, in frames of any size, with the classes that lie on it."""

from dataclasses import dataclass, replace
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import Card
from models.config import PipelineConfig
from models.data.sample import Sample
from models.masks.metrics import iou
from models.phantom import render_phantom
from models.pipeline import load_pipeline, save_pipeline
from models.training.augmentation import random_wall_view
from models.training.calibration import calibrate_presence
from models.training.frames import unrolled_frame
from models.wall import (
    DEPTH,
    INWARD,
    RAYS,
    ROWS,
    WallView,
    both_maps,
    both_present,
    depths,
    find_wall,
    roll_up,
    row_of,
    unroll,
)


@dataclass
class Drawn:
    """A sample as calibration needs it."""

    image: np.ndarray
    presence: dict[str, bool]

    def read_image(self) -> np.ndarray:
        return self.image


def disc(shape: tuple[int, int], x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(columns - x, rows - y) <= radius)


def test_rows_and_depths_are_each_others_inverse() -> None:
    assert depths()[0] == pytest.approx(-INWARD)
    assert depths()[-1] == pytest.approx(DEPTH)
    assert np.allclose(row_of(depths()), np.arange(ROWS), atol=1e-2)
    assert row_of(np.array([-INWARD - 0.01, DEPTH + 0.01], np.float32))[0] < 0
    assert (np.diff(depths()) > 0).all()


@settings(max_examples=30, deadline=None)
@given(x=st.floats(180, 320), y=st.floats(180, 320), radius=st.floats(40, 100), side=st.sampled_from([400, 500, 750]))
def test_a_ring_around_any_lumen_comes_back_where_it_was(x: float, y: float, radius: float, side: int) -> None:
    """Half a ring at a depth of 5 to 15 % of the frame's side, unrolled and rolled up again."""
    shape, scale = (side, side), side / 500
    lumen = disc(shape, x * scale, y * scale, radius * scale)
    ring = disc(shape, x * scale, y * scale, radius * scale + 0.15 * side)
    ring &= ~disc(shape, x * scale, y * scale, radius * scale + 0.05 * side)
    ring &= np.mgrid[:side, :side][1] > x * scale
    wall = find_wall(lumen)
    assert wall is not None
    strip = unroll(ring.astype(np.uint8) * 255, wall)
    assert strip.shape == (ROWS, RAYS)
    (values,) = roll_up([(strip / 255).astype(np.float32)], wall, shape)
    back = values >= 0.5
    assert iou(back, ring) > 0.96


def test_thin_layers_take_more_rows_near_the_edge() -> None:
    """0.7 % of the side, as a cap of 65 um, spans over two cells of stride 4; deep in the wall about one."""
    shape = (750, 750)
    wall = find_wall(disc(shape, 375, 375, 120))
    assert wall is not None

    def thickness(depth: float) -> int:
        outer, inner = disc(shape, 375, 375, 120 + depth + 5.2), disc(shape, 375, 375, 120 + depth)
        strip = unroll((outer & ~inner).astype(np.uint8) * 255, wall)
        return int((strip[:, 0] >= 128).sum())

    assert thickness(0) >= 10
    assert thickness(200) <= 6


def test_a_strip_goes_on_across_its_cut() -> None:
    image = np.random.default_rng(0).integers(0, 255, (200, 200, 3)).astype(np.uint8)
    wall = find_wall(disc((200, 200), 100, 100, 40))
    assert wall is not None
    strip = unroll(image, wall, margin=8)
    assert strip.shape == (ROWS, RAYS + 16, 3)
    assert (strip[:, :8] == strip[:, RAYS : RAYS + 8]).all()


@pytest.mark.parametrize("lumen", [np.zeros((50, 60), bool), disc((500, 500), 250, 250, 3)])
def test_without_a_lumen_there_is_no_wall(lumen: np.ndarray) -> None:
    assert find_wall(lumen) is None


def test_the_rays_of_a_crescent_begin_inside_it() -> None:
    crescent = disc((300, 300), 150, 150, 100) & ~disc((300, 300), 200, 150, 95)
    wall = find_wall(crescent)
    assert wall is not None
    assert crescent[round(wall.y), round(wall.x)]


def test_views_of_the_wall_show_masks_where_the_image_shows_them() -> None:
    """The image is its own mask; stretched, mirrored and displaced alike."""
    phantom = render_phantom(3, size=384)
    lumen = phantom.masks["Lumen"].astype(np.uint8) * 255
    core = cv2.circle(np.zeros_like(lumen), (60, 200), 40, 255, cv2.FILLED)
    image = np.asarray(np.repeat(core[..., None], 3, axis=2), dtype=np.uint8)
    masks = np.asarray(np.stack([lumen, core]), dtype=np.uint8)
    frame = unrolled_frame(image, masks, np.ones(2, bool), ("Lumen", "core"), WallView("Lumen", ("core",)))
    assert frame is not None
    assert frame.read.tolist() == [False, True]
    rng = np.random.default_rng(0)
    seen = 0
    for _ in range(20):
        view, masks = random_wall_view(frame, 128, rng, focus=1)
        assert view.shape == (128, 128, 3)
        grey, inside = view[..., 1].astype(float), masks[1] >= 128
        if 200 < inside.sum() < 16000:
            seen += 1
            assert np.median(grey[inside]) > np.median(grey[~inside])
    assert seen > 5


def test_a_pipeline_reads_the_walls_classes_on_the_wall(make_pipeline, tmp_path) -> None:
    """Classes of the wall get other maps than on the frame, the lumen the same; the card keeps the view."""
    pipeline = make_pipeline(("Lumen", "core"))
    frame = render_phantom(5, size=200).image
    presence, (plain,) = pipeline.maps([frame])
    # An untrained network draws nothing that could be a lumen; this makes all of the frame's middle one.
    pipeline.config = replace(pipeline.config, map_threshold={"HiResCAM": {"Lumen": float(np.median(plain[0]))}})
    pipeline.config = replace(pipeline.config, wall=WallView("Lumen", ("core",)))
    on_wall, (maps,) = pipeline.maps([frame])
    assert (maps[0] == plain[0]).all()
    assert on_wall[0, 0] == presence[0, 0]
    assert maps.shape == plain.shape
    assert not (maps[1] == plain[1]).all()
    embedding = pipeline.embed(frame)
    assert np.isfinite(embedding.maps).all()
    save_pipeline(pipeline, tmp_path / "model", Card("m", [], "", ""))
    assert load_pipeline(tmp_path / "model").config.wall == WallView("Lumen", ("core",))


def test_without_a_lumen_the_frame_is_read(make_pipeline) -> None:
    pipeline = make_pipeline(("Lumen", "core"))
    black = np.zeros((64, 64, 3), np.uint8)
    pipeline.config = PipelineConfig(map_threshold={"HiResCAM": {"Lumen": 0.999}})
    presence, (plain,) = pipeline.maps([black])
    pipeline.config = replace(pipeline.config, wall=WallView("Lumen", ("core",)))
    again, (maps,) = pipeline.maps([black])
    assert (again == presence).all()
    assert (maps == plain).all()


def test_a_reader_of_its_own_reads_the_wall(make_pipeline, tmp_path) -> None:
    """Alone, or together with the frame's pass; the checkpoint keeps both."""
    pipeline = make_pipeline(("Lumen", "core"), wall_backbone="tf_efficientnet_lite0")
    frame = render_phantom(5, size=200).image
    presence, (plain,) = pipeline.maps([frame])
    view = WallView("Lumen", ("core",))
    thresholds = {"HiResCAM": {"Lumen": float(np.median(plain[0]))}}
    pipeline.config = replace(pipeline.config, map_threshold=thresholds, wall=view)
    alone, (on_wall,) = pipeline.maps([frame])
    assert not (on_wall[1] == plain[1]).all()
    pipeline.config = replace(pipeline.config, wall=replace(view, alone=False))
    both, (together,) = pipeline.maps([frame])
    assert np.allclose(together[1], both_maps(plain[1], on_wall[1]))
    assert np.allclose(both[0, 1], both_present(presence[0, 1], alone[0, 1]))
    save_pipeline(pipeline, tmp_path / "model", Card("m", [], "", ""))
    loaded = load_pipeline(tmp_path / "model")
    assert loaded.config.wall == replace(view, alone=False)
    kept = loaded.classifier.wall_reader
    assert kept is not None
    assert torch.allclose(kept.head.weight, pipeline.classifier.wall_reader.head.weight, atol=1e-3)
    with torch.no_grad():
        pipeline.classifier.wall_reader.head.weight += 1.0
    assert not (pipeline.maps([frame])[1][0][1] == together[1]).all()


def test_presence_of_a_reader_of_its_own_is_calibrated_too(make_pipeline) -> None:
    """Frames with an object on the wall are told from others by both classifiers, whose lines are fitted one by one."""
    pipeline = make_pipeline(("Lumen", "core"), wall_backbone="tf_efficientnet_lite0")
    frames = [render_phantom(seed, size=128).image for seed in range(6)]
    _, (plain,) = pipeline.maps(frames[:1])
    thresholds = {"HiResCAM": {"Lumen": float(np.median(plain[0]))}}
    wall = WallView("Lumen", ("core",), alone=False)
    pipeline.config = replace(pipeline.config, map_threshold=thresholds, wall=wall)
    samples = [cast("Sample", Drawn(frame, {"Lumen": True, "core": i % 2 == 0})) for i, frame in enumerate(frames)]
    calibrate_presence(pipeline, samples)
    for reader in pipeline.classifier.readers:
        assert reader.gain[1] != 1
        assert reader.bias[1] != 0
        assert reader.gain[0] == 1  # on all frames: nothing says where to draw the line
