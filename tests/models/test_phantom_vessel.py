"""OCT phantoms by the physics of light: exact, as difficult as asked, in numbered styles."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import DataError
from models.phantom import STYLES, render_vessel, style_of, write_phantoms
from models.phantom.vessel.optics import scattered_power, speckled
from models.phantom.vessel.style import Style, sample_style

SIZE = 192


def test_the_cap_lies_between_lumen_and_lipid_core():
    """Seen from the catheter, every beam through the cap meets lumen before it and core behind it."""
    for seed in range(60):
        masks = render_vessel(seed, SIZE).masks
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
