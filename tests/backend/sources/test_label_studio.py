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
PLATES = [f"plate_{number}.png" for number in range(1, 5)]


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


def tasks_of_plates(folder: Path, *results: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """A task for each result, and its picture."""
    for name in PLATES[: len(results)]:
        picture(folder / name)
    return [task(number, *result, image=PLATES[number - 1]) for number, result in enumerate(results, 1)]


def test_every_kind_of_region_becomes_a_mask(tmp_path: Path) -> None:
    results = ((BRUSH, POLYGON), (RECTANGLE,), (ELLIPSE,), ())
    export = write_json(tmp_path / "export.json", tasks_of_plates(tmp_path, *results))
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
    results = ((choice("good"),), (choice("bad"),), ())
    export = write_json(tmp_path / "export.json", tasks_of_plates(tmp_path, *results))
    with open_source(export) as source:
        samples = read(source.folder)[0].samples
    assert samples["task-1"].presence == {"good": True, "bad": False}
    assert samples["task-3"].presence == {}


def test_where_two_choices_were_taken_an_image_without_any_has_none(tmp_path: Path) -> None:
    export = write_json(tmp_path / "export.json", tasks_of_plates(tmp_path, (choice("good", "bad"),), ()))
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


@pytest.mark.parametrize(
    ("scale", "said"),
    [(WIDTH, r"task 2 has a region at 4000, .* in percent"), (0.01, r"no region is beyond 1, .* in percent")],
)
def test_regions_in_pixels_or_in_parts_of_the_size_are_refused(tmp_path: Path, scale: float, said: str) -> None:
    """Those that lie within 100 pixels of the corner were learnt as percent."""
    corner = POLYGON | {"value": POLYGON["value"] | {"points": [[0, 0], [0, scale / 2], [scale / 2, 0]]}}
    points = [[x * scale, y * scale] for x, y in POLYGON["value"]["points"]]
    far = POLYGON | {"value": POLYGON["value"] | {"points": points}}
    export = write_json(tmp_path / "export.json", tasks_of_plates(tmp_path, (corner,), (far,)))
    with pytest.raises(DataError, match=said), open_source(export, skip_bad=True):
        pass


@pytest.mark.parametrize(("project", "scratch"), [(3, False), (4, None)])
def test_a_label_that_only_another_project_has_is_unknown(tmp_path: Path, project: int, scratch: bool | None) -> None:
    """An export does not say which labels a project offers; it counted as absent."""
    first, second = tasks_of_plates(tmp_path, (BRUSH, POLYGON), (POLYGON,))
    export = write_json(tmp_path / "export.json", [first | {"project": 3}, second | {"project": project}])
    with open_source(export) as source:
        samples = read(source.folder)[0].samples
        told = [note for note in source.notes if "alone" in note]
    assert samples["task-1"].presence == {"scratch": True, "dent": True}
    assert samples["task-2"].presence.get("scratch") is scratch
    assert told == (
        [] if project == 3 else ["'scratch' is used in project 3 alone, and unknown where it is not drawn in others"]
    )


def test_a_rectangle_at_the_corner_is_in_percent(tmp_path: Path) -> None:
    turned = RECTANGLE | {"value": RECTANGLE["value"] | {"x": 0.5, "y": 0.5, "height": 300, "rotation": 270}}
    with open_source(write_json(tmp_path / "export.json", tasks_of_plates(tmp_path, (turned,)))) as source:
        assert read(source.folder)[0].samples.keys() == {"task-1"}


def test_groups_are_read_from_a_field_that_all_tasks_have(tmp_path: Path) -> None:
    tasks = tasks_of_plates(tmp_path, *[(BRUSH,)] * 4)
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


def test_an_image_of_two_tasks_counts_once_and_not_at_all_where_they_differ(tmp_path: Path) -> None:
    """Nothing tells which of the two is right."""
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "images" / name)
    made = [
        task(1, BRUSH, image="a.png"),
        task(2, {**BRUSH, "id": "r2"}, image="a.png"),
        task(3, BRUSH, image="b.png"),
        task(4, image="b.png"),
        task(5, BRUSH, image="c.png"),
        task(6, POLYGON, image="c.png", was_cancelled=True),
    ]
    write_json(tmp_path / "export.json", made)
    with open_source(tmp_path, skip_bad=True) as source:
        data, _ = read(source.folder)
    assert list(data.samples) == ["task-1", "task-5"]
    assert {row.what: row.why.rpartition(": ")[2] for row in source.unread} == {
        "task 2": "task 1 shows it too, and says the same",
        "task 3": "task 4 shows it too, and says otherwise; keep one of them",
        "task 4": "task 3 shows it too, and says otherwise; keep one of them",
        "task 6": "skipped by the annotator (c.png)",
    }


def test_tasks_that_several_have_annotated_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    twice = task(1, BRUSH, image="a.png")
    twice["annotations"] += [{"id": 2, "result": [POLYGON], "updated_at": "2026-11-24T00:00:00Z"}]
    write_json(tmp_path / "export.json", [twice])
    with open_source(tmp_path) as source:
        _, masks = read(source.folder)
    assert list(masks["task-1"]) == ["dent"]
    said = "annotated more than once, of which the newest ground truth, else the newest, counts: 1 (task 1)"
    assert said in source.notes


def test_labels_that_differ_in_spaces_alone_are_one_class(tmp_path: Path) -> None:
    spaced = region("rectanglelabels", " scratch", RECTANGLE["value"])
    tasks = tasks_of_plates(tmp_path, (BRUSH,), (spaced,), (choice("good"),), (choice("Good"),))
    with open_source(write_json(tmp_path / "export.json", tasks)) as source:
        data, masks = read(source.folder)
    assert data.classes == ("scratch", "good", "Good")
    assert list(masks["task-2"]) == ["scratch"]
    assert "'scratch', ' scratch': one class, written in several ways" in source.notes
    assert any("'good', 'Good': 2 classes that differ in case alone" in note for note in source.notes)
