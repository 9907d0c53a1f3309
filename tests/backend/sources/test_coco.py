"""COCO instances: how files, tables and images lie in an export, and which rows are left out by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources.exports import HEIGHT, WIDTH, block, coco, packed, picture, read, write_json

SQUARE = {"image_id": 1, "category_id": 1, "segmentation": [[10, 5, 22, 5, 22, 13, 10, 13]]}
SECOND = {"image_id": 2, "category_id": 2, "segmentation": [[10, 5, 22, 5, 22, 13, 10, 13]]}
# A block of 2 x 3 pixels at row 5, column 6, column after column: as CVAT writes its masks.
RUNS = {"counts": [6 * 30 + 5, 2, 28, 2, 28, 2, 40 * 30 - 6 * 30 - 5 - 62], "size": [HEIGHT, WIDTH]}

# The same block row after row, as scripts write it that forget to transpose.
ROW_AFTER_ROW = {"counts": [5 * 40 + 6, 3, 37, 3, 30 * 40 - 5 * 40 - 6 - 43], "size": [HEIGHT, WIDTH]}


def export(folder: Path, annotations: list[dict[str, Any]], images: tuple[str, ...] = ("a.png",)) -> Path:
    for name in images:
        picture(folder / "images" / "default" / name)
    write_json(folder / "annotations" / "instances_default.json", coco(list(images), annotations))
    return folder


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """An export of a.png and b.png, each with a square, whose file was changed."""
    path = export(folder, [SQUARE, SECOND], ("a.png", "b.png")) / "annotations" / "instances_default.json"
    content = json.loads(path.read_text())
    change(content)
    write_json(path, content)
    return folder


def masks_of(tmp_path: Path, **annotation: Any) -> dict[str, np.ndarray]:
    with open_source(export(tmp_path / "export", [SQUARE | annotation])) as source:
        return read(source.folder)[1]["a"]


def test_a_zip_as_cvat_writes_it_becomes_a_data_folder(tmp_path: Path) -> None:
    annotations = [SQUARE, {"image_id": 2, "category_id": 2, "segmentation": RUNS, "iscrowd": 1}]
    folder = export(tmp_path / "export", annotations, ("a.png", "sub/b.png", "c.png"))
    with open_source(packed(tmp_path / "export.zip", folder)) as source:
        data, masks = read(source.folder)
    assert data.classes == ("scratch", "dent")
    assert np.array_equal(masks["a"]["scratch"], block(5, 10, 13, 22))
    assert np.array_equal(masks["b"]["dent"], block(5, 6, 7, 9))
    assert data.samples["c"].presence == {"scratch": False, "dent": False}
    assert data.splits == {}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (
            {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4], [10, 10, 15, 10, 15, 15, 10, 15]]},
            [(0, 0, 4, 4), (10, 10, 15, 15)],
        ),
        ({"segmentation": [], "bbox": [3, 4, 10, 6]}, [(4, 3, 10, 13)]),
        ({"segmentation": [[]], "bbox": [3, 4, 10, 6]}, [(4, 3, 10, 13)]),
        ({"segmentation": None, "bbox": [3, 4, 10, 6]}, [(4, 3, 10, 13)]),
        ({"segmentation": [], "bbox": [3, 4, 10, 6], "attributes": {"rotation": 90.0}}, [(2, 5, 12, 11)]),
        ({"segmentation": [RUNS, RUNS]}, [(5, 6, 7, 9)]),
        ({"segmentation": [[4, 5], [14, 5], [14, 13], [4, 13]]}, [(5, 4, 13, 14)]),
        ({"id": "one", "category_id": "1", "image_id": 1.0}, [(5, 10, 13, 22)]),
    ],
)
def test_an_annotation_becomes_a_mask(
    tmp_path: Path, annotation: dict[str, Any], expected: list[tuple[int, int, int, int]]
) -> None:
    wanted = np.logical_or.reduce([block(*place) for place in expected])
    assert np.array_equal(masks_of(tmp_path, **annotation)["scratch"], wanted)


@pytest.mark.parametrize(
    "annotation", [{"segmentation": [], "bbox": []}, {"segmentation": [], "keypoints": [5, 5, 2], "num_keypoints": 1}]
)
def test_an_annotation_without_a_place_says_that_the_class_is_there(tmp_path: Path, annotation: dict[str, Any]) -> None:
    with open_source(export(tmp_path / "export", [SQUARE | annotation, SECOND], ("a.png", "b.png"))) as source:
        sample = read(source.folder)[0].samples["a"]
    assert sample.presence["scratch"] is True
    assert not sample.has_masks


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"segmentation": RUNS | {"size": [WIDTH, HEIGHT]}}, "its RLE is of size"),
        ({"segmentation": [RUNS, [1, 2, 3]]}, "its polygons must be lists"),
        ({"segmentation": [[4, 5, 14, 13]], "bbox": [4, 5, 10, 8]}, "its outline has no area"),
        ({"segmentation": [[100, 100, 110, 100, 110, 110]]}, "no area"),
        ({"segmentation": ROW_AFTER_ROW, "bbox": [6, 5, 3, 2]}, "most of its outline lies outside of its bbox"),
        ({"segmentation": [[5, 22, 5, 30, 13, 30, 13, 22]], "bbox": [22, 5, 8, 8]}, "most of its outline lies outside"),
        ({"segmentation": [], "bbox": [30, 20, 38, 28]}, "only if they are corners, such as [30, 20, 38, 28]"),
        ({"segmentation": [], "bbox": [1, 2]}, "its bbox must be x, y, width, height"),
        ({"segmentation": [], "bbox": [1, 2, float("nan"), 4]}, "its bbox must be x, y, width, height"),
    ],
)
def test_an_outline_that_cannot_be_read_makes_its_class_unknown_there_and_is_named(
    tmp_path: Path, annotation: dict[str, Any], said: str
) -> None:
    with open_source(export(tmp_path / "export", [SQUARE | annotation, SECOND], ("a.png", "b.png"))) as source:
        data, masks = read(source.folder)
        assert any(said in note and "a.png" in note for note in source.notes)
    assert "scratch" not in data.samples["a"].presence
    assert data.samples["a"].presence["dent"] is False
    assert "scratch" not in masks["a"]
    assert np.array_equal(masks["b"]["dent"], block(5, 10, 13, 22))


@pytest.mark.parametrize(
    "boxes",
    [
        [[30, 20, 38, 28], [10, 10, 5, 5]],  # the second has its right before its left, if these are corners
        [[2, 2, 40, 30]],  # a little too large
        [[30, 20, 38, 45]],  # neither fits
    ],
)
def test_boxes_beyond_the_edge_are_cut_where_they_are_no_corners(tmp_path: Path, boxes: list[list[int]]) -> None:
    annotations = [SQUARE | {"segmentation": [], "bbox": box} for box in boxes]
    with open_source(export(tmp_path / "export", annotations)) as source:
        mask = read(source.folder)[1]["a"]["scratch"]
    left, top = boxes[0][:2]
    assert mask[top:, left:].all()


@pytest.mark.parametrize(
    ("area", "hole"),
    [(96 - 32, True), (65.5, True), (96, False), (96 + 32, False), (1, False), (40, False), ("x", False)],
)
def test_a_polygon_within_another_is_a_hole_where_the_area_says_so(tmp_path: Path, area: Any, hole: bool) -> None:
    """Scripts write the inner contours that OpenCV finds beside the outer ones, and the area of the mask."""
    rings = [[10, 5, 22, 5, 22, 13, 10, 13], [12, 7, 20, 7, 20, 11, 12, 11]]
    expected = block(5, 10, 13, 22) & ~(block(7, 12, 11, 20) & hole)
    assert np.array_equal(masks_of(tmp_path, segmentation=rings, area=area)["scratch"], expected)


@pytest.mark.parametrize("box", [[10, 5, 22, 13], [0.25, 0.1, 0.3, 0.2], [0, 0, 0, 0], [9, 4, 14, 10], None, "x"])
def test_an_outline_is_believed_beside_a_box_that_does_not_exclude_it(tmp_path: Path, box: Any) -> None:
    """Corners, parts of the size, nothing: boxes are written carelessly beside outlines."""
    assert np.array_equal(masks_of(tmp_path, bbox=box)["scratch"], block(5, 10, 13, 22))


def set_row(table: str, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    """Sets fields of a table's first row; a field of None is taken out."""

    def change(content: dict[str, Any]) -> None:
        row = content[table][0]
        row |= fields
        for name in [name for name, value in fields.items() if value is None]:
            del row[name]

    return change


def add_row(table: str, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content[table].append(fields)


BAD_ROWS = {
    "image not listed": (set_row("annotations", image_id=99), "annotation 1", "image 99, which the file does not list"),
    "image missing": (set_row("annotations", image_id=None), "annotation 1", "image None"),
    "image is a list": (set_row("annotations", image_id=[1]), "annotation 1", r"image \[1\]"),
    "annotation of no fields": (lambda c: c["annotations"].append(7), "annotation no. 3", "it is of image 7"),
    "annotation is null": (lambda c: c["annotations"].append(None), "annotation no. 3", "it is of image None"),
    "category not listed": (set_row("annotations", category_id=7), "a.png", "annotation 1 .* category 7, which is not"),
    "category missing": (set_row("annotations", category_id=None), "a.png", "annotation 1 .* category None"),
    "category true": (set_row("annotations", category_id=True), "a.png", "annotation 1 .* category True"),
    "category without name": (set_row("categories", name=None), "category 1", "it lacks a name"),
    "category without id": (set_row("categories", id=None), "category no. 1", "it lacks an id"),
    "category twice": (add_row("categories", id=1, name="rust"), "category 1", "'scratch' and of 'rust'"),
    "no file name": (set_row("images", file_name=None), "image 1", "it lacks a file_name"),
    "empty file name": (set_row("images", file_name=" "), "image 1", "it lacks a file_name"),
    "image without id": (set_row("images", id=None), "a.png", "it lacks an id"),
    "image id twice": (add_row("images", id=1, file_name="c.png"), "a.png", "2 images have the id 1"),
    "image is a text": (lambda c: c["images"].append("c.png"), "image no. 3", "it lacks a file_name"),
    "another size": (set_row("images", width=41), "a.png", "40x30 .* 41x30"),
    "no such file": (set_row("images", file_name="gone.png"), "gone.png", "is not in"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_row_that_does_not_fit_is_named_first_and_left_out_with_skip_bad(tmp_path: Path, case: str) -> None:
    change, what, why = BAD_ROWS[case]
    folder = changed(tmp_path / "export", change)
    with pytest.raises(DataError, match=why), open_source(folder):
        pass
    with open_source(folder, skip_bad=True) as source:
        data, masks = read(source.folder)
    assert any(what in row for row in data.skipped)
    assert np.array_equal(masks["b"]["dent"], block(5, 10, 13, 22))
    if what == "a.png" or case.startswith("category"):
        assert "a" not in data.samples  # its class is not known: nothing is learnt from the image


@pytest.mark.parametrize(
    "fields", [{"width": None}, {"width": float("nan")}, {"height": "x"}, {"width": 0}, {"height": -1}, {"width": 40.5}]
)
def test_a_size_that_is_missing_is_that_of_the_file(tmp_path: Path, fields: dict[str, Any]) -> None:
    with open_source(changed(tmp_path / "export", set_row("images", **fields))) as source:
        assert np.array_equal(read(source.folder)[1]["a"]["scratch"], block(5, 10, 13, 22))


def test_equal_ids_of_annotations_do_no_harm(tmp_path: Path) -> None:
    with open_source(changed(tmp_path / "export", set_row("annotations", id=2))) as source:
        assert read(source.folder)[1].keys() == {"a", "b"}


@pytest.mark.parametrize(
    "layout",
    [
        "annotations/instances_{}.json images/{}",
        "annotations/{}.json images/{}",
        "annotations/instances_{}2017.json {}2017",
        "{}/_annotations.coco.json {}",
        "{}/annotations/instances.json {}/images",
        "instances_{}.json {}",
    ],
)
@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_names_of_files_and_folders_become_the_split(tmp_path: Path, layout: str, val: str) -> None:
    """Equal names in two subsets are two images. Files of other kinds beside the instances are not read."""
    for subset in ("train", val, "test"):
        file, folder = (part.format(subset) for part in layout.split())
        picture(tmp_path / folder / "a.png")
        picture(tmp_path / folder / f"{subset}.png")
        path = write_json(tmp_path / file, coco(["a.png", f"{subset}.png"], [SQUARE]))
        if path.name.startswith("instances_"):
            write_json(path.with_name(path.name.replace("instances", "person_keypoints")), coco(["a.png"], []))
    with open_source(tmp_path) as source:
        data, masks = read(source.folder)
    assert {split: len(names) for split, names in data.splits.items()} == {"train": 2, "val": 2, "test": 2}
    for split, subset in (("train", "train"), ("val", val), ("test", "test")):
        assert subset in data.splits[split]
    assert sum("scratch" in drawn for drawn in masks.values()) == 3


def test_folders_in_the_names_of_images_become_the_split(tmp_path: Path) -> None:
    names = ["train/a.png", "val/b.png"]
    for name in names:
        picture(tmp_path / name)
    write_json(tmp_path / "labels.json", coco(names, [SQUARE]))
    with open_source(tmp_path) as source:
        assert read(source.folder)[0].splits["val"] == ("b",)


@pytest.mark.parametrize(
    "recorded",
    [
        *("a.png", "images/a.png", "images\\a.png", "C:\\data\\images\\a.png", "/home/someone/images/a.png"),
        *(
            "../../label-studio/data/media/upload/4/cb0618f6-a.png",
            "http://localhost:8080/data/upload/4/cb0618f6-a.png",
        ),
        *("/data/local-files/?d=images/a.png", "s3://bucket/images/a.png", "https://host/images/a.png?sign=1"),
    ],
)
def test_images_are_found_by_what_the_file_records(tmp_path: Path, recorded: str) -> None:
    name = "cb0618f6-a.png" if "cb0618f6" in recorded else "a.png"
    picture(tmp_path / "images" / name)
    with open_source(write_json(tmp_path / "result.json", coco([recorded], [SQUARE]))) as source:
        (masks,) = read(source.folder)[1].values()
    assert np.array_equal(masks["scratch"], block(5, 10, 13, 22))


def test_an_image_that_is_annotated_twice_would_be_learnt_from_and_held_out(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    for subset in ("train", "val"):
        write_json(tmp_path / "annotations" / f"instances_{subset}.json", coco(["a.png"], [SQUARE]))
    with pytest.raises(DataError, match="twice"), open_source(tmp_path):
        pass


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"annotations": [{"image_id": 1, "caption": "a scratch"}], "categories": None}, "captions"),
        ({"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}]}, "panoptic segments"),
        ({"annotations": [SQUARE | {"segmentation": [], "keypoints": [1, 1, 2]}]}, "keypoints"),
        ({"categories": None}, "no categories"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, content: dict[str, Any], kind: str) -> None:
    picture(tmp_path / "images" / "a.png")
    write_json(tmp_path / "some.json", coco(["a.png"], []) | content)
    with pytest.raises(DataError, match=rf"some\.json has {kind}.*export COCO instances"), open_source(tmp_path):
        pass
    write_json(tmp_path / "instances.json", coco(["a.png"], [SQUARE]))
    with open_source(tmp_path) as source:
        assert any(f"some.json has {kind}" in note for note in source.notes)
        assert read(source.folder)[1]["a"].keys() == {"scratch"}


def grouped(folder: Path, subsets: dict[str, list[str]], annotated: list[str]) -> Path:
    """An export with a file per subset; the images of each are of these patients."""
    for subset, patients in subsets.items():
        names = [f"{subset}-{number}.png" for number in range(len(patients))]
        for name in names:
            picture(folder / "images" / subset / name)
        content = coco(names, [SQUARE])
        for image, patient in zip(content["images"], patients, strict=True):
            image |= {"patient": patient} if subset in annotated else {}
        write_json(folder / "annotations" / f"instances_{subset}.json", content)
    return folder


def test_groups_are_read_from_a_field_that_all_images_have(tmp_path: Path) -> None:
    patients = {"train": ["P1", "P2", "P1"], "val": ["P3"]}
    with open_source(grouped(tmp_path / "export", patients, ["train", "val"])) as source:
        data = read(source.folder)[0]
        assert {name: sample.group for name, sample in data.samples.items()} == {
            "train-0": "P1",
            "train-1": "P2",
            "train-2": "P1",
            "val-0": "P3",
        }
        assert data.splits["val"] == ("val-0",)
        assert "Groups that are kept together: 3" in source.notes


def test_a_split_with_one_patient_on_both_sides_is_not_used(tmp_path: Path) -> None:
    patients = {"train": ["P1", "P2"], "val": ["P2"]}
    with open_source(grouped(tmp_path / "export", patients, ["train", "val"])) as source:
        assert read(source.folder)[0].splits == {}
        assert any("split is not used" in note and "'P2'" in note for note in source.notes)


def test_a_field_that_only_some_images_have_makes_no_groups(tmp_path: Path) -> None:
    patients = {"train": ["P1", "P2"], "val": ["P2"]}
    with open_source(grouped(tmp_path / "export", patients, ["train"])) as source:
        assert not (source.folder / "groups.json").exists()
        assert {"train", "val"} <= set(read(source.folder)[0].splits)


@pytest.mark.parametrize(
    "annotation",
    [
        {"segmentation": [[0.25, 0.2, 0.75, 0.2, 0.75, 0.8, 0.25, 0.8]], "bbox": [0.25, 0.2, 0.5, 0.6]},
        {"segmentation": [[[0.25, 0.2], [0.75, 0.2], [0.75, 0.8], [0.25, 0.8]]]},
        {"segmentation": [], "bbox": [0.25, 0.2, 0.5, 0.6]},
    ],
)
def test_corners_in_parts_of_the_images_size_become_pixels(tmp_path: Path, annotation: dict[str, Any]) -> None:
    other = {"image_id": 1, "category_id": 2, "segmentation": RUNS}
    with open_source(export(tmp_path / "export", [SQUARE | annotation, other])) as source:
        masks = read(source.folder)[1]["a"]
        assert any("parts of the image's size" in note for note in source.notes)
    assert np.array_equal(masks["scratch"], block(6, 10, 24, 30))
    assert np.array_equal(masks["dent"], block(5, 6, 7, 9))


def test_annotations_that_name_their_images_otherwise_are_refused(tmp_path: Path) -> None:
    def by_file(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["image_id"] = "a.png"

    folder = changed(tmp_path / "export", by_file)
    with (
        pytest.raises(DataError, match=r"the first is of 'a\.png', and the images have ids such as '1'"),
        open_source(folder, skip_bad=True),
    ):
        pass


def test_a_box_of_one_pixel_is_one(tmp_path: Path) -> None:
    assert masks_of(tmp_path, segmentation=[], bbox=[0, 0, 1, 1])["scratch"].sum() == 1


def test_a_contour_of_no_corner_is_nothing(tmp_path: Path) -> None:
    contour = [10, 5, 10, 12, 21, 12, 21, 5]
    masks = masks_of(tmp_path, segmentation=[[], contour], bbox=[10, 5, 12, 8])
    assert np.array_equal(masks["scratch"], block(5, 10, 13, 22))


def test_classes_that_an_image_was_not_searched_for_are_unknown(tmp_path: Path) -> None:
    def of_lvis(content: dict[str, Any]) -> None:
        content["categories"].append({"id": 3, "name": "rust"})
        first, second = content["images"]
        first |= {"coco_url": "http://host/train/a.png", "neg_category_ids": [2], "not_exhaustive_category_ids": []}
        first["file_name"] = None
        second |= {"neg_category_ids": [], "not_exhaustive_category_ids": [2]}

    with open_source(changed(tmp_path / "export", of_lvis)) as source:
        data, masks = read(source.folder)
    assert data.samples["a"].presence == {"scratch": True, "dent": False}
    assert data.samples["b"].presence == {"dent": True}
    assert {name: {*found} for name, found in masks.items()} == {"a": {"scratch"}, "b": set()}


@pytest.mark.parametrize(("of_image", "of_annotation"), [("000001", 1), (1, "000001"), (" 1", "1"), ("0", 0)])
def test_an_id_with_zeros_or_spaces_before_it_is_the_same(tmp_path: Path, of_image: Any, of_annotation: Any) -> None:
    def change(content: dict[str, Any]) -> None:
        content["images"][0]["id"] = of_image
        content["annotations"][0]["image_id"] = of_annotation

    with open_source(changed(tmp_path, change)) as source:
        assert list(read(source.folder)[1]["a"]) == ["scratch"]


def test_ids_that_differ_in_zeros_are_those_of_two_images_where_both_are_listed(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        for row, key in zip(content["images"], ("01", "1"), strict=True):
            row["id"] = key
        for row, key in zip(content["annotations"], ("1", "01"), strict=True):
            row["image_id"] = key

    with open_source(changed(tmp_path, change)) as source:
        _, masks = read(source.folder)
    assert (list(masks["a"]), list(masks["b"])) == (["dent"], ["scratch"])


def test_beside_an_annotation_of_no_listed_image_one_that_seems_empty_is_unknown(tmp_path: Path) -> None:
    """The annotation may be of it: nothing is learnt from that it has none."""
    with open_source(changed(tmp_path, lambda c: c["annotations"][0].update(image_id="a")), skip_bad=True) as source:
        samples = read(source.folder)[0].samples
    assert samples["a"].presence == {}
    assert samples["b"].presence == {"scratch": False, "dent": True}


def test_corners_that_are_written_as_text_may_be_parts_of_the_images_size(tmp_path: Path) -> None:
    masks = masks_of(tmp_path, segmentation=["0.25,0.5,0.75,0.5,0.75,1,0.25,1"])
    assert np.array_equal(masks["scratch"], block(15, 10, 30, 30))
