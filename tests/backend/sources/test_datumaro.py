"""CVAT's "Datumaro 1.0": every kind of annotation, subsets, and what is left out by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources.exports import HEIGHT, WIDTH, block, picture, read, write_json

POLYGON = {"type": "polygon", "label_id": 0, "points": [10.0, 5.0, 22.0, 5.0, 22.0, 13.0, 10.0, 13.0]}
# The same block of 2 x 3 pixels as in test_coco.py, as pycocotools writes it.
RLE = {"counts": [6 * 30 + 5, 2, 28, 2, 28, 2, 40 * 30 - 6 * 30 - 5 - 62], "size": [HEIGHT, WIDTH]}


def item(name: str, annotations: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    """An item as CVAT 2.80 writes it."""
    drawn = [
        {"id": i, "attributes": {"occluded": False}, "group": 0, "z_order": 0, **annotation}
        for i, annotation in enumerate(annotations)
    ]
    image = {"path": f"{name}.png", "size": [HEIGHT, WIDTH]}
    return {"id": name, "annotations": drawn, "attr": {"frame": 0}, "image": image, **fields}


def datumaro(items: list[Any], labels: tuple[Any, ...] = ("scratch", "dent")) -> dict[str, Any]:
    rows = [{"name": name, "parent": "", "attributes": []} for name in labels]
    return {
        "dm_format_version": "1.0",
        "media_type": 2,
        "info": {},
        "categories": {"label": {"label_groups": [], "labels": rows, "attributes": []}, "points": {"items": []}},
        "items": items,
    }


def export(folder: Path, *items: Any, labels: tuple[Any, ...] = ("scratch", "dent"), subset: str = "default") -> Path:
    for one in items:
        if isinstance(one, dict) and "image" in one:
            picture(folder / "images" / subset / one["image"]["path"])
    write_json(folder / "annotations" / f"{subset}.json", datumaro([*items], labels))
    return folder


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (POLYGON, block(5, 10, 13, 22)),
        ({"type": "bbox", "label_id": 0, "bbox": [10.0, 5.0, 12.0, 8.0]}, block(5, 10, 13, 22)),
        (
            {"type": "bbox", "label_id": 0, "bbox": [10.0, 5.0, 12.0, 8.0], "attributes": {"rotation": 90.0}},
            block(3, 12, 15, 20),
        ),
        ({"type": "mask", "label_id": 0, "rle": RLE}, block(5, 6, 7, 9)),
    ],
)
def test_an_annotation_becomes_a_mask(tmp_path: Path, annotation: dict[str, Any], expected: np.ndarray) -> None:
    with open_source(export(tmp_path / "export", item("a", [annotation]), item("b", []))) as source:
        data, masks = read(source.folder)
    assert data.classes == ("scratch", "dent")
    assert np.array_equal(masks["a"]["scratch"], expected)
    assert data.samples["b"].presence == {"scratch": False, "dent": False}


def test_an_ellipse_fills_its_box(tmp_path: Path) -> None:
    ellipse = {"type": "ellipse", "label_id": 1, "points": [10.0, 5.0, 30.0, 17.0]}
    with open_source(export(tmp_path / "export", item("a", [ellipse]))) as source:
        mask = read(source.folder)[1]["a"]["dent"]
    assert mask.sum() == pytest.approx(np.pi * 10 * 6, rel=0.03)


@pytest.mark.parametrize("kind", ["label", "points", "polyline", "cuboid_3d", "skeleton", "of a later version"])
def test_what_has_no_area_says_that_a_class_is_there(tmp_path: Path, kind: str) -> None:
    row = {"type": kind, "label_id": 1, "points": [1.0, 2.0]}
    with open_source(export(tmp_path / "export", item("a", [row]), item("b", [POLYGON]))) as source:
        data, masks = read(source.folder)
    assert data.samples["a"].presence == {"scratch": False, "dent": True}
    assert not masks["a"]


def test_background_cuts_what_lies_below_it(tmp_path: Path) -> None:
    hole = {"type": "bbox", "label_id": 1, "bbox": [12, 7, 4, 3], "z_order": 1}
    above = {"type": "bbox", "label_id": 0, "bbox": [12, 7, 1, 1], "z_order": 2}
    folder = export(tmp_path / "export", item("a", [above, hole, POLYGON]), labels=("scratch", "background"))
    with open_source(folder) as source:
        data, masks = read(source.folder)
    assert data.classes == ("scratch",)
    wanted = (block(5, 10, 13, 22) & ~block(7, 12, 10, 16)) | block(7, 12, 8, 13)
    assert np.array_equal(masks["a"]["scratch"], wanted)


def test_each_file_is_a_subset_with_its_own_order_of_labels(tmp_path: Path) -> None:
    export(tmp_path, item("a", [POLYGON]), subset="train")
    export(tmp_path, item("b", [POLYGON]), subset="val", labels=("dent", "scratch"))
    with open_source(tmp_path) as source:
        data, masks = read(source.folder)
    assert data.splits["train"] == ("a",)
    assert data.splits["val"] == ("b",)
    assert masks["a"].keys() == {"scratch"}
    assert masks["b"].keys() == {"dent"}


def test_groups_are_read_from_attributes(tmp_path: Path) -> None:
    items = [item(name, [POLYGON], attr={"patient": name[0]}) for name in ("p1", "p2", "q1")]
    with open_source(export(tmp_path / "export", *items)) as source:
        assert [sample.group for sample in read(source.folder)[0].samples.values()] == ["p", "p", "q"]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (POLYGON | {"points": [4, 5, 14, 13]}, "no area"),
        (POLYGON | {"points": None}, "its polygons must be lists"),
        ({"type": "mask", "label_id": 0, "rle": "abc"}, "its rle must be counts and size"),
        ({"type": "mask", "label_id": 0, "rle": RLE | {"size": [WIDTH, HEIGHT]}}, "its RLE is of size"),
        ({"type": "bbox", "label_id": 0}, "its bbox must be"),
        (
            {"type": "bbox", "label_id": 0, "bbox": [1, 2, 3, 4], "attributes": {"rotation": "up"}},
            "its rotation must be",
        ),
        ({"type": "ellipse", "label_id": 0, "points": [1, 2]}, "its ellipse must be"),
    ],
)
def test_a_shape_that_cannot_be_read_makes_its_class_unknown_there_and_is_named(
    tmp_path: Path, annotation: dict[str, Any], said: str
) -> None:
    with open_source(export(tmp_path / "export", item("a", [annotation]), item("b", [POLYGON]))) as source:
        data, masks = read(source.folder)
        assert any(said in note and "a.png" in note for note in source.notes)
    assert "scratch" not in data.samples["a"].presence
    assert masks["b"].keys() == {"scratch"}


@pytest.mark.parametrize(
    ("bad", "what", "why"),
    [
        (item("a", [POLYGON | {"label_id": 7}]), "a.png", "annotation no. 1 is of label 7, which is not listed"),
        (item("a", [POLYGON | {"label_id": None}]), "a.png", "is of label None"),
        (item("a", [POLYGON | {"label_id": True}]), "a.png", "is of label True"),
        (item("a", []) | {"annotations": ["x"]}, "a.png", "annotation no. 1 cannot be read"),
        (item("a", []) | {"annotations": 7}, "a.png", "its annotations are no list"),
        (item("a", []) | {"annotations": None}, "a.png", "its annotations are no list"),
        (item("a", []) | {"id": None}, "item no. 1 of default.json", "it lacks an id"),
        ("text", "item no. 1 of default.json", "it lacks an id"),
        (item("a", [], image={"path": "gone/a.png", "size": [1, 1]}), "a.png", "was annotated at 1x1"),
    ],
)
def test_what_does_not_fit_is_left_out_by_name(tmp_path: Path, bad: Any, what: str, why: str) -> None:
    folder = export(tmp_path / "export", bad, item("b", [POLYGON]))
    with pytest.raises(DataError, match=why), open_source(folder):
        pass
    with open_source(folder, skip_bad=True) as source:
        data, masks = read(source.folder)
    assert any(what in row for row in data.skipped)
    assert masks.keys() == {"b"}


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "default.json", {"items": [], "categories": {}})
    with pytest.raises(DataError, match=r"default\.json lists no labels"), open_source(tmp_path):
        pass
