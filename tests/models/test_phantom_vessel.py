"""OCT phantoms by the physics of light: exact, as difficult as asked, in numbered styles."""

import itertools
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import DataError
from models.phantom import CLASSES, STYLES, Phantom, render_vessel, style_of, write_phantoms
from models.phantom.vessel.optics import scattered_power, speckled
from models.phantom.vessel.style import Style, sample_style

SIZE = 192


@lru_cache
def rendered(seed: int, difficulty: float = 0.5) -> Phantom:
    return render_vessel(seed, SIZE, difficulty)


def test_same_seed_gives_the_same_bytes():
    first, second = render_vessel(7, SIZE), render_vessel(7, SIZE)
    assert first.image.tobytes() == second.image.tobytes()
    assert {label: mask.tobytes() for label, mask in first.masks.items()} == {
        label: mask.tobytes() for label, mask in second.masks.items()
    }


def test_another_seed_gives_another_frame():
    assert not np.array_equal(rendered(1).image, rendered(2).image)


@pytest.mark.parametrize("size", [64, 175, 512])
def test_image_is_rgb_bytes_and_masks_are_bool_in_the_same_size(size: int):
    phantom = render_vessel(3, size)
    assert phantom.image.shape == (size, size, 3)
    assert phantom.image.dtype == np.uint8
    for mask in phantom.masks.values():
        assert mask.shape == (size, size)
        assert mask.dtype == np.bool_


def test_only_known_classes_are_listed_and_each_has_pixels():
    for seed in range(60):
        masks = rendered(seed).masks
        assert set(masks) <= set(CLASSES)
        assert all(mask.any() for mask in masks.values())


def test_classes_never_share_a_pixel():
    for seed in range(60):
        for first, second in itertools.combinations(rendered(seed).masks.values(), 2):
            assert not (first & second).any()


def test_lumen_is_on_every_frame_and_the_others_on_some():
    frames = 120
    counts = {label: sum(label in rendered(seed).masks for seed in range(frames)) for label in CLASSES}
    assert counts["Lumen"] == frames
    assert counts["Fibrous cap"] == counts["Lipid core"]
    for label in CLASSES[1:]:
        assert 0.3 * frames < counts[label] < 0.6 * frames, counts


def test_the_cap_lies_between_lumen_and_lipid_core():
    """Seen from the catheter, every beam through the cap meets lumen before it and core behind it."""
    for seed in range(60):
        masks = rendered(seed).masks
        if "Lipid core" not in masks:
            continue
        middle = ((SIZE - 1) / 2, (SIZE - 1) / 2)
        polar = {
            label: cv2.warpPolar(
                masks[label].astype(np.uint8), (SIZE, 360), middle, SIZE * 0.75, cv2.WARP_FILL_OUTLIERS
            )
            > 0
            for label in ("Lumen", "Fibrous cap", "Lipid core")
        }  # (beams, samples)
        first = {label: np.where(mask.any(axis=1), mask.argmax(axis=1), -1) for label, mask in polar.items()}
        cap, core = first["Fibrous cap"], first["Lipid core"]
        both = (cap >= 0) & (core >= 0)
        assert both.sum() > 0.8 * (core >= 0).sum()
        assert (cap[both] < core[both]).mean() > 0.98  # but for a pixel's breadth at steep edges
        assert polar["Lumen"][:, 1].all()


def test_masks_agree_across_sizes():
    """The outlines are evaluated at each size's own pixels, so a bigger frame shows the same anatomy."""
    small, large = render_vessel(11, 128).masks, render_vessel(11, 512).masks
    assert small["Lumen"].mean() == pytest.approx(large["Lumen"].mean(), rel=0.02)


def test_difficulty_leaves_the_truth_alone():
    for seed in range(10):
        easy, hard = rendered(seed, 0.0), rendered(seed, 1.0)
        assert easy.masks.keys() == hard.masks.keys()
        assert all(np.array_equal(easy.masks[label], hard.masks[label]) for label in easy.masks)
        assert not np.array_equal(easy.image, hard.image)


def contrast_to_noise(phantom: Phantom, label: str) -> float:
    """|mean inside - mean of the tissue around| over their joint deviation, in grey."""
    grey = cv2.cvtColor(phantom.image, cv2.COLOR_RGB2GRAY).astype(float)
    inside = phantom.masks[label]
    if label == "Lipid core":  # against its cap: behind the same lumen, in the same light
        around = phantom.masks["Fibrous cap"]
    else:
        near = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) > 0
        around = near & ~np.any(list(phantom.masks.values()), axis=0)
    spread = np.sqrt((grey[inside].var() + grey[around].var()) / 2)
    return float(abs(grey[inside].mean() - grey[around].mean()) / max(spread, 1e-6))


@pytest.mark.parametrize("label", ["Lipid core", "Vasa vasorum"])
def test_difficulty_lowers_the_contrast_to_noise_step_by_step(label: str):
    seeds = list(itertools.islice((seed for seed in itertools.count() if label in rendered(seed).masks), 20))
    ratios = [
        np.mean([contrast_to_noise(rendered(seed, difficulty), label) for seed in seeds])
        for difficulty in (0.0, 0.5, 1.0)
    ]
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[0] > 1.4 * ratios[2]


@pytest.mark.parametrize(("seed", "size", "difficulty"), [(-1, 128, 0.5), (0, 63, 0.5), (0, 128, 1.01)])
def test_arguments_out_of_range_are_named(seed: int, size: int, difficulty: float):
    with pytest.raises(ValueError, match="need seed >= 0, size >= 64"):
        render_vessel(seed, size, difficulty)


def test_a_seed_has_a_style_and_can_be_shown_in_another():
    own = style_of(7)
    assert render_vessel(7, 96, style=own).image.tobytes() == render_vessel(7, 96).image.tobytes()
    other = render_vessel(7, 96, style=(own + 1) % STYLES)
    assert not np.array_equal(other.image, render_vessel(7, 96).image)
    assert {style_of(seed) for seed in range(10 * STYLES)} == set(range(STYLES))
    with pytest.raises(ValueError, match=f"need 0 <= style < {STYLES}"):
        render_vessel(7, 96, style=STYLES)


def test_styles_differ_in_all_that_makes_a_series():
    styles = [sample_style(index) for index in range(STYLES)]
    for name in ("half_width", "span", "white", "black", "axial", "lateral", "focus", "rolloff", "blur", "core_depth"):
        assert len({getattr(style, name) for style in styles}) == STYLES
    for name in ("looks", "chord", "core_end", "plane", "quarters", "bar"):
        assert len({getattr(style, name) for style in styles}) > 1
    assert len({style.colours.tobytes() for style in styles}) > STYLES / 2


def test_a_folder_keeps_to_the_styles_it_was_asked_for(tmp_path: Path):
    for name, styles in (("a", [3]), ("b", [3, 3]), ("c", [4])):
        write_phantoms(tmp_path / name, 2, seed=1, size=64, kind="vessel", styles=styles)
    a, b, c = ([path.read_bytes() for path in sorted((tmp_path / name / "images").iterdir())] for name in "abc")
    assert a == b
    assert not set(a) & set(c)
    with pytest.raises(DataError, match="styles"):
        write_phantoms(tmp_path / "d", 1, seed=0, kind="leaf", styles=[3])


def optics(backscatter: float, attenuation: float, style: Style) -> tuple[np.ndarray, np.ndarray]:
    """Power and depth of homogeneous tissue, (2, 400) and (1, 400), 0 to 2 mm."""
    radius = (np.arange(400, dtype=np.float32)[None] + 0.5) / 200
    tissue = np.ones((2, 400), dtype=np.float32)
    rng = np.random.default_rng(1)
    return scattered_power(backscatter * tissue, attenuation * tissue, radius, style, rng), radius


def test_light_is_lost_twice_on_its_way_through_tissue():
    """I(z) = b exp(-2 mu z): a decibel more of backscatter everywhere, and the slope that attenuation says."""
    style = sample_style(0)
    power, depth = optics(0, 5, style)
    brighter, _ = optics(3, 5, style)
    assert brighter == pytest.approx(power * 10**0.3, rel=1e-3)
    clear, _ = optics(0, 0, style)
    near = depth[0] < 0.3
    slope = np.polyfit(depth[0, near], np.log(power[0, near] / clear[0, near]), 1)[0]
    assert -10.1 < slope < -7.5  # the rest was scattered more than once


def test_speckle_is_fully_developed():
    """One look of a uniform field has a contrast of 1, four have half of it; the mean power is the field's."""
    for looks in (1, 4):
        style = replace(sample_style(0), looks=looks)
        seen = [speckled(np.ones((512, 256), np.float32), 0.01, style, np.random.default_rng(i), 1.0) for i in range(8)]
        assert np.mean(seen) == pytest.approx(1.01, rel=0.03)
        assert np.mean([s.std() / s.mean() for s in seen]) == pytest.approx(looks**-0.5, rel=0.15)
