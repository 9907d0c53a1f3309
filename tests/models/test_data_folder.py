import json

import cv2
import numpy as np
import pytest

from models.errors import DataError
from models.training.data_folder import open_data_folder, split_in_blocks


@pytest.fixture
def folder(tmp_path):
    """Three images of 40 x 30 pixels; class 'scratch' is on the first two, 'dent' on none."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks" / "scratch").mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("scratch\ndent\n")
    for i in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"f{i}.png"), np.full((30, 40, 3), 60 * i, np.uint8))
    for i in range(2):
        mask = np.zeros((30, 40), np.uint8)
        mask[5:10, 5:20] = 255
        cv2.imwrite(str(tmp_path / "masks" / "scratch" / f"f{i}.png"), mask)
    return tmp_path


def test_a_class_without_a_mask_file_is_absent(folder):
    samples = open_data_folder(folder).samples
    assert samples["f0"].presence == {"scratch": True, "dent": False}
    assert samples["f2"].presence == {"scratch": False, "dent": False}
    assert samples["f2"].has_masks
    assert samples["f0"].read_mask("scratch", (30, 40)).sum() == 75
    assert not samples["f0"].read_mask("dent", (30, 40)).any()


def test_an_empty_cell_of_labels_csv_is_unknown(folder):
    (folder / "labels.csv").write_text("name,scratch,dent\nf2,,1\n")
    sample = open_data_folder(folder).samples["f2"]
    assert sample.presence == {"dent": True}
    assert not sample.has_masks


def test_an_image_whose_classes_are_all_known_absent_has_known_masks(folder):
    """A task that was accepted without regions teaches that nothing is anywhere on it."""
    (folder / "labels.csv").write_text("name,scratch,dent\nf0,1,0\nf2,0,0\n")
    samples = open_data_folder(folder).samples
    assert samples["f0"].has_masks
    assert samples["f2"].has_masks


def test_a_class_that_is_present_but_not_drawn_teaches_no_false_negatives(folder):
    (folder / "labels.csv").write_text("name,scratch,dent\nf0,1,1\n")
    sample = open_data_folder(folder).samples["f0"]
    assert sample.presence == {"scratch": True, "dent": True}
    assert not sample.has_masks


def test_labels_alone_are_enough(folder):
    import shutil

    shutil.rmtree(folder / "masks")
    (folder / "labels.csv").write_text("name,scratch,dent\nf0,1,0\nf1,0,1\nf2,0,0\n")
    samples = open_data_folder(folder).samples
    assert samples["f1"].presence == {"scratch": False, "dent": True}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda d: (d / "classes.txt").unlink(), "classes.txt cannot be read"),
        (lambda d: (d / "classes.txt").write_text("scratch\nscratch\n"), "each class once"),
        (lambda d: (d / "masks" / "rust").mkdir(), "rust is for a class that classes.txt does not name"),
        (lambda d: (d / "images" / "f1.png").write_bytes(b"not a png"), r"f1.png cannot be read as an image"),
        (lambda d: (d / "images" / "f1.png").unlink(), "has no image"),
        (lambda d: (d / "masks" / "scratch" / "f1.png").write_bytes(b""), "cannot be read as a mask"),
        (
            lambda d: cv2.imwrite(str(d / "masks/scratch/f1.png"), np.zeros((40, 30), np.uint8)),
            "is 30x40, but its image",
        ),
        (lambda d: (d / "labels.csv").write_text("name,rust\nf0,1\n"), "must have the columns"),
        (lambda d: (d / "labels.csv").write_text("name,dent\nf0,yes\n"), "line 2: a label is 0, 1 or empty"),
        (lambda d: (d / "split.json").write_text('{"train": ["f0", "f9"]}'), "names f9"),
        (lambda d: (d / "split.json").write_text('{"train": ["f0"], "val": ["f0"]}'), "twice"),
        (lambda d: (d / "split.json").write_text("[1]"), "must hold"),
    ],
)
def test_what_is_inconsistent_is_reported_by_name(folder, damage, complaint):
    damage(folder)
    with pytest.raises(DataError, match=complaint):
        open_data_folder(folder)


def test_skip_bad_goes_on_and_says_what_it_left_out(folder):
    (folder / "images" / "f1.png").write_bytes(b"not a png")
    (folder / "split.json").write_text(json.dumps({"train": ["f0", "f1"], "val": ["f2"]}))
    data = open_data_folder(folder, skip_bad=True)
    assert list(data.samples) == ["f0", "f2"]
    assert "f1" in data.skipped
    assert [sample.name for sample in data.split("train")] == ["f0"]


def test_an_unknown_split_is_refused_by_name(folder):
    with pytest.raises(DataError, match="no split 'test'"):
        open_data_folder(folder).split("test")


def test_the_fingerprint_changes_with_a_mask_and_only_then(folder):
    before = open_data_folder(folder).fingerprint()
    assert open_data_folder(folder).fingerprint() == before
    cv2.imwrite(str(folder / "masks" / "scratch" / "f0.png"), np.full((30, 40), 255, np.uint8))
    assert open_data_folder(folder).fingerprint() != before


@pytest.mark.parametrize("count", [2, 3, 6, 20, 101])
def test_held_out_samples_are_blocks_of_neighbours(count):
    train, held_out = split_in_blocks(list(range(count)))
    assert sorted(train + held_out) == list(range(count))
    assert 1 <= len(held_out) <= max(1, round(0.2 * count))
    assert train
    runs = sum(1 for a in held_out if a - 1 not in held_out)
    assert runs <= 4


def test_a_single_image_cannot_be_split():
    with pytest.raises(DataError, match="at least 2 images"):
        split_in_blocks([1])


def test_neighbours_by_number_are_neighbours(folder):
    """Blocks of neighbours are held out, so frame 10 must not come between 1 and 2."""
    for i in (10, 9, 100):
        cv2.imwrite(str(folder / "images" / f"f{i}.png"), np.zeros((30, 40, 3), np.uint8))
    assert list(open_data_folder(folder).samples) == ["f0", "f1", "f2", "f9", "f10", "f100"]
