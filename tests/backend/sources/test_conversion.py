"""What all exports share: regions become masks or leave their class unknown, and nothing is dropped silently."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.sources.conversion import Conversion, Exported, LeftOut, Region, convert
from backend.sources.finding import ImageFiles
from models.data.reader import DataFolder
from models.errors import DataError
from tests.backend.sources.exports import HEIGHT, WIDTH, block, picture, read

SHAPE = (HEIGHT, WIDTH)


def drawn(label: str | None, *corners: int) -> Region:
    return Region(label, lambda shape: block(*corners))


def unreadable(label: str | None) -> Region:
    def draw(shape: tuple[int, int]) -> Any:
        raise DataError("its points are none")

    return Region(label, draw)


def converted(
    root: Path, exported: Sequence[Exported | LeftOut], classes: Sequence[str] = ("scratch", "dent")
) -> tuple[Conversion, DataFolder, dict[str, Any]]:
    result = convert(exported, classes, ImageFiles([root / "in"]), root / "out")
    return result, *read(root / "out")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        picture(tmp_path / "in" / f"{name}.png")
    return tmp_path


def test_a_region_that_cannot_be_read_leaves_its_class_unknown(root: Path) -> None:
    """A good region beside it does not tell where the other one is."""
    regions = [drawn("scratch", 0, 0, 5, 5), unreadable("scratch"), drawn("dent", 5, 5, 9, 9)]
    result, data, masks = converted(root, [Exported("a.png", regions)])
    assert data.samples["a"].presence == {"dent": True}
    assert list(masks["a"]) == ["dent"]
    assert LeftOut("scratch on a.png", "its points are none") in result.unread
    assert any("1 region that cannot be read" in note and "a.png" in note for note in result.notes)


def test_a_region_without_area_is_one_that_cannot_be_read(root: Path) -> None:
    _, data, _ = converted(root, [Exported("a.png", [drawn("scratch", 3, 3, 3, 3)])])
    assert data.samples["a"].presence == {"dent": False}


@pytest.mark.parametrize("error", [ValueError("x"), TypeError("x"), KeyError("x"), OverflowError("x")])
def test_any_fault_of_a_reader_is_a_region_that_cannot_be_read(root: Path, error: Exception) -> None:
    def draw(shape: tuple[int, int]) -> Any:
        raise error

    _, data, _ = converted(root, [Exported("a.png", [Region("scratch", draw)])])
    assert data.samples["a"].presence == {"dent": False}


def test_a_region_of_no_class_cuts_what_lies_below(root: Path) -> None:
    regions = [drawn("scratch", 0, 0, 10, 10), drawn(None, 2, 2, 4, 4), drawn("dent", 0, 0, 10, 10)]
    _, _, masks = converted(root, [Exported("a.png", regions)])
    assert masks["a"]["scratch"].sum() == 100 - 4
    assert masks["a"]["dent"].sum() == 100


def test_a_cut_that_cannot_be_read_leaves_what_lies_below_unknown(root: Path) -> None:
    regions = [drawn("scratch", 0, 0, 10, 10), unreadable(None), drawn("dent", 0, 0, 10, 10)]
    _, data, _ = converted(root, [Exported("a.png", regions)])
    assert data.samples["a"].presence == {"dent": True}


def test_what_an_export_says_of_presence_counts(root: Path) -> None:
    _, data, _ = converted(root, [Exported("a.png", [], presence={"scratch": True, "dent": None, "other": True})])
    assert data.samples["a"].presence == {"scratch": True}


def test_labels_and_names_of_any_text_come_back(root: Path) -> None:
    labels = ["name", "a/b", "..", "x" * 260, "e\u0301", " padded ", "two\nlines", "日本"]
    picture(root / "in" / "left" / "a.png")
    exported = [Exported(path, [drawn(label, 0, 0, 5, 5) for label in labels]) for path in ("in/a.png", "left/a.png")]
    _, data, masks = converted(root, exported, labels)
    assert data.classes == tuple(labels)
    assert list(data.samples) == ["a", "left/a"]
    assert all(list(found) == labels for found in masks.values())
    assert data.samples["left/a"].source == "left/a.png"


def test_parts_of_the_data_become_its_split(root: Path) -> None:
    exported = [Exported(f"{n}.png", [], subset=s) for n, s in (("a", "train"), ("b", "val"), ("c", "test"))]
    _, data, _ = converted(root, exported)
    assert data.splits == {"train": ("a",), "val": ("b",), "test": ("c",)}


def test_what_is_held_back_for_a_test_is_not_learnt_from(root: Path) -> None:
    exported = [Exported(f"{n}.png", [], subset=s) for n, s in (("a", "train"), ("b", "train"), ("c", "test"))]
    _, data, _ = converted(root, exported)
    train, held_out = data.train_and_held_out()
    assert {sample.name for sample in train + held_out} == {"a", "b"}


def test_a_group_on_two_sides_ends_the_split(root: Path) -> None:
    exported = [Exported("a.png", [], subset="train", group="P"), Exported("b.png", [], subset="test", group="P")]
    result, data, _ = converted(root, exported)
    assert data.splits == {}
    assert any("split is not used" in note for note in result.notes)


def test_every_page_that_is_annotated_is_an_image(root: Path) -> None:
    from PIL import Image

    pages = [Image.new("L", (WIDTH, HEIGHT), value) for value in (0, 100, 200)]
    pages[0].save(root / "in" / "stack.tif", save_all=True, append_images=pages[1:])
    exported = [Exported("stack.tif", [drawn("dent", 0, 0, 5, 5)], SHAPE, page=page) for page in (0, 2)]
    result, data, _ = converted(root, exported)
    assert [(s.name, s.page) for s in data.samples.values()] == [("stack-page-1", 0), ("stack-page-3", 2)]
    assert data.samples["stack-page-3"].read_image().max() == 200
    assert LeftOut("stack.tif, page 2", "the export does not mention it") in result.unread


@pytest.mark.parametrize(
    ("exported", "what", "why"),
    [
        (Exported("gone.png", []), "gone.png", "is not in"),
        (Exported("a.png", [], (3, 4)), "a.png", "was annotated at 4x3"),
        (Exported("a.png", [Region("other")]), "a.png", "is not among the export's"),
        (Exported("a.png", [], page=4), "a.png", "has 1 page"),
        (Exported("./b.png", []), "./b.png", "is annotated twice, alike"),
        (Exported("/x/b.png", []), "/x/b.png", "there is no such file, only b.png"),
        (LeftOut("row 7", "it is odd"), "row 7", "it is odd"),
    ],
)
def test_what_does_not_fit_is_left_out_by_name(root: Path, exported: Any, what: str, why: str) -> None:
    result, data, _ = converted(root, [Exported("b.png", []), exported])
    (row,) = result.left_out
    assert row.what == what
    assert why in row.why
    assert list(data.samples) == ["b"]
    assert data.skipped == {row.what: row.why}


def test_where_two_entries_of_an_image_differ_a_class_is_unknown(root: Path) -> None:
    """Nothing tells which of them is right; what both say is learnt."""
    both, first, second = drawn("dent", 0, 0, 5, 5), drawn("scratch", 5, 5, 9, 9), drawn("scratch", 5, 5, 9, 8)
    for other in ([both, second], [both], [both, Region("scratch")]):
        result, data, masks = converted(root, [Exported("a.png", [both, first]), Exported("a.png", other)])
        assert data.samples["a"].presence == {"dent": True}
        assert list(masks["a"]) == ["dent"]
        assert result.left_out == [LeftOut("a.png", "a.png is annotated twice, differently; unknown there: scratch")]
        shutil.rmtree(root / "out")


def test_entries_of_an_image_that_looked_for_other_classes_are_taken_together(root: Path) -> None:
    one = Exported("a.png", [drawn("dent", 0, 0, 5, 5)], offered=["dent"])
    other = Exported("a.png", [drawn("scratch", 5, 5, 9, 9)], offered=["scratch"])
    for rows in ([one, other], [other, one]):
        result, data, masks = converted(root, rows)
        assert data.samples["a"].presence == {"dent": True, "scratch": True}
        assert sorted(masks["a"]) == ["dent", "scratch"]
        assert not result.left_out
        shutil.rmtree(root / "out")


def test_an_image_that_is_left_out_by_name_is_not_said_to_be_unlisted_too(root: Path) -> None:
    picture(root / "in" / "sub" / "d.png")
    picture(root / "in" / "also" / "d.png")
    rows: list[Exported | LeftOut] = [LeftOut("a.png", "it is odd")]
    rows += [Exported(name, []) for name in ("b.png", "c.png", "d.png")]
    result, _, _ = converted(root, rows)
    assert [row.what for row in result.left_out] == ["a.png", "d.png"]
    assert not result.unread


def test_images_that_the_export_does_not_list_are_named(root: Path) -> None:
    result, _, _ = converted(root, [Exported("a.png", [])])
    assert [row.what for row in result.unread] == ["b.png", "c.png"]
    assert "2 image files that the export does not list: b.png, c.png" in result.notes


def test_without_a_label_there_is_nothing_to_learn(root: Path) -> None:
    with pytest.raises(DataError, match="names no label"):
        converted(root, [Exported("a.png", [])], [" "])


def test_more_drawing_than_a_machine_can_do_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.sources.conversion.MAX_DRAWING", HEIGHT * WIDTH)
    result, _, _ = converted(root, [Exported("a.png", [drawn("dent", 0, 0, 5, 5)] * 2), Exported("b.png", [])])
    assert "unite them" in result.left_out[0].why
    assert np.all([row.what == "a.png" for row in result.left_out])


def test_labels_that_differ_in_spaces_or_unicode_form_alone_are_one_class(root: Path) -> None:
    one, other = "caf\u00e9 au lait", " cafe\u0301  au\u00a0lait "
    exported = [
        Exported("a.png", [drawn(one, 0, 0, 5, 5), drawn(other, 0, 5, 5, 9)]),
        Exported("b.png", [], presence={other: True}, offered=[other]),
    ]
    result, data, masks = converted(root, exported, [one, other, "Dent", "dent"])
    assert data.classes == (one, "Dent", "dent")
    assert masks["a"][one].sum() == 45
    assert data.samples["b"].presence == {one: True}
    assert result.notes[:2] == [
        f"{one!r}, {other!r}: one class, written in several ways",
        "'Dent', 'dent': 2 classes that differ in case alone; if they are one, rename it",
    ]
