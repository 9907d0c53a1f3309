"""Names of any text come back from a data folder whose files have running names; people's own folders stay so."""

import json
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.data.names import MAX_BYTES, file_name
from models.data.reader import open_data_folder
from models.data.writer import DataFolderWriter
from models.errors import DataError

GREY = np.full((6, 8, 3), 90, np.uint8)
MASK = np.eye(6, 8, dtype=bool)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=3, unique=True), st.lists(TEXT, min_size=2, max_size=4, unique=True))
def test_labels_and_names_of_any_text_come_back(labels: list[str], names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        with DataFolderWriter(Path(temporary, "data"), labels) as writer:
            for number, name in enumerate(names):
                presence = {label: True for label in labels} | {labels[0]: bool(number % 2)}
                masks = {label: MASK for label in labels if presence[label]}
                writer.add(name, GREY, masks, presence, f"group {number}", source=f"{name}!")
            writer.write_split({"train": names[1:], "val": names[:1]})
        folder = open_data_folder(Path(temporary, "data"))
    assert folder.classes == tuple(labels)
    assert set(folder.samples) == set(names)
    assert all(folder.samples[name].source == f"{name}!" for name in names)
    assert folder.splits == {"train": tuple(names[1:]), "val": tuple(names[:1])}
    assert folder.groups() == {name: f"group {number}" for number, name in enumerate(names)}
    assert folder.samples[names[1]].masks.keys() == set(labels)
    assert folder.samples[names[0]].presence[labels[0]] is False


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    with DataFolderWriter(tmp_path, ["a"]) as writer:
        writer.add("1", GREY, {}, None)
        with pytest.raises(ValueError, match="already"):
            writer.add("1", GREY, {}, None)


def own_folder(root: Path, image: str = "1.png", label: str = "crack") -> Path:
    """A data folder as a person makes it."""
    for part in ("images", f"masks/{label}"):
        (root / part).mkdir(parents=True)
    Image.fromarray(GREY).save(root / "images" / image)
    Image.fromarray(MASK).save(root / "masks" / label / f"{Path(image).stem}.png")
    (root / "classes.txt").write_text(f"{label}\n", encoding="utf-8")
    return root


def test_a_class_called_name_has_a_column_of_its_own(tmp_path: Path) -> None:
    root = own_folder(tmp_path, label="name")
    (root / "labels.csv").write_text("name,name\n1,1\n")
    assert open_data_folder(root).samples["1"].presence == {"name": True}


@pytest.mark.parametrize("header", ["name,name,name", "name,crack,crack", "crack", "name,name"])
def test_other_tables_are_refused(tmp_path: Path, header: str) -> None:
    root = own_folder(tmp_path)
    (root / "labels.csv").write_text(f"{header}\n")
    with pytest.raises(DataError, match="must have the columns name and classes"):
        open_data_folder(root)


def test_tables_and_files_may_differ_in_their_unicode_form(tmp_path: Path) -> None:
    """A folder that was copied from a Mac."""
    root = own_folder(tmp_path, unicodedata.normalize("NFD", "é.png"), "riß")
    (root / "masks" / "riß" / unicodedata.normalize("NFD", "é.png")).rename(root / "masks" / "riß" / "é.png")
    (root / "groups.json").write_text(json.dumps({"é": "P"}))
    (root / "split.json").write_text(json.dumps({"train": ["é"], "val": []}))
    (sample,) = open_data_folder(root).split("train")
    assert (sample.group, list(sample.masks)) == ("P", ["riß"])


def test_files_of_operating_systems_are_no_data(tmp_path: Path) -> None:
    root = own_folder(tmp_path)
    for junk in (
        "images/._1.png",
        "masks/crack/._1.png",
        "masks/.DS_Store",
        "images/Thumbs.db",
        "masks/__MACOSX/x.png",
    ):
        (root / junk).parent.mkdir(exist_ok=True)
        (root / junk).write_bytes(b"\0")
    assert list(open_data_folder(root).samples) == ["1"]


def test_each_page_of_a_stack_is_an_image(tmp_path: Path) -> None:
    root = own_folder(tmp_path, "stack-page-2.png")
    (root / "images" / "stack-page-2.png").unlink()
    pages = [Image.fromarray(np.full((6, 8), value, np.uint8)) for value in (0, 100)]
    pages[0].save(root / "images" / "stack.tif", save_all=True, append_images=pages[1:])
    samples = open_data_folder(root).samples
    assert [(name, list(one.masks), one.read_image().max()) for name, one in samples.items()] == [
        ("stack-page-1", [], 0),
        ("stack-page-2", ["crack"], 100),
    ]


def test_a_mask_for_a_whole_stack_is_refused_with_the_names_of_pages(tmp_path: Path) -> None:
    root = own_folder(tmp_path, "stack.tif")
    pages = [Image.fromarray(np.zeros((6, 8), np.uint8))] * 2
    pages[0].save(root / "images" / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="name a mask after each, stack-page-1"):
        open_data_folder(root)


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"images": {"a": {}}}', '{"classes": {"a": "x", "b": "x"}}', '{"images": 1}', "[" * 100_000],
)
def test_a_table_of_names_of_another_form_is_refused(tmp_path: Path, content: str) -> None:
    (own_folder(tmp_path) / "names.json").write_text(content)
    with pytest.raises(DataError, match=r"names\.json"):
        open_data_folder(tmp_path)


@given(st.text(max_size=400))
def test_any_text_makes_a_file_name(text: str) -> None:
    name = file_name(text)
    assert name not in ("", ".", "..")
    assert "/" not in name
    assert len(name.encode()) <= MAX_BYTES + 9
