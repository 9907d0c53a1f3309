"""COCO instances: polygons, both run-length encodings, boxes, and how the subsets and images lie in an archive."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.sources.coco import _lengths
from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources.exports import HEIGHT, WIDTH, block, coco, packed, picture, read, write_json

SQUARE = {"image_id": 1, "category_id": 1, "segmentation": [[10, 5, 22, 5, 22, 13, 10, 13]]}
# A block of 2 x 3 pixels at row 5, column 6, column after column: as CVAT writes its masks.
RUNS = {"counts": [6 * 30 + 5, 2, 28, 2, 28, 2, 40 * 30 - 6 * 30 - 5 - 62], "size": [HEIGHT, WIDTH]}


def export(folder: Path, annotations: list[dict[str, Any]], images: tuple[str, ...] = ("a.png",)) -> Path:
    for name in images:
        picture(folder / "images" / "default" / name)
    write_json(folder / "annotations" / "instances_default.json", coco(list(images), annotations))
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
    assert np.array_equal(masks["sub-b"]["dent"], block(5, 6, 7, 9))
    assert data.samples["c"].presence == {"scratch": False, "dent": False}
    assert data.splits == {}


def test_several_polygons_are_one_object(tmp_path: Path) -> None:
    mask = masks_of(tmp_path, segmentation=[[0, 0, 4, 0, 4, 4, 0, 4], [10, 10, 15, 10, 15, 15, 10, 15]])["scratch"]
    assert np.array_equal(mask, block(0, 0, 4, 4) | block(10, 10, 15, 15))


def test_a_box_alone_is_filled(tmp_path: Path) -> None:
    assert np.array_equal(masks_of(tmp_path, segmentation=[], bbox=[3, 4, 10, 6])["scratch"], block(4, 3, 10, 13))


def test_an_annotation_without_a_place_says_that_the_class_is_there(tmp_path: Path) -> None:
    with open_source(export(tmp_path / "export", [SQUARE | {"segmentation": [], "bbox": []}])) as source:
        sample = read(source.folder)[0].samples["a"]
    assert sample.presence["scratch"]
    assert not sample.has_masks


def test_compressed_runs_are_those_of_pycocotools() -> None:
    """pycocotools 2.0.11 encoded a block with a hole and a pixel in the last corner."""
    mask = np.zeros((12, 17), dtype=bool)
    mask[2:9, 3:11] = True
    mask[4, 5] = False
    mask[11, 16] = True
    lengths = _lengths("V17500KL24300000000U2J")
    assert np.array_equal(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(17, 12).T, mask)


def compressed(lengths: list[int]) -> str:
    """rleToString of pycocotools' maskApi.c."""
    text = ""
    for i, length in enumerate(lengths):
        value = length - lengths[i - 2] if i > 2 else length
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(bits + 32 * more + 48)
            if not more:
                break
    return text


@given(st.lists(st.integers(0, 10**6), max_size=30))
def test_compression_loses_nothing(lengths: list[int]) -> None:
    assert _lengths(compressed(lengths)) == lengths


def test_compressed_runs_become_the_mask(tmp_path: Path) -> None:
    mask = masks_of(tmp_path, segmentation=RUNS | {"counts": compressed(RUNS["counts"])})["scratch"]
    assert np.array_equal(mask, block(5, 6, 7, 9))


def test_each_file_is_a_subset(tmp_path: Path) -> None:
    """The same name in two subsets is two images."""
    for subset in ("train", "val"):
        picture(tmp_path / "images" / subset / "a.png")
        write_json(tmp_path / "annotations" / f"instances_{subset}.json", coco(["a.png"], [SQUARE]))
        write_json(tmp_path / "annotations" / f"person_keypoints_{subset}.json", coco(["a.png"], []))
    with open_source(tmp_path) as source:
        data, masks = read(source.folder)
    assert data.splits == {"train": ("a",), "val": ("a-1",)}
    assert masks["a"].keys() == masks["a-1"].keys() == {"scratch"}


def test_images_may_lie_beside_the_file_in_the_folder_of_a_subset(tmp_path: Path) -> None:
    for subset in ("train", "valid"):
        picture(tmp_path / subset / f"{subset}.png")
        write_json(tmp_path / subset / "_annotations.coco.json", coco([f"{subset}.png"], [SQUARE]))
    with open_source(tmp_path) as source:
        assert read(source.folder)[0].splits == {"train": ("train",), "val": ("valid",)}


def test_a_file_alone_finds_its_images_beside_it_or_where_it_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "pictures" / "a.png")
    file = write_json(tmp_path / "result.json", coco(["pictures\\a.png"], [SQUARE]))
    with open_source(file) as source:
        assert list(read(source.folder)[0].samples) == ["pictures-a"]
    with open_source(
        write_json(tmp_path / "b.json", coco(["a.png"], [SQUARE])), images=tmp_path / "pictures"
    ) as source:
        assert list(read(source.folder)[0].samples) == ["a"]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"segmentation": RUNS | {"size": [WIDTH, HEIGHT]}}, r"its RLE is of size \[40, 30\], the image is \[30, 40\]"),
        ({"segmentation": RUNS | {"counts": [5, 100_000]}}, "must add up to"),
        ({"segmentation": RUNS | {"counts": [-5, 1205]}}, "must add up to"),
        ({"segmentation": RUNS | {"counts": "\0\0\0"}}, "must add up to"),
        ({"segmentation": RUNS | {"counts": "o" * 100}}, "longer than any image"),
        ({"segmentation": {"counts": "abc"}}, "its RLE cannot be read"),
        ({"segmentation": [[1, 2, 3]]}, "its polygons must be lists"),
        ({"segmentation": [[1, 2, 3, None, 5, 6]]}, "its polygons must be lists"),
        ({"segmentation": "somewhere"}, "its polygons must be lists"),
        ({"segmentation": [], "bbox": [1, 2]}, "its bbox must be x, y, width, height"),
        ({"category_id": 7}, "a.png has an annotation of category 7, which is not listed"),
        ({"image_id": 7}, "it has annotations of image 7, which it does not list"),
    ],
)
def test_what_is_inconsistent_is_named(tmp_path: Path, annotation: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        masks_of(tmp_path, **annotation)


def test_an_image_that_is_annotated_twice_would_be_learnt_from_and_held_out(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    for subset in ("train", "val"):
        write_json(tmp_path / "annotations" / f"instances_{subset}.json", coco(["a.png"], [SQUARE]))
    with pytest.raises(DataError, match=r"a\.png is annotated twice"), open_source(tmp_path):
        pass


@pytest.mark.parametrize("table", ["images", "annotations", "categories"])
def test_a_missing_field_is_named(tmp_path: Path, table: str) -> None:
    content = coco(["a.png"], [SQUARE])
    field = {"images": "file_name", "annotations": "image_id", "categories": "name"}[table]
    del content[table][0][field]
    with pytest.raises(DataError, match=f"lacks '{field}'"), open_source(write_json(tmp_path / "x.json", content)):
        pass


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
        assert json.loads((source.folder / "groups.json").read_text()) == {
            "train-0": "P1",
            "train-1": "P2",
            "train-2": "P1",
            "val-0": "P3",
        }
        assert read(source.folder)[0].splits == {"train": ("train-0", "train-1", "train-2"), "val": ("val-0",)}
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
        assert set(read(source.folder)[0].splits) == {"train", "val"}
