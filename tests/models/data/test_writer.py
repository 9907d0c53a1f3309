"""Written data folders and pictures: they read back as they were given."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.data.decoding import decode_image
from models.data.png import encode_png
from models.data.reader import open_data_folder
from models.data.writer import DataFolderWriter

GREY = np.full((6, 8, 3), 90, np.uint8)
MASK = np.eye(6, 8, dtype=bool)


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_a_picture_reads_back_as_it_was(picture):
    assert (decode_image(encode_png(picture), 100) == picture).all()
    assert (decode_image(encode_png(picture[..., 0]), 100) == picture[..., :1]).all()


def test_a_mask_is_stored_as_0_and_255():
    stored = cv2.imdecode(np.frombuffer(encode_png(MASK), np.uint8), cv2.IMREAD_UNCHANGED)
    assert (stored == np.where(MASK, 255, 0)).all()


@pytest.mark.parametrize("picture", [np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2)), np.zeros((0, 2), np.uint8)])
def test_other_arrays_are_no_pictures(picture):
    with pytest.raises(ValueError, match="shape"):
        encode_png(picture)


def test_a_written_folder_says_what_it_was_given(tmp_path: Path):
    colour = GREY.copy()
    colour[0, 0] = 1, 2, 3
    with DataFolderWriter(tmp_path / "out", ("a", "b")) as writer:
        writer.add("1", colour, {"a": MASK}, {"a": True, "b": None})
        writer.add("2", GREY, {}, {"a": True, "b": False})
    folder = open_data_folder(tmp_path / "out")
    assert folder.classes == ("a", "b")
    assert [dict(sample.presence) for sample in folder.samples.values()] == [{"a": True}, {"a": True, "b": False}]
    assert (folder.samples["1"].read_image() == colour).all()
    assert (folder.samples["2"].read_image() == GREY).all()
    assert (folder.samples["1"].read_mask("a", (6, 8)) == MASK).all()
    assert not (tmp_path / "out" / "groups.json").exists()
    assert folder.splits == {}


def test_without_presence_the_masks_tell_all(tmp_path: Path):
    with DataFolderWriter(tmp_path, ("a", "b")) as writer:
        writer.add("1", GREY, {"a": MASK}, None)
        writer.add("2", GREY, {}, None)
        writer.write_split({"train": ["1"], "val": ["2"]})
    folder = open_data_folder(tmp_path)
    assert folder.samples["1"].presence == {"a": True, "b": False}
    assert folder.samples["2"].has_masks
    assert folder.splits == {"train": ("1",), "val": ("2",)}


def test_files_are_linked_to(tmp_path: Path):
    with DataFolderWriter(tmp_path / "first", ("a",)) as writer:
        writer.add("1", GREY, {"a": MASK}, None)
    sample = open_data_folder(tmp_path / "first").samples["1"]
    with DataFolderWriter(tmp_path / "second", ("a",)) as writer:
        writer.add("x", sample.image, sample.masks, sample.presence)
    linked = open_data_folder(tmp_path / "second").samples["x"]
    assert linked.image.is_symlink()
    assert (linked.read_mask("a", (6, 8)) == MASK).all()


def test_images_without_a_group_are_grouped_in_blocks(tmp_path: Path):
    with DataFolderWriter(tmp_path, ("a",)) as writer:
        for number in range(8):
            writer.add(str(number), GREY, {"a": MASK}, None, group="patient" if number in (2, 3) else None)
    groups = json.loads((tmp_path / "groups.json").read_text())
    first, second = "ungrouped, block 1", "ungrouped, block 2"
    assert list(groups.values()) == [first, first, "patient", "patient", first, first, first, second]
