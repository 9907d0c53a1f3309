"""Synthetic projects beside OCT: leaves, surfaces, ultrasound. Odd sizes, tiny objects, a rare class."""

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from backend.cli import cli
from models.data.reader import open_data_folder
from models.phantom import KINDS, Phantom, write_phantoms
from models.phantom.leaf import render_leaf

OTHERS = [kind for kind in KINDS if kind not in ("oct", "vessel")]
SEEDS = range(16)
SIZE = 300


@lru_cache
def rendered(kind: str, seed: int, difficulty: float = 0.5) -> Phantom:
    if kind == "leaf":
        return render_leaf(seed, SIZE, difficulty, holes=True)
    return KINDS[kind].render(seed, SIZE, difficulty)


@pytest.mark.parametrize("kind", OTHERS)
def test_same_seed_gives_the_same_bytes(kind):
    first, second = (KINDS[kind].render(7, 120, 0.5) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert {label: mask.tobytes() for label, mask in first.masks.items()} == {
        label: mask.tobytes() for label, mask in second.masks.items()
    }


@pytest.mark.parametrize("kind", OTHERS)
def test_masks_have_the_images_shape_and_known_classes(kind):
    for seed in SEEDS:
        phantom = rendered(kind, seed)
        assert phantom.image.dtype == np.uint8
        assert max(phantom.image.shape) <= SIZE
        assert set(phantom.masks) <= set(KINDS[kind].classes)
        for mask in phantom.masks.values():
            assert mask.dtype == np.bool_
            assert mask.shape == phantom.image.shape[:2]
            assert mask.any()


@pytest.mark.parametrize("kind", OTHERS)
def test_sizes_and_proportions_differ(kind):
    shapes = [rendered(kind, seed).image.shape[:2] for seed in SEEDS]
    assert len(set(shapes)) == len(SEEDS)
    assert any(height > width for height, width in shapes)
    assert max(max(shape) / min(shape) for shape in shapes) > 1.3


@pytest.mark.parametrize("kind", OTHERS)
def test_difficulty_leaves_the_truth_alone(kind):
    for seed in range(4):
        easy, hard = rendered(kind, seed, 0.0), rendered(kind, seed, 1.0)
        assert easy.masks.keys() == hard.masks.keys()
        assert all(np.array_equal(easy.masks[label], hard.masks[label]) for label in easy.masks)
        assert not np.array_equal(easy.image, hard.image)


def test_a_leaf_holds_its_lesions_and_not_its_holes():
    for seed in SEEDS:
        masks = rendered("leaf", seed).masks
        assert not (masks["Leaf"] & masks["Hole"]).any()
        for label in ("Blight", "Rust"):
            assert not (masks.get(label, False) & ~masks["Leaf"]).any()


def test_surfaces_and_ultrasound_are_grey():
    for kind in ("surface", "ultrasound"):
        image = rendered(kind, 0).image
        assert (image == image[..., :1]).all()


def test_a_third_of_the_surfaces_have_no_defect():
    shown = [bool(KINDS["surface"].render(seed, 96, 0.0).masks) for seed in range(100)]
    assert 0.45 < np.mean(shown) < 0.8


@pytest.mark.parametrize(
    ("kind", "label", "most"),
    [
        ("leaf", "Rust", 0.01), ("surface", "Scratch", 0.01), ("surface", "Pit", 0.01), ("surface", "Crack", 0.015),
        ("ultrasound", "Cyst", 0.02),
    ],
)  # fmt: skip
def test_small_objects_are_small(kind, label, most):
    areas = [p.masks[label].mean() for p in (rendered(kind, seed) for seed in SEEDS) if label in p.masks]
    assert len(areas) >= 3
    assert np.median(areas) < most


@pytest.mark.parametrize(
    ("kind", "label"), [(k, label) for k in OTHERS for label in KINDS[k].classes if label != "Leaf"]
)
def test_no_band_of_a_colour_finds_a_class(kind, label):
    """The best band of any channel, chosen knowing the truth, stays below an IoU of 0.35."""
    shown = [phantom for phantom in (rendered(kind, seed) for seed in SEEDS) if label in phantom.masks]
    edges = np.linspace(0, 256, 33)
    for channel in range(4):
        values = [
            cv2.cvtColor(p.image, cv2.COLOR_RGB2HSV)[..., 0] if channel == 3 else p.image[..., channel] for p in shown
        ]
        everywhere = np.array([np.histogram(v, edges)[0].cumsum() for v in values])
        inside = np.array(
            [np.histogram(v[p.masks[label]], edges)[0].cumsum() for v, p in zip(values, shown, strict=True)]
        )
        for low in range(32):
            drawn = everywhere[:, low:] - (everywhere[:, low - 1 : low] if low else 0)
            hit = inside[:, low:] - (inside[:, low - 1 : low] if low else 0)
            overlap = hit / (drawn + inside[:, -1:] - hit)
            assert overlap.mean(axis=0).max() < 0.35


def test_a_folder_has_the_rare_class_on_three_images_of_both_splits(tmp_path: Path):
    write_phantoms(tmp_path / "leaves", 12, seed=1, size=96, kind="leaf")
    folder = open_data_folder(tmp_path / "leaves")
    assert folder.classes == ("Leaf", "Blight", "Rust", "Hole")
    assert all(sample.presence["Leaf"] for sample in folder.samples.values())
    assert [sum(sample.presence["Hole"] for sample in folder.split(name)) for name in ("train", "val")] == [2, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_writes_every_kind(kind, tmp_path: Path):
    arguments = ["phantom", "--kind", kind, "--out", str(tmp_path / "d"), "--count", "2", "--size", "80"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    folder = open_data_folder(tmp_path / "d")
    assert folder.classes == KINDS[kind].classes
    assert len(folder.samples) == 2


@pytest.mark.parametrize(("kind", "dimensions"), [("leaf", 3), ("surface", 2), ("ultrasound", 2)])
def test_grey_pictures_are_stored_grey(kind, dimensions, tmp_path: Path):
    write_phantoms(tmp_path / "d", 1, seed=0, size=64, kind=kind)
    assert cv2.imread(str(tmp_path / "d" / "images" / "phantom-00001.png"), cv2.IMREAD_UNCHANGED).ndim == dimensions
