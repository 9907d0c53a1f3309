"""Label Studio's JSON export without its server: labels from what was used, images from a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.label_studio.rle import encode_rle
from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources.exports import HEIGHT, WIDTH, block, picture, read, write_json

UPLOAD = "/data/upload/3/0123abcd-plate_1.png"


def region(kind: str, label: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "r", "type": kind, "from_name": kind, "to_name": "image", "origin": "manual", "image_rotation": 0,
        "original_width": WIDTH, "original_height": HEIGHT, "value": value | {kind: [label]},
    }  # fmt: skip


BRUSH = region("brushlabels", "scratch", {"format": "rle", "rle": encode_rle(block(5, 10, 13, 22))})
POLYGON = region("polygonlabels", "dent", {"points": [[25, 50], [75, 50], [75, 100], [25, 100]], "closed": True})
RECTANGLE = region("rectanglelabels", "dent", {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0})
ELLIPSE = region("ellipselabels", "dent", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0})


def choice(*taken: str) -> dict[str, Any]:
    return {"id": "c", "type": "choices", "from_name": "state", "to_name": "image", "value": {"choices": list(taken)}}


def task(number: int, *result: dict[str, Any], image: str = UPLOAD, **fields: Any) -> dict[str, Any]:
    annotation = {"id": number, "result": list(result), "was_cancelled": False, "updated_at": "2026-11-23T00:00:00Z"}
    return {"id": number, "data": {"image": image}, "annotations": [annotation | fields], "predictions": []}


def test_every_kind_of_region_becomes_a_mask(tmp_path: Path) -> None:
    picture(tmp_path / "0123abcd-plate_1.png")
    export = write_json(
        tmp_path / "export.json", [task(1, BRUSH, POLYGON), task(2, RECTANGLE), task(3, ELLIPSE), task(4)]
    )
    with open_source(export) as source:
        data, masks = read(source.folder)
        assert source.notes[1] == "4 accepted tasks: scratch on 1, dent on 3"
    assert set(data.classes) == {"scratch", "dent"}
    assert np.array_equal(masks["task-1"]["scratch"], block(5, 10, 13, 22))
    assert np.array_equal(masks["task-1"]["dent"], block(15, 10, 30, 30))
    assert np.array_equal(masks["task-2"]["dent"], block(0, 0, 15, 20))
    assert masks["task-3"]["dent"].sum() == pytest.approx(np.pi * 10 * 7.5, rel=0.03)
    assert data.samples["task-4"].presence == {"scratch": False, "dent": False}


@pytest.mark.parametrize(
    ("address", "file"),
    [
        (UPLOAD, "upload/3/0123abcd-plate_1.png"),
        (UPLOAD, "3/0123abcd-plate_1.png"),
        (UPLOAD, "0123abcd-plate_1.png"),
        (UPLOAD, "plate_1.png"),
        ("http://127.0.0.1:8080/data/upload/3/0123abcd-plate_1.png", "plate_1.png"),
        ("/data/local-files/?d=sub/x%20y%2B%C3%A9.png", "sub/x y+é.png"),
        ("http://host/data/local-files/?d=sub/x.png", "x.png"),
        ("s3://bucket/key/a.png", "key/a.png"),
        ("https://host/pictures/a%20b.png?signature=1", "a b.png"),
        ("pictures/a.png", "pictures/a.png"),
    ],
)
def test_an_image_is_found_by_any_end_of_its_address(tmp_path: Path, address: str, file: str) -> None:
    picture(tmp_path / "images" / file)
    export = write_json(tmp_path / "export" / "export.json", [task(1, BRUSH, image=address)])
    with open_source(export, images=tmp_path / "images") as source:
        assert list(read(source.folder)[0].samples) == ["task-1"]


@pytest.mark.parametrize(
    "address", ["/data/local-files/?d=../secret.png", "../secret.png", "/data/upload/../../secret.png"]
)
def test_nothing_outside_of_the_folder_is_read(tmp_path: Path, address: str) -> None:
    picture(tmp_path / "secret.png")
    (tmp_path / "images").mkdir()
    export = write_json(tmp_path / "export.json", [task(1, BRUSH, image=address)])
    with pytest.raises(DataError, match=r"task 1: image .*is not in"), open_source(export, images=tmp_path / "images"):
        pass


def test_choices_label_the_image(tmp_path: Path) -> None:
    """No annotation took two, so an image without any is unknown."""
    picture(tmp_path / "plate_1.png")
    export = write_json(
        tmp_path / "export.json", [task(1, choice("good")), task(2, choice("bad")), task(3, image=UPLOAD)]
    )
    with open_source(export) as source:
        samples = read(source.folder)[0].samples
    assert samples["task-1"].presence == {"good": True, "bad": False}
    assert samples["task-3"].presence == {}


def test_where_two_choices_were_taken_an_image_without_any_has_none(tmp_path: Path) -> None:
    picture(tmp_path / "plate_1.png")
    export = write_json(tmp_path / "export.json", [task(1, choice("good", "bad")), task(2)])
    with open_source(export) as source:
        assert read(source.folder)[0].samples["task-2"].presence == {"good": False, "bad": False}


def test_skipped_tasks_are_counted(tmp_path: Path) -> None:
    picture(tmp_path / "plate_1.png")
    export = write_json(tmp_path / "export.json", [task(1, BRUSH), task(2, BRUSH, was_cancelled=True)])
    with open_source(export) as source:
        assert list(read(source.folder)[0].samples) == ["task-1"]
        assert "Left out: 1 skipped by the annotator" in source.notes


def test_skip_bad_goes_on_without_missing_images(tmp_path: Path) -> None:
    picture(tmp_path / "plate_1.png")
    export = write_json(tmp_path / "export.json", [task(1, BRUSH), task(2, BRUSH, image="/data/upload/3/gone.png")])
    with open_source(export, skip_bad=True) as source:
        data = read(source.folder)[0]
    assert list(data.samples) == ["task-1"]
    assert "gone.png is not in" in data.skipped["task 2"]
    with pytest.raises(DataError, match=r"task 2: .*gone\.png is not in .*--skip-bad"), open_source(export):
        pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"id": 1, "image": UPLOAD, "tag": [{"brushlabels": ["scratch"]}]}], "choose JSON, not JSON-MIN"),
        ([task(1)], "has no masks, polygons"),
        ([task(1, BRUSH, image="no address")], "no column of the tasks' data is .* image: 'no address'"),
        ([task(1, region("brushlabels", "x", {}) | {"value": {"rle": []}})], "no region of the export has a label"),
        ([task(1, BRUSH, was_cancelled=True)], "no task can be learnt from"),
    ],
)
def test_what_cannot_be_learnt_from_is_said(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(DataError, match=said), open_source(write_json(tmp_path / "export.json", content)):
        pass


def test_groups_are_read_from_a_field_that_all_tasks_have(tmp_path: Path) -> None:
    picture(tmp_path / "0123abcd-plate_1.png")
    tasks = [task(number, BRUSH) for number in range(1, 5)]
    for number, one in enumerate(tasks):
        one["data"] |= {"study": number % 2, "patient": "P1"} if number else {"study": 0}
    with open_source(write_json(tmp_path / "export.json", tasks)) as source:
        assert read(source.folder)[0].groups() == {"task-1": "0", "task-2": "1", "task-3": "0", "task-4": "1"}
        assert "Groups that are kept together: 2" in source.notes


def test_a_task_alone_and_annotations_of_a_target_storage_are_read(tmp_path: Path) -> None:
    """A storage gets a file for each annotation, also for several of one task."""
    picture(tmp_path / "plate_1.png")
    one = task(1, BRUSH)
    write_json(tmp_path / "one" / "1.json", one)
    first = {
        "id": 7,
        "result": [RECTANGLE],
        "updated_at": "2026-11-20T00:00:00Z",
        "task": {"id": 1, "data": one["data"]},
    }
    newer = {"id": 8, "result": [BRUSH], "updated_at": "2026-11-21T00:00:00Z", "task": first["task"]}
    write_json(tmp_path / "storage" / "7.json", first)
    write_json(tmp_path / "storage" / "8.json", newer)
    for folder in ("one", "storage"):
        with open_source(tmp_path / folder, images=tmp_path) as source:
            masks = read(source.folder)[1]
        assert masks.keys() == {"task-1"}
        assert masks["task-1"].keys() == {"scratch"}


def test_pages_after_the_first_are_named(tmp_path: Path) -> None:
    page = Image.new("L", (WIDTH, HEIGHT))
    page.save(tmp_path / "plate_1.tif", save_all=True, append_images=[page] * 2)
    export = write_json(tmp_path / "export.json", [task(1, BRUSH, image="/data/upload/3/plate_1.tif")])
    with open_source(export) as source:
        assert [(row.what, row.why) for row in source.unread] == [
            ("plate_1.tif, page 2, 3", "of a file of several pages the first is read")
        ]


def test_an_image_that_is_written_into_the_task_is_not_repeated_in_messages(tmp_path: Path) -> None:
    address = f"data:image/png;base64,{'A' * 2_000_000}.png"
    export = write_json(tmp_path / "export.json", [task(1, BRUSH, image=address)])
    with pytest.raises(DataError, match="is not in") as caught, open_source(export):
        pass
    assert len(str(caught.value)) < 3000
