"""YOLO's segmentation format in the layouts of Ultralytics, Roboflow, CVAT and Label Studio."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources.exports import HEIGHT, WIDTH, block, packed, picture, read, write_json

SQUARE = block(5, 10, 13, 22)
BOX = f"1 {16 / WIDTH} {9 / HEIGHT} {12 / WIDTH} {8 / HEIGHT}\n"
NOTES = {
    "categories": [{"id": 1, "name": "dent"}, {"id": 0, "name": "scratch"}],
    "info": {"year": 2026, "version": "1.0", "contributor": "Label Studio"},
}
ULTRALYTICS = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: scratch\n  1: dent\n"


def polygon(label: int, *corners: tuple[int, int]) -> str:
    return " ".join([str(label), *(f"{x / WIDTH} {y / HEIGHT}" for x, y in corners)]) + "\n"


SCRATCH = polygon(0, (10, 5), (22, 5), (22, 13), (10, 13))


def export(
    folder: Path, texts: dict[str, str | None], yaml: str = ULTRALYTICS, layout: str = "{kind}/{subset}"
) -> Path:
    """A folder of images SUBSET/NAME with these lines, None for no text file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.yaml").write_text(yaml, encoding="utf-8")
    for name, text in texts.items():
        subset, _, stem = name.partition("/")
        picture(folder / layout.format(kind="images", subset=subset) / f"{stem}.jpg")
        if text is not None:
            path = folder / layout.format(kind="labels", subset=subset) / f"{stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("yaml", "layout"),
    [
        (ULTRALYTICS, "{kind}/{subset}"),
        ("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['scratch', 'dent']\n", "{subset}/{kind}"),
        ("names: {0: scratch, 1: dent}\ntrain: train.txt\n", "{kind}/{subset}"),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_polygons_and_boxes_become_masks(tmp_path: Path, yaml: str, layout: str, alone: bool) -> None:
    texts = {"train/a": SCRATCH + "\n" + BOX, "train/b": "", "valid/c": SCRATCH, "valid/d": None}
    folder = export(tmp_path / "export", texts, yaml, layout)
    with open_source(folder / "data.yaml" if alone else folder) as source:
        data, masks = read(source.folder)
        assert any("without a text file" in note and "d.jpg" in note for note in source.notes)
    assert data.classes == ("scratch", "dent")
    assert np.array_equal(masks["a"]["scratch"], SQUARE)
    assert np.array_equal(masks["a"]["dent"], SQUARE)
    assert data.samples["b"].presence == data.samples["d"].presence == {"scratch": False, "dent": False}
    assert data.splits["train"] == ("a", "b")
    assert data.splits["val"] == ("c", "d")


@pytest.mark.parametrize("layout", ["{subset}", "{subset}/photos"])
@pytest.mark.parametrize("alone", [False, True])
def test_a_text_beside_its_image_is_read(tmp_path: Path, layout: str, alone: bool) -> None:
    """They were passed over, and the images taken for images on which nothing is."""
    texts = {"train/a": SCRATCH, "train/b": "", "train/e": None, "valid/c": SCRATCH}
    folder = export(tmp_path / "export", texts, layout=layout)
    with open_source(folder / "data.yaml" if alone else folder) as source:
        data, masks = read(source.folder)
    assert np.array_equal(masks["a"]["scratch"], SQUARE)
    assert np.array_equal(masks["c"]["scratch"], SQUARE)
    assert data.samples["b"].presence["scratch"] is False
    assert ("e" in data.samples) is not alone


@pytest.mark.parametrize("below", ["", "images/train", "media/upload/3"])
def test_images_may_be_elsewhere(tmp_path: Path, below: str) -> None:
    """`--images` ended in a traceback."""
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "train/b": BOX})
    shutil.rmtree(folder / "images")
    for name in ("a.png", "b.png"):
        picture(tmp_path / "elsewhere" / below / name)
    with open_source(folder, images=tmp_path / "elsewhere") as source:
        masks = read(source.folder)[1]
    assert np.array_equal(masks["a"]["scratch"], SQUARE)
    assert np.array_equal(masks["b"]["dent"], SQUARE)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_text_of_two_images_leaves_both_out_by_name(tmp_path: Path, elsewhere: bool) -> None:
    """Which of them was annotated is not known, and both were learnt from."""
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "train/b": SCRATCH})
    other = tmp_path / "images" / "thumbnails" / "a.jpg" if elsewhere else folder / "images" / "train" / "a.png"
    picture(other)
    if elsewhere:
        (folder / "images").rename(tmp_path / "images" / "full")
    with open_source(folder, images=tmp_path / "images" if elsewhere else None, skip_bad=True) as source:
        data, masks = read(source.folder)
    assert masks.keys() == {"b"}
    assert len(data.skipped) == 2
    assert all(why.startswith("its text a.txt may be that of") for why in data.skipped.values())


def test_pictures_outside_of_the_folders_of_images_are_named_and_not_learnt_from(tmp_path: Path) -> None:
    """Previews, and masks that some tool wrote beside: nothing would be on them."""
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "valid/c": SCRATCH})
    for name in ("preview.png", "masks/train/a.png", "runs/labels.jpg"):
        picture(folder / name)
    with open_source(folder) as source:
        assert read(source.folder)[0].samples.keys() == {"a", "c"}
        assert {row.what for row in source.unread} == {"preview.png", "masks/train/a.png", "runs/labels.jpg"}


@pytest.mark.parametrize(
    ("yaml", "lists"),
    [
        ("train: images/day\nval: images/night\n", {}),
        ("path: /home/them/export\ntrain: [./images/day/]\nval: ../export/images/night\n", {}),
        ("train: a.txt\nval: b.txt\n", {"a.txt": "./images/day/a.jpg\n", "b.txt": "images/night/c.jpg"}),
        (
            "path: .\ntrain: lists/t.txt\nval: /x/lists/v.txt\n",
            {"lists/t.txt": "/of/them/day/a.jpg", "lists/v.txt": "c.jpg"},
        ),
    ],
)
def test_the_split_is_that_of_the_yaml(tmp_path: Path, yaml: str, lists: dict[str, str]) -> None:
    folder = export(tmp_path / "export", {"day/a": SCRATCH, "night/c": SCRATCH}, yaml + "names: [scratch]\n")
    for name, text in lists.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with open_source(folder) as source:
        assert read(source.folder)[0].splits == {"train": ("a",), "val": ("c",)}


def test_one_folder_for_learning_and_for_measuring_is_no_split(tmp_path: Path) -> None:
    yaml = "train: images\nval: images\nnames: [scratch]\n"
    with open_source(export(tmp_path / "export", {"one/a": SCRATCH, "two/c": SCRATCH}, yaml)) as source:
        assert read(source.folder)[0].splits == {}


def test_label_studios_own_export_names_its_labels_in_notes(tmp_path: Path) -> None:
    """Its classes.txt does not make it a data folder, whose images would have nothing on them."""
    picture(tmp_path / "export" / "images" / "3f2a-a.png")
    write_json(tmp_path / "export" / "notes.json", NOTES)
    (tmp_path / "export" / "classes.txt").write_text("scratch\ndent\n")
    (tmp_path / "export" / "labels").mkdir()
    (tmp_path / "export" / "labels" / "3f2a-a.txt").write_text(SCRATCH)
    for path in (tmp_path / "export", packed(tmp_path / "export.zip", tmp_path / "export")):
        with open_source(path) as source:
            data, masks = read(source.folder)
        assert data.classes == ("scratch", "dent")
        assert np.array_equal(masks["3f2a-a"]["scratch"], SQUARE)


@pytest.mark.parametrize(
    ("place", "layout"), [("", "{kind}/{subset}"), ("labels/", "{kind}/{subset}"), ("", "{subset}/{kind}")]
)
def test_a_classes_txt_names_the_labels_where_nothing_else_does(tmp_path: Path, place: str, layout: str) -> None:
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "valid/b": BOX}, layout=layout)
    (folder / "data.yaml").unlink()
    (folder / f"{place}classes.txt").write_text("scratch\r\ndent\r\n\r\n")
    for path in (folder, packed(tmp_path / "export.zip", folder)):
        with open_source(path) as source:
            assert source.kind == "yolo"
            data, masks = read(source.folder)
        assert data.classes == ("scratch", "dent")
        assert np.array_equal(masks["a"]["scratch"], SQUARE)
        assert masks["b"].keys() == {"dent"}


def test_a_classes_txt_beside_a_yaml_is_not_asked(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", {"train/a": SCRATCH}, layout="{subset}/{kind}")
    for place in (folder, folder / "train"):
        (place / "classes.txt").write_text("other\nnames\n")
    with open_source(folder) as source:
        data, masks = read(source.folder)
    assert data.classes == ("scratch", "dent")
    assert masks.keys() == {"a"}


def test_a_classes_txt_beside_images_and_their_texts_names_the_labels(tmp_path: Path) -> None:
    """As LabelImg saves them."""
    for name, text in (("a", SCRATCH), ("b", BOX)):
        picture(tmp_path / "all" / f"{name}.jpg")
        (tmp_path / "all" / f"{name}.txt").write_text(text)
    (tmp_path / "all" / "classes.txt").write_text("scratch\ndent\n")
    with open_source(tmp_path / "all") as source:
        masks = read(source.folder)[1]
    assert np.array_equal(masks["a"]["scratch"], SQUARE)
    assert masks["b"].keys() == {"dent"}


@pytest.mark.parametrize("names", ["[dent, scratch]", "[scratch]"])
def test_two_files_that_name_other_labels_are_refused(tmp_path: Path, names: str) -> None:
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "train/b": BOX})
    (folder / "other.yaml").write_text(f"names: {names}\n")
    with pytest.raises(DataError, match=r"other\.yaml names other labels than another file"), open_source(folder):
        pass
    (folder / "other.yaml").write_text("names: [scratch, dent]\n")
    with open_source(folder) as source:
        assert read(source.folder)[1]["b"].keys() == {"dent"}


def test_texts_whose_labels_nothing_names_are_told_from_other_files(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "train/b": SCRATCH})
    (folder / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"seems to be of YOLO.*add a data\.yaml"), open_source(folder):
        pass
    with open_source(folder, unlabelled=True) as source:
        assert [row.what for row in source.unread if "seems to be of YOLO" in row.why] == [
            "labels/train/a.txt, labels/train/b.txt"
        ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.1 0.2 0.3\n", "it has 3"),
        ("0\n", "it has 0"),
        ("0 0.1 0.2 0.3 0.4 0.5\n", "it has 5"),
        ("0 0.1 x 0.3 0.4 0.5 0.6\n", "must hold numbers"),
        ("0 0.1 nan 0.3 0.4 0.5 0.6\n", "one is infinite or none"),
        ("0 10 5 22 5 22 13\n", "parts of the image's size"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3\n", "no area"),
    ],
)
def test_a_line_that_cannot_be_read_makes_its_class_unknown_there_and_is_named(
    tmp_path: Path, line: str, said: str
) -> None:
    with open_source(export(tmp_path / "export", {"train/a": line + BOX, "train/b": SCRATCH})) as source:
        data, masks = read(source.folder)
        assert any(said in note and "a.jpg" in note for note in source.notes)
    assert "scratch" not in data.samples["a"].presence
    assert masks["a"].keys() == {"dent"}
    assert masks["b"].keys() == {"scratch"}


@pytest.mark.parametrize("line", ["7 0.1 0.1 0.2 0.1 0.2 0.2", "x 0.1 0.1", "-1 0 0 1 1", "0.5 0 0 1 1", "²  0 0 1 1"])
def test_a_line_of_no_label_leaves_its_image_out_by_name(tmp_path: Path, line: str) -> None:
    folder = export(tmp_path / "export", {"train/a": SCRATCH + line, "train/b": SCRATCH})
    with pytest.raises(DataError, match=r"line 2 of a\.txt is of label"), open_source(folder):
        pass
    with open_source(folder, skip_bad=True) as source:
        data, masks = read(source.folder)
    assert any("a.jpg" in row for row in data.skipped)
    assert masks.keys() == {"b"}


def test_boxes_that_are_corners_are_refused(tmp_path: Path) -> None:
    """Those in the middle were learnt as centre and size."""
    folder = export(tmp_path / "export", {"train/a": "0 0.4 0.4 0.5 0.5\n", "train/b": "0 0.1 0.1 0.9 0.9\n"})
    said = "only if they are left, top, right, bottom"
    with pytest.raises(DataError, match=said), open_source(folder, skip_bad=True):
        pass


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.2 0.2\n", "0 0.5 0.5 1 1\n"])
def test_a_box_beyond_the_edge_is_cut_where_another_cannot_be_corners(tmp_path: Path, line: str) -> None:
    lines = line + ("0 0.1 0.1 0.9 0.9\n" if "0.2" in line else "0 0.45 0.45 1 1\n")
    with open_source(export(tmp_path / "export", {"train/a": lines})) as source:
        assert read(source.folder)[1]["a"]["scratch"].any()


def test_lines_that_count_labels_from_1_are_refused(tmp_path: Path) -> None:
    """With --skip-bad the images of the first labels were learnt as those of the labels after them."""
    folder = export(
        tmp_path / "export", {"train/a": SCRATCH.replace("0", "1", 1), "train/b": SCRATCH.replace("0", "2", 1)}
    )
    with pytest.raises(DataError, match="seem to count from 1"), open_source(folder, skip_bad=True):
        pass


@pytest.mark.parametrize("number", ["1.0", "1.000000e+00"])
def test_the_number_of_a_label_may_have_a_point(tmp_path: Path, number: str) -> None:
    line = BOX.replace("1", number, 1)
    with open_source(export(tmp_path / "export", {"train/a": line, "train/b": SCRATCH})) as source:
        masks = read(source.folder)[1]
    assert masks["a"].keys() == {"dent"}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[yes, no]", ("yes", "no")),
        ("{'0': 010, '1': 1.10}", ("010", "1.10")),
        ("\n- 2026-01-02\n- 'off'\n", ("2026-01-02", "off")),
    ],
)
def test_labels_are_the_words_of_the_yaml(tmp_path: Path, names: str, expected: tuple[str, ...]) -> None:
    texts: dict[str, str | None] = {"train/a": SCRATCH, "train/b": BOX}
    with open_source(export(tmp_path / "export", texts, f"names: {names}\n")) as source:
        data, masks = read(source.folder)
    assert data.classes == expected
    assert masks["b"].keys() == {expected[1]}


def test_folders_may_be_written_in_any_case(tmp_path: Path) -> None:
    texts: dict[str, str | None] = {"train/a": SCRATCH, "train/b": BOX}
    folder = export(tmp_path / "export", texts)
    (folder / "labels").rename(folder / "Labels")
    with open_source(folder) as source:
        assert read(source.folder)[1]["a"].keys() == {"scratch"}
    (folder / "images").rename(folder / "Images")
    with open_source(folder) as source:
        assert read(source.folder)[1]["b"].keys() == {"dent"}


def test_an_image_whose_text_lies_elsewhere_is_left_out_by_name(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "train/b": None, "train/c": None})
    (folder / "images" / "train" / "b.txt").write_text(BOX)
    with open_source(folder, skip_bad=True) as source:
        data, masks = read(source.folder)
    assert any("images/train/b.txt" in why for why in data.skipped.values())
    assert masks.keys() == {"a", "c"}


@pytest.mark.parametrize("name", ["A", "cafe\u0301"])
def test_a_text_of_its_images_name_in_other_letters_is_its_text(tmp_path: Path, name: str) -> None:
    """The image counted as one on which nothing is."""
    folder = export(tmp_path / "export", {f"train/{name}": SCRATCH, "train/b": BOX})
    texts = folder / "labels" / "train"
    (texts / f"{name}.txt").rename(texts / {"A": "a.txt", "cafe\u0301": "caf\u00e9.txt"}[name])
    with open_source(folder) as source:
        assert list(read(source.folder)[1][name]) == ["scratch"]


def test_texts_of_names_that_differ_in_case_are_told_apart(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "train/A": None, "train/B": BOX, "train/b": SCRATCH})
    with open_source(folder) as source:
        _, masks = read(source.folder)
    assert {name: list(found) for name, found in masks.items()} == {
        "a": ["scratch"],
        "A": [],
        "B": ["dent"],
        "b": ["scratch"],
    }


@pytest.mark.parametrize("names", ["[scratch, dent]", "[dent, scratch]"])
def test_a_folder_with_labels_of_its_own_within_another_is_read_by_these(tmp_path: Path, names: str) -> None:
    """Its images were read twice, first by the labels of the folder around it."""
    export(tmp_path / "export", {"train/a": SCRATCH})
    export(tmp_path / "export" / "more", {"train/b": SCRATCH}, f"names: {names}\n")
    with open_source(tmp_path / "export") as source:
        data, masks = read(source.folder)
    assert (list(masks["a"]), list(masks["b"])) == (["scratch"], [names[1:].partition(",")[0]])
    assert not data.skipped


def test_images_without_any_text_are_refused(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", {"train/a": None, "train/b": None})
    with pytest.raises(DataError, match="none of 2 images has a text file"), open_source(folder):
        pass


def test_a_text_without_an_image_is_named(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", {"train/a": SCRATCH, "train/b": SCRATCH})
    (folder / "images" / "train" / "a.jpg").unlink()
    with pytest.raises(DataError, match="there is no image of it"), open_source(folder):
        pass
    with open_source(folder, skip_bad=True) as source:
        assert any("labels/train/a.txt" in row for row in read(source.folder)[0].skipped)


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("names: [a]\nkpt_shape: [17, 3]\n", "is for keypoints"),
        ("names: {1: a, 2: b}\n", "must name its labels"),
        ("names: []\n", "must name its labels"),
        ("names: [a, null]\n", "must name its labels"),
        ("names: 7\n", "known kind"),
        ("a: [\n", "known kind"),
        ("a: &a [*a]\n", "known kind"),
        ("!!python/object/apply:os.system [ls]\n", "known kind"),
    ],
)
def test_a_file_that_names_no_labels_is_refused(tmp_path: Path, yaml: str, said: str) -> None:
    with pytest.raises(DataError, match=said), open_source(export(tmp_path / "export", {"train/a": SCRATCH}, yaml)):
        pass
