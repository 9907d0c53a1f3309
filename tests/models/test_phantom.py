"""Phantoms: reproducible, exact, and as difficult as asked."""

import itertools
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.errors import DataError
from models.phantom import CLASSES, Phantom, render_phantom, render_vessel, write_phantoms

SIZE = 192
Render = Callable[..., Phantom]


@pytest.fixture(params=[render_phantom, render_vessel])
def render(request: pytest.FixtureRequest) -> Render:
    """Each renderer of OCT frames, for the laws that both keep."""
    return request.param


@lru_cache
def rendered(seed: int, difficulty: float = 0.5, render: Render = render_phantom) -> Phantom:
    return render(seed, SIZE, difficulty)


def test_same_seed_gives_the_same_bytes(render: Render):
    first, second = render(7, SIZE), render(7, SIZE)
    assert first.image.tobytes() == second.image.tobytes()
    assert {label: mask.tobytes() for label, mask in first.masks.items()} == {
        label: mask.tobytes() for label, mask in second.masks.items()
    }


def test_another_seed_gives_another_frame(render: Render):
    assert not np.array_equal(rendered(1, render=render).image, rendered(2, render=render).image)


@pytest.mark.parametrize("size", [64, 175, 512])
def test_image_is_rgb_bytes_and_masks_are_bool_in_the_same_size(render: Render, size: int):
    phantom = render(3, size)
    assert phantom.image.shape == (size, size, 3)
    assert phantom.image.dtype == np.uint8
    for mask in phantom.masks.values():
        assert mask.shape == (size, size)
        assert mask.dtype == np.bool_


def test_only_known_classes_are_listed_and_each_has_pixels(render: Render):
    for seed in range(60):
        masks = rendered(seed, render=render).masks
        assert set(masks) <= set(CLASSES)
        assert all(mask.any() for mask in masks.values())


def test_classes_never_share_a_pixel(render: Render):
    for seed in range(60):
        for first, second in itertools.combinations(rendered(seed, render=render).masks.values(), 2):
            assert not (first & second).any()


def test_lumen_is_on_every_frame_and_the_others_on_some(render: Render):
    frames = 120
    counts = {label: sum(label in rendered(seed, render=render).masks for seed in range(frames)) for label in CLASSES}
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
        radius = np.hypot(*(np.indices((SIZE, SIZE)) - (SIZE - 1) / 2))
        touching = cv2.dilate(masks["Fibrous cap"].astype(np.uint8), np.ones((3, 3))) > 0
        assert (touching & masks["Lumen"]).any()
        assert (touching & masks["Lipid core"]).any()
        assert radius[masks["Fibrous cap"]].mean() < radius[masks["Lipid core"]].mean()


def test_masks_agree_across_sizes(render: Render):
    """The outlines are evaluated at each size's own pixels, so a bigger frame shows the same anatomy."""
    small, large = render(11, 128).masks, render(11, 512).masks
    assert small["Lumen"].mean() == pytest.approx(large["Lumen"].mean(), rel=0.02)


def test_difficulty_leaves_the_truth_alone(render: Render):
    for seed in range(10):
        easy, hard = rendered(seed, 0.0, render=render), rendered(seed, 1.0, render=render)
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
def test_difficulty_lowers_the_contrast_to_noise_step_by_step(render: Render, label: str):
    shown = (seed for seed in itertools.count() if label in rendered(seed, render=render).masks)
    seeds = list(itertools.islice(shown, 20))
    ratios = [
        np.mean([contrast_to_noise(rendered(seed, difficulty, render=render), label) for seed in seeds])
        for difficulty in (0.0, 0.5, 1.0)
    ]
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[0] > 1.4 * ratios[2]


@pytest.mark.parametrize(("seed", "size", "difficulty"), [(-1, 128, 0.5), (0, 63, 0.5), (0, 128, 1.01)])
def test_arguments_out_of_range_are_named(render: Render, seed: int, size: int, difficulty: float):
    with pytest.raises(ValueError, match="need seed >= 0, size >= 64"):
        render(seed, size, difficulty)


def test_data_folder_holds_images_masks_classes_and_split(tmp_path: Path):
    out = tmp_path / "phantoms"
    seen: list[tuple[int, int]] = []
    write_phantoms(out, 8, seed=5, size=96, progress=lambda done, count: seen.append((done, count)))

    names = [f"phantom-{number:05d}" for number in range(1, 9)]
    assert sorted(path.stem for path in (out / "images").iterdir()) == names
    assert (out / "classes.txt").read_text().splitlines() == list(CLASSES)
    assert json.loads((out / "split.json").read_text()) == {"train": names[:6], "val": names[6:]}
    assert seen == [(done, 8) for done in range(1, 9)]
    assert [path.name for path in tmp_path.iterdir()] == ["phantoms"]
    for path in (out / "masks").glob("*/*.png"):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (96, 96)
        assert set(np.unique(mask)) == {0, 255}
        assert path.parent.name in CLASSES
        assert path.stem in names
    assert len(list((out / "masks" / "Lumen").iterdir())) == 8


def test_data_folder_is_reproducible_and_seeds_share_no_frame(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_phantoms(tmp_path / name, 3, seed, size=64)
    a, b, c = ([path.read_bytes() for path in sorted((tmp_path / name / "images").iterdir())] for name in "abc")
    assert a == b
    assert not set(a) & set(c)


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="not an empty folder"):
        write_phantoms(tmp_path, 2, seed=0, size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_filled(tmp_path: Path):
    out = tmp_path / "empty"
    out.mkdir()
    write_phantoms(out, 1, seed=0, size=64)
    assert json.loads((out / "split.json").read_text()) == {"train": ["phantom-00001"], "val": []}


def test_no_frames_at_all_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="at least 1"):
        write_phantoms(tmp_path / "none", 0, seed=0)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path):
    def interrupt(done: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "out", 4, seed=0, size=64, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="free space"):
        write_phantoms(tmp_path / "out", 1, seed=0, size=64)
    assert list(tmp_path.iterdir()) == []
