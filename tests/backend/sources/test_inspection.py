"""`premask inspect` shows every image of a source as a training reads it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pydicom.data import get_testdata_file

from backend.cli import cli
from backend.sources.inspection import inspect_source
from models.data.writer import DataFolderWriter
from models.errors import DataError
from tests.backend.sources.exports import HEIGHT, WIDTH, block, coco, packed, picture, write_json


def inspected(data: Path, *options: object) -> tuple[Result, Any]:
    out = data.with_name("inspected.json")
    done = CliRunner().invoke(cli, ["inspect", "--data", str(data), "--json", str(out), *map(str, options)])
    return done, json.loads(out.read_text()) if out.is_file() else None


def test_a_data_folder_is_shown_as_it_is_read(tmp_path: Path) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with DataFolderWriter(tmp_path / "data", ["lesion", "name"]) as folder:
        folder.add("a", colours, {"lesion": block(3, 4, 9, 12)}, {"lesion": True, "name": None}, "P1", source="x/a.png")
        folder.add("b", colours, {}, {"lesion": False, "name": True}, "P2")
        folder.leave_out("c.png", "it is damaged")
    done, report = inspected(tmp_path / "data", "--pictures", tmp_path / "pictures")
    assert done.exit_code == 0, done.output
    assert (report["kind"], report["classes"]) == ("data-folder", ["lesion", "name"])
    first, second = report["images"]
    picture_file = first.pop("picture")
    assert first == {
        "name": "a", "source": "x/a.png", "page": 0, "width": WIDTH, "height": HEIGHT, "group": "P1",
        "presence": {"lesion": True, "name": None},
        "masks": {"lesion": {"pixels": 48, "box": [4, 3, 12, 9]}},
    }  # fmt: skip
    assert second["presence"] == {"lesion": False, "name": True}
    assert report["left_out"] == [{"what": "c.png", "why": "it is damaged"}]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "pictures" / picture_file)), colours)
    assert "lesion 48" in done.output
    assert "Left out: c.png: it is damaged" in done.output


def test_an_export_in_a_zip_with_an_outer_folder_and_a_damaged_side_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "x" / "my export" / "images" / name)
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 5]}
    write_json(tmp_path / "x" / "my export" / "annotations" / "instances_default.json", coco(["a.png", "b.png"], [box]))
    (tmp_path / "x" / "my export" / "notes.json").write_text("{")
    (tmp_path / "x" / "my export" / "._notes.json").write_bytes(b"\0")
    done, report = inspected(packed(tmp_path / "a.zip", tmp_path / "x"))
    assert done.exit_code == 0, done.output
    assert report["kind"] == "coco"
    assert [(image["source"], image["masks"]) for image in report["images"]] == [
        ("images/a.png", {"scratch": {"pixels": 20, "box": [0, 0, 4, 5]}}),
        ("images/b.png", {}),
    ]
    assert [row["what"] for row in report["left_out"]] == ["notes.json"]


def test_every_page_of_images_without_labels_is_shown(tmp_path: Path) -> None:
    pages = [Image.new("L", (8, 6), value) for value in (10, 20, 30)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in" / "stack.tif", save_all=True, append_images=pages[1:])
    picture(tmp_path / "in" / "sub" / "a.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    (tmp_path / "in" / "Thumbs.db").write_bytes(b"")
    done, report = inspected(tmp_path / "in", "--pictures", tmp_path / "pictures")
    assert done.exit_code == 0, done.output
    assert report["kind"] == "images"
    shown = [(image["name"], image["page"], image["source"]) for image in report["images"]]
    assert shown == [
        ("stack-page-1", 0, "stack.tif"), ("stack-page-2", 1, "stack.tif"), ("stack-page-3", 2, "stack.tif"),
        ("a", 0, "sub/a.png"),
    ]  # fmt: skip
    assert [row["what"] for row in report["left_out"]] == ["broken.png"]
    assert len(list((tmp_path / "pictures").iterdir())) == 4


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    """Files were passed over without a word, by their endings alone, and masks taken for images."""
    for name in ("a.png", "masks/a.png", "SegmentationClass/a.png"):
        picture(tmp_path / "in" / name)
    for name in ("b.heic", "c", "d.nii.gz", "other.json", "notes.txt", *(f"{n}.txt" for n in range(5))):
        (tmp_path / "in" / name).write_text("{}")
    shutil.copy(get_testdata_file("CT_small.dcm"), tmp_path / "in" / "IM000001")
    done, report = inspected(tmp_path / "in")
    assert done.exit_code == 0, done.output
    assert [image["source"] for image in report["images"]] == ["IM000001", "a.png"]
    assert {row["what"]: row["why"].partition(":")[0] for row in report["left_out"]} == {
        "b.heic": "its name has no ending of an image",
        "c": "its name has no ending of an image",
        "d.nii.gz": "its name has no ending of an image",
        "0.txt, 1.txt, 2.txt and 3 more": "its name has no ending of an image",
        "other.json": "it is of none of the kinds that are read",
        "SegmentationClass/a.png, masks/a.png": "it seems to be a mask, and no export says of what; see "
        "docs/models.md for a data folder",
    }


@pytest.mark.parametrize(
    "mask", ["a_mask.png", "train_masks/a.png", "train_masks/a_mask.gif", "annotations/a.png", "Ground Truth/a.png"]
)
def test_a_mask_that_is_called_after_an_image_is_none(tmp_path: Path, mask: str) -> None:
    for name in ("a.png", "b_mask.png", "to label/c.png", mask):
        picture(tmp_path / name)
    report = inspected(tmp_path)[1]
    assert sorted(image["source"] for image in report["images"]) == ["a.png", "b_mask.png", "to label/c.png"]
    assert [(row["what"], row["why"].partition(",")[0]) for row in report["left_out"]] == [
        (mask, "it seems to be a mask")
    ]


def test_files_among_the_images_of_a_data_folder_that_are_none_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.jfif"):
        picture(tmp_path / "data" / "images" / name, format="JPEG")
    (tmp_path / "data" / "images" / "c.heic").write_bytes(b"")
    (tmp_path / "data" / "masks").mkdir()
    (tmp_path / "data" / "classes.txt").write_text("scratch\n")
    report = inspected(tmp_path / "data")[1]
    assert [image["source"] for image in report["images"]] == ["images/a.png", "images/b.jfif"]
    assert [row["what"] for row in report["left_out"]] == ["images/c.heic"]


def test_a_name_that_is_no_text_is_shown_escaped(tmp_path: Path) -> None:
    """Unpackers leave names in old code pages; the command ended in a traceback."""
    picture(tmp_path / "a.png")
    folder = tmp_path / "in" / "images"
    folder.mkdir(parents=True)
    (tmp_path / "in" / "classes.txt").write_text("scratch\n")
    (tmp_path / "in" / "masks").mkdir()
    shutil.copy(tmp_path / "a.png", folder / "\udce4.png")
    command = [sys.executable, "-c", "from backend.cli import main; main()", "inspect", "--data", str(tmp_path / "in")]
    command += ["--json", str(tmp_path / "read.json")]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"\\udce4" in done.stdout
    assert [image["name"] for image in json.loads((tmp_path / "read.json").read_text())["images"]] == ["\udce4"]


def test_parts_and_groups_may_have_names_that_are_no_text(tmp_path: Path) -> None:
    with DataFolderWriter(tmp_path / "data", ["scratch"]) as folder:
        for name, side in (("\udce4", "\udce5"), ("b", "c")):
            folder.add(name, np.zeros((4, 4, 3), np.uint8), {}, None, side)
        folder.write_split({"train": ["\udce4"], "val": ["b"]})
    found = inspect_source(tmp_path / "data")
    assert found.splits == {"train": ["\udce4"], "val": ["b"]}
    assert [image["group"] for image in found.images] == ["c", "\udce5"]


def test_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done, report = inspected(tmp_path / "empty")
    assert (done.exit_code, report) == (1, None)
    assert inspected(tmp_path / "gone")[0].exit_code == 2
    assert CliRunner().invoke(cli, ["inspect"]).exit_code == 2


def ls_task(number: int) -> dict[str, Any]:
    value = {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["dent"]}
    region = {
        "id": "r", "type": "rectanglelabels", "from_name": "tag", "to_name": "image", "original_width": WIDTH,
        "original_height": HEIGHT, "image_rotation": 0, "value": value,
    }  # fmt: skip
    annotation = {"id": number, "result": [region], "was_cancelled": False}
    return {"id": number, "data": {"image": f"/data/upload/1/{number}.png"}, "annotations": [annotation]}


EXPORTS: dict[str, Any] = {
    "label-studio": [ls_task(1), ls_task(2)],
    "coco": coco(["1.png", "2.png"], [{"image_id": n, "category_id": n, "bbox": [0, 0, 9, 9]} for n in (1, 2)]),
}
VALUES: tuple[Any, ...] = (None, True, 0, -1, 1e30, "", "x", "../1.png", [], {}, [[]], "\ud800", 10**40)


def mutated(content: Any, random: Random) -> Any:
    """JSON with one value, at any depth, replaced, removed or doubled."""
    if isinstance(content, dict | list) and content and random.random() < 0.9:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = random.choice(keys)
        copy = content.copy()
        copy[key] = mutated(content[key], random)
        if random.random() < 0.1:
            del copy[key]
        if isinstance(copy, list) and random.random() < 0.1:
            copy.append(random.choice(copy or [None]))
        return copy
    return random.choice(VALUES)


@pytest.mark.parametrize("kind", list(EXPORTS))
def test_any_change_to_an_export_is_read_or_named(tmp_path: Path, kind: str) -> None:
    """200 changed exports: a sentence, or each image is among those that are read or those that are left out."""
    random, read = Random(kind), 0
    for name in ("1.png", "2.png"):
        picture(tmp_path / name)
    for _ in range(100):
        (tmp_path / "export.json").write_text(json.dumps(mutated(EXPORTS[kind], random)))
        read += _is_told(tmp_path)
    assert read > 20


def _is_told(folder: Path) -> bool:
    """Whether an export of 1.png and 2.png is read; then both are among the images or left out by name."""
    try:
        found = inspect_source(folder)
    except DataError:
        return False
    told = [image["source"] for image in found.images] + [f"{row.what} {row.why}" for row in found.left_out]
    assert all(any(name in text for text in told) for name in ("1.png", "2.png")), told
    return True
