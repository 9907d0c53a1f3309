"""CVAT's own export: every shape becomes the mask that the editor showed."""

from pathlib import Path

import numpy as np
import pytest

from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources.exports import (
    CVAT_LABEL,
    HEIGHT,
    WIDTH,
    block,
    cvat_export,
    cvat_xml,
    packed,
    picture,
    read,
)

BOX = (
    '    <box label="{label}" source="manual" occluded="0" xtl="10.00" ytl="5.00" xbr="22.00" ybr="13.00" z_order="0">'
    "\n    </box>"
)
POLYGON = (
    '    <polygon label="dent" source="manual" occluded="0" '
    'points="10.00,5.00;22.00,5.00;22.00,13.00;10.00,13.00" z_order="0">\n    </polygon>'
)
MASK = (
    '    <mask label="scratch" source="semi-auto" occluded="0" rle="1, 3, 2, 2" left="7" top="9" width="4" height="2" '
    'z_order="0">\n    </mask>'
)
ELLIPSE = (
    '    <ellipse label="dent" source="manual" occluded="1" cx="20.00" cy="15.00" rx="12.00" ry="4.00" '
    'rotation="90.00" z_order="0">\n    </ellipse>'
)
POLYLINE = (
    '    <polyline label="scratch" source="manual" occluded="0" points="1.00,1.00;30.00,20.00" z_order="0">'
    "\n    </polyline>"
)
TAG = '    <tag label="dent" source="manual">\n    </tag>'


def masks_of(tmp_path: Path, shapes: str) -> dict[str, np.ndarray]:
    with open_source(cvat_export(tmp_path / "export", {"a.png": shapes})) as source:
        return read(source.folder)[1]["a"]


def test_a_zip_becomes_a_data_folder(tmp_path: Path) -> None:
    images = {"a.png": BOX.format(label="scratch"), "line 2/b.png": POLYGON, "c.png": ""}
    export = packed(tmp_path / "export.zip", cvat_export(tmp_path / "export", images))
    with open_source(export) as source:
        data, masks = read(source.folder)
        assert any("3 images" in note for note in source.notes)
        temporary = source.folder
    assert not temporary.exists()
    assert data.classes == ("scratch", "dent")
    assert list(data.samples) == ["a", "b", "c"]
    assert np.array_equal(masks["a"]["scratch"], block(5, 10, 13, 22))
    assert np.array_equal(masks["b"]["dent"], block(5, 10, 13, 22))
    assert data.samples["a"].presence == {"scratch": True, "dent": False}
    assert data.samples["c"].presence == {"scratch": False, "dent": False}
    assert data.samples["c"].has_masks


def test_a_mask_is_its_runs_within_its_box(tmp_path: Path) -> None:
    expected = np.zeros((HEIGHT, WIDTH), dtype=bool)
    expected[9, 8:11] = True
    expected[10, 9:11] = True
    assert np.array_equal(masks_of(tmp_path, MASK)["scratch"], expected)


def test_a_turned_ellipse_stands_upright(tmp_path: Path) -> None:
    mask = masks_of(tmp_path, ELLIPSE)["dent"]
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max()) == (3, 26)
    assert (columns.min(), columns.max()) == (16, 23)
    assert mask.sum() == pytest.approx(np.pi * 12 * 4, rel=0.02)


def test_a_box_turns_about_its_middle(tmp_path: Path) -> None:
    turned = BOX.format(label="dent").replace('ybr="13.00"', 'ybr="13.00" rotation="90.00"')
    assert np.array_equal(masks_of(tmp_path, turned)["dent"], block(3, 12, 15, 20))


def test_shapes_of_a_class_are_united(tmp_path: Path) -> None:
    mask = masks_of(tmp_path, "\n".join([MASK, BOX.format(label="scratch")]))["scratch"]
    assert mask.sum() == (block(5, 10, 13, 22)).sum() + 3 + 2 - 2  # two pixels of the mask lie in the box


def test_tags_and_lines_say_that_a_class_is_there_but_not_where(tmp_path: Path) -> None:
    images = {"a.png": "\n".join([TAG, BOX.format(label="scratch")]), "b.png": "\n".join([POLYLINE, MASK])}
    with open_source(cvat_export(tmp_path / "export", images)) as source:
        data, masks = read(source.folder)
        assert any("dent" in note and "not where" in note for note in source.notes)
    assert data.samples["a"].presence == {"scratch": True, "dent": True}
    assert masks["a"].keys() == {"scratch"}
    assert not data.samples["a"].has_masks
    # The mask beside the line does not tell all of the scratches.
    assert data.samples["b"].presence == {"scratch": True, "dent": False}
    assert not masks["b"]


def test_labels_of_points_and_parts_of_skeletons_are_not_learnt(tmp_path: Path) -> None:
    points = '    <points label="corner" source="manual" occluded="0" points="3.00,4.00" z_order="0">\n    </points>'
    labels = {"scratch": "mask", "corner": "points", "hand": "skeleton"}
    part = CVAT_LABEL.format(name="thumb", kind="points", parent="\n          <parent>hand</parent>")
    images = {"a.png": "\n".join([points, MASK])}
    with open_source(cvat_export(tmp_path / "export", images, labels=labels, extra=part)) as source:
        assert read(source.folder)[0].classes == ("scratch",)
        assert any("corner" in note and "points" in note for note in source.notes)


LESION = (
    '    <polygon label="scratch" source="manual" occluded="0" points="4,5;20,5;20,21;4,21" z_order="{z}"></polygon>'
)
HOLE = '    <box label="{label}" source="manual" occluded="0" xtl="8" ytl="9" xbr="14" ybr="15" z_order="{z}"></box>'
LABELS = {"scratch": "any", "dent": "any", "background": "any"}


@pytest.mark.parametrize(
    ("shapes", "cut"),
    [
        ([LESION.format(z=0), HOLE.format(label="background", z=1)], True),
        ([HOLE.format(label="background", z=1), LESION.format(z=0)], True),
        ([LESION.format(z=2), HOLE.format(label="background", z=1)], False),
        ([HOLE.format(label="background", z=0), LESION.format(z=0)], False),
        ([LESION.format(z=0), HOLE.format(label="background", z=0)], True),
        ([LESION.format(z=-3), HOLE.format(label="background", z=-2)], True),
        ([LESION.format(z=0), HOLE.format(label="background", z=1), HOLE.format(label="scratch", z=2)], False),
        ([LESION.format(z=0), HOLE.format(label="dent", z=1)], False),
        ([LESION.format(z=0), HOLE.format(label="Background", z=1)], True),
        ([LESION.format(z=0), '<tag label="background" source="manual"></tag>'], False),
        ([LESION.format(z=0), HOLE.format(label="background", z=1).replace('"8"', '"x"')], None),
    ],
)
def test_background_cuts_what_lies_below_it_and_is_no_class(
    tmp_path: Path, shapes: list[str], cut: bool | None
) -> None:
    labels = LABELS | ({"Background": "any"} if "Background" in "".join(shapes) else {})
    images = {"a.png": "\n".join(shapes), "b.png": BOX.format(label="dent")}
    with open_source(cvat_export(tmp_path / "export", images, labels=labels)) as source:
        data, masks = read(source.folder)
    assert data.classes == ("scratch", "dent")
    if cut is None:  # where the hole is cannot be read, so that the rest is not known
        assert "scratch" not in data.samples["a"].presence
    else:
        whole = block(5, 4, 21, 20)
        assert np.array_equal(masks["a"]["scratch"], whole & ~block(9, 8, 15, 14) if cut else whole)
    assert np.array_equal(masks["b"]["dent"], block(5, 10, 13, 22))


def test_subsets_of_a_project_become_the_split(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    text = ""
    for i, subset in enumerate(("Train", "Validation")):
        picture(folder / "images" / subset / f"{i}.png")
        text += (
            f'  <image id="0" name="{i}.png" subset="{subset}" task_id="{i}" width="{WIDTH}" height="{HEIGHT}">\n'
            f"{MASK}\n  </image>\n"
        )
    (folder / "annotations.xml").write_text(cvat_xml({}, more=text))
    with open_source(folder) as source:
        assert read(source.folder)[0].splits == {"train": ("0",), "val": ("1",)}


@pytest.mark.parametrize("of", ["project", "job"])
def test_a_project_of_several_tasks_and_a_single_job_are_read_like_a_task(tmp_path: Path, of: str) -> None:
    """A project's labels stand beside its tasks, and its images carry their task's number."""
    text = ""
    for task in (4, 5):
        picture(tmp_path / "export" / "images" / "default" / f"{task}.png")
        text += (
            f'  <image id="0" name="{task}.png" subset="default" task_id="{task}" width="{WIDTH}" height="{HEIGHT}">\n'
            f"{MASK if task == 4 else ELLIPSE}\n  </image>\n"
        )
    xml = cvat_xml({}, more=text).replace("<task>", f"<{of}>").replace("</task>", f"</{of}>")
    if of == "project":
        xml = xml.replace("<owner>", "<tasks><task><id>4</id></task><task><id>5</id></task></tasks><owner>")
    (tmp_path / "export" / "annotations.xml").write_text(xml)
    with open_source(packed(tmp_path / "export.zip", tmp_path / "export")) as source:
        data, masks = read(source.folder)
    assert data.classes == ("scratch", "dent")
    assert {name: list(found) for name, found in masks.items()} == {"4": ["scratch"], "5": ["dent"]}


def test_frames_of_a_video_have_no_ending_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    picture(folder / "images" / "frame_000000.PNG")
    (folder / "annotations.xml").write_text(cvat_xml({"frame_000000": MASK}))
    with open_source(folder) as source:
        assert list(read(source.folder)[0].samples) == ["frame_000000"]


def test_the_file_alone_finds_its_images_elsewhere(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "a.png")
    file = tmp_path / "export" / "annotations.xml"
    file.parent.mkdir()
    file.write_text(cvat_xml({"a.png": MASK}))
    with open_source(file, images=tmp_path / "pictures") as source:
        assert list(read(source.folder)[0].samples) == ["a"]
    with (
        pytest.raises(DataError, match=r"a\.png is not in .*export with images, or name their folder with --images"),
        open_source(file),
    ):
        pass


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('width="40" height', 'width="41" height', r"a\.png is 40x30 as it is shown, but was annotated at 41x30"),
        ('label="scratch" source="semi', 'label="rust" source="semi', r"label 'rust' is not among the export's"),
        ('name="a.png"', "", "it lacks a name"),
        ('mask label="scratch"', "mask", "label ''"),
        ('name="a.png"', 'name="../../../secret.png"', "is not in"),
    ],
)
def test_what_is_inconsistent_is_named(tmp_path: Path, before: str, after: str, said: str) -> None:
    picture(tmp_path / "secret.png")
    text = cvat_xml({"a.png": MASK})
    assert before in text
    picture(tmp_path / "export" / "images" / "a.png")
    (tmp_path / "export" / "annotations.xml").write_text(text.replace(before, after))
    with pytest.raises(DataError, match=said), open_source(tmp_path / "export"):
        pass


@pytest.mark.parametrize(
    ("shape", "before", "after", "said"),
    [
        (MASK, 'rle="1, 3, 2, 2"', 'rle="1, 3, 2"', "must add up to 4x2, they add up to 6"),
        (MASK, 'rle="1, 3, 2, 2"', 'rle="1, -3, 8, 2"', "must add up"),
        (MASK, 'rle="1, 3, 2, 2"', 'rle="one"', "its rle must be run lengths"),
        (MASK, 'rle="1, 3, 2, 2"', "", "its rle must be run lengths"),
        (MASK, 'left="7"', 'left="37"', "its box of 4x2 at 37, 9 is not within the image"),
        (MASK, 'left="7"', 'left="nan"', "left must be a number, it is 'nan'"),
        *(
            (POLYGON, "10.00,5.00;22.00,5.00;22.00,13.00;10.00,13.00", points, said)
            for points, said in (
                ("1,2;3", "its points must be x,y"),
                ("1,2;x,4;5,6", "its points must be x,y"),
                ("", "its points must be x,y"),
                ("1,2;inf,4;5,6", "infinite"),
                ("1,2;3,4", "no area"),
            )
        ),
        (ELLIPSE, 'rx="12.00"', 'rx="0"', "no area"),
        (ELLIPSE, 'rotation="90.00"', 'rotation="up"', "rotation must be a number"),
        (BOX.format(label="dent"), 'xtl="10.00"', "", "xtl must be a number"),
    ],
)
def test_a_shape_that_cannot_be_read_makes_its_class_unknown_there_and_is_named(
    tmp_path: Path, shape: str, before: str, after: str, said: str
) -> None:
    assert before in shape
    images = {"a.png": shape.replace(before, after), "b.png": "\n".join([MASK, POLYGON])}
    with open_source(cvat_export(tmp_path / "export", images)) as source:
        data, masks = read(source.folder)
        assert any(said in note and "a.png" in note for note in source.notes)
    label = "scratch" if shape is MASK else "dent"
    assert label not in data.samples["a"].presence
    assert not masks["a"]
    assert {*data.samples["a"].presence.values()} == {False}
    assert masks["b"].keys() == {"scratch", "dent"}


def test_labels_of_any_text_are_learnt(tmp_path: Path) -> None:
    labels = {"name": "any", "a/b": "any", "lèsion 1": "any"}
    shapes = "\n".join(BOX.format(label=label) for label in labels)
    with open_source(cvat_export(tmp_path / "export", {"a.png": shapes}, labels=labels)) as source:
        data, masks = read(source.folder)
    assert data.classes == (*labels,)
    assert masks["a"].keys() == labels.keys()


def test_a_missing_size_is_that_of_the_file(tmp_path: Path) -> None:
    folder = cvat_export(tmp_path / "export", {"a.png": POLYGON}, width="", height="")
    with open_source(folder) as source:
        assert np.array_equal(read(source.folder)[1]["a"]["dent"], block(5, 10, 13, 22))


def test_skip_bad_goes_on_and_counts(tmp_path: Path) -> None:
    images = {"a.png": MASK, "b.png": MASK.replace("scratch", "rust"), "c.png": POLYGON}
    folder = cvat_export(tmp_path / "export", images)
    with open_source(folder, skip_bad=True) as source:
        data, _ = read(source.folder)
    assert list(data.samples) == ["a", "c"]
    assert any("'rust'" in why for why in data.skipped.values())


def test_entities_are_refused(tmp_path: Path) -> None:
    """A few lines of XML that would expand to gigabytes."""
    head = '<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b "0123456789">]>\n'
    (tmp_path / "annotations.xml").write_text(head + cvat_xml({}).partition("\n")[2])
    with pytest.raises(DataError, match=r"annotations\.xml is refused"), open_source(tmp_path / "annotations.xml"):
        pass
