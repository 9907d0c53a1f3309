"""A data folder is opened as it is; a file of no known format is refused with a list of those that are known."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cvat_sdk.masks import encode_mask
from PIL import Image

from backend.cli import cli
from backend.sources.inspection import inspect_source
from backend.sources.source import open_source
from models.checkpoint import read_card
from models.data.reader import open_data_folder
from models.errors import DataError
from models.phantom import render_phantom
from models.starter import STARTER
from tests.backend.sources.exports import block, coco, cvat_export, packed, picture, write_json


def test_a_data_folder_is_opened_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("scratch\n")
    with open_source(tmp_path) as source:
        assert (source.folder, source.notes) == (tmp_path, [])
    with pytest.raises(DataError, match="leave --images out"), open_source(tmp_path, images=tmp_path):
        pass


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '{"shapes": []}', 'export of a known kind: "CVAT for images 1.1", COCO instances, "Datumaro'),
        ("a.json", "[]", "export of a known kind"),
        ("a.json", "{", r"a\.json cannot be read"),
        ("a.json", "[" * 100_000, r"a\.json cannot be read"),
        ("a.xml", "<annotation><object/></annotation>", "export of a known kind"),
        ("a.xml", "<annotations>", r"a\.xml cannot be read"),
        ("a.zip", "no zip", r"a\.zip is no zip or tar file"),
        ("a.7z", "7z", r"a\.7z is no zip or tar file, .*; unpack it"),
        ("a.json.gz", "{}", r"a\.json\.gz is no zip or tar file, .*; unpack it"),
        ("a.csv", "name,scratch", "export of a known kind"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=said), open_source(tmp_path / name):
        pass


@pytest.mark.parametrize("outer", ["", "outer/"])
def test_an_archive_that_was_packed_twice_is_unpacked_twice(tmp_path: Path, outer: str) -> None:
    once = packed(tmp_path / "once.zip", cvat_export(tmp_path / "export", {"a.png": "", "b.png": ""}))
    twice, thrice = tmp_path / "twice.zip", tmp_path / "thrice.zip"
    for path, inside in ((twice, once), (thrice, twice)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(inside, f"{outer}export.zip")
            archive.writestr("__MACOSX/._export.zip", b"")
    with open_source(twice) as source:
        assert source.kind == "cvat"
    with pytest.raises(DataError, match=r"thrice\.zip is neither"), open_source(thrice):
        pass


def test_an_archive_that_is_not_unpacked_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "download"
    folder.mkdir()
    packed(folder / "export.zip", cvat_export(tmp_path / "export", {"a.png": ""}))
    with pytest.raises(DataError, match=r"export\.zip: it is an archive within the source"), open_source(folder):
        pass
    picture(folder / "a.png")
    with open_source(folder, unlabelled=True) as source:
        assert [(row.what, "archive within" in row.why) for row in source.unread] == [("export.zip", True)]


def damaged(path: Path, member: str) -> Path:
    """A zip of which a member's checksum is wrong."""
    with zipfile.ZipFile(path) as archive:
        checksum = archive.getinfo(member).CRC.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(checksum, b"\0\0\0\0"))
    return path


def test_a_mask_that_cannot_be_unpacked_does_not_say_that_its_class_is_absent(tmp_path: Path) -> None:
    """It did, and only inspect told: without the file nothing seems to be drawn."""
    folder = tmp_path / "data"
    (folder / "masks" / "scratch").mkdir(parents=True)
    for name, width in (("a", 4), ("b", 6)):
        picture(folder / "images" / f"{name}.png")
        Image.fromarray(block(5, 5, 9, 5 + width)).save(folder / "masks" / "scratch" / f"{name}.png")
    (folder / "classes.txt").write_text("scratch\n")
    path = damaged(packed(tmp_path / "data.zip", folder), "masks/scratch/a.png")
    assert [image["name"] for image in inspect_source(path).images] == ["b"]

    def train() -> None:
        with open_source(path) as source:
            assert "masks/scratch/a.png: it cannot be unpacked" in source.notes[0]
            open_data_folder(source.folder)

    with pytest.raises(DataError, match=rf"{path}/masks/scratch/a\.png cannot be read"):
        train()


def test_a_text_that_cannot_be_unpacked_does_not_say_that_nothing_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in ("a", "b"):
        picture(folder / "images" / f"{name}.png")
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{name}.txt").write_text(f"0 0.5 0.5 0.{ord(name)} 0.2\n")
    (folder / "data.yaml").write_text("names: [scratch]\n")
    path = damaged(packed(tmp_path / "data.zip", folder), "labels/a.txt")
    with open_source(path, skip_bad=True) as source:
        assert [*open_data_folder(source.folder).samples] == ["b"]
    with pytest.raises(DataError, match=r"\(labels/a\.txt: it cannot be unpacked"), open_source(path):
        pass


def test_a_file_of_annotations_that_is_not_read_is_told_to_whoever_trains(tmp_path: Path) -> None:
    """Half of a damaged export was learnt from as if it were all of it."""
    picture(tmp_path / "images" / "a.png")
    write_json(tmp_path / "train.json", coco(["a.png"], [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 9, 9]}]))
    (tmp_path / "val.json").write_text('{"images": [')
    with open_source(tmp_path) as source:
        assert source.notes[1].startswith("files that are not read: 1 (val.json: ")
    (tmp_path / "val.json").write_text("{}")  # says nothing of images
    with open_source(tmp_path) as source:
        assert not any("not read" in note for note in source.notes)
    (tmp_path / "val.json").write_text('[{"data": {"image": "a.png"}, "annotations": []}]')
    with open_source(tmp_path) as source:
        assert source.notes[1] == (
            "files that are not read: 1 (val.json: it is not read: the source is read as COCO instances)"
        )


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "export.json")
    with pytest.raises(DataError, match="is a pipe or a device"), open_source(tmp_path / "export.json"):
        pass


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither a data folder"), open_source(tmp_path):
        pass


def outlines_of(mask: np.ndarray, label: str) -> str:
    """A mask as CVAT's "CVAT for images" writes it."""
    *runs, left, top, right, bottom = encode_mask(mask)
    return (
        f'<mask label="{label}" source="semi-auto" occluded="0" rle="{", ".join(map(str, runs))}" left="{left}" '
        f'top="{top}" width="{right - left + 1}" height="{bottom - top + 1}" z_order="0"></mask>'
    )


def as_coco(names: list[str], masks: list[np.ndarray], size: int) -> dict[str, Any]:
    """Masks as CVAT's COCO export writes them: uncompressed runs, column after column."""
    annotations = []
    for number, mask in enumerate(masks, start=1):
        column = mask.T.ravel()
        changes = np.flatnonzero(np.diff(column, prepend=False, append=not column[-1]))
        runs = {"counts": np.diff(changes, prepend=0).tolist(), "size": [size, size]}
        annotations.append({"image_id": number, "category_id": 1, "segmentation": runs, "iscrowd": 1})
    content = coco(names, annotations, ("Lumen",))
    for image in content["images"]:
        image |= {"width": size, "height": size}
    return content


@pytest.mark.parametrize("kind", ["cvat", "coco", "beside"])
@pytest.mark.timeout(900)  # loads the networks and trains them for some seconds, on a machine that may be busy
def test_train_and_evaluate_take_an_export(tmp_path: Path, kind: str) -> None:
    """Frames whose lumen was accepted in CVAT, exported in two formats, with their images in the zip or beside it."""
    size, count = 64, 6
    frames = [render_phantom(seed=seed, size=size, difficulty=0.2) for seed in range(count)]
    names = [f"{number}.png" for number in range(count)]
    masks = [frame.masks["Lumen"] for frame in frames]
    export = tmp_path / "export"
    if kind == "coco":
        write_json(export / "annotations" / "instances_default.json", as_coco(names, masks, size))
    else:
        shapes = {name: outlines_of(mask, "Lumen") for name, mask in zip(names, masks, strict=True)}
        cvat_export(export, shapes, labels={"Lumen": "mask"}, width=str(size), height=str(size))
    pictures = export / "images" / ("default" if kind == "coco" else "")
    for name, frame in zip(names, frames, strict=True):
        pictures.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.image).save(pictures / name)
    data = ["--data", str(tmp_path / "export.zip")]
    if kind == "beside":
        pictures.rename(tmp_path / "pictures")
        data += ["--images", str(tmp_path / "pictures")]
    packed(tmp_path / "export.zip", export)

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    quick = ("--from", STARTER, "--epochs", 1, "--minutes", 0.1)
    said = run("train", *data, "--out", tmp_path / "model", *quick)
    assert f"{count} images" in said
    assert read_card(tmp_path / "model").classes == ["Lumen"]
    run("evaluate", *data, "--model", tmp_path / "model", "--json", tmp_path / "r.json")
    figures = json.loads((tmp_path / "r.json").read_text())
    assert figures["classes"]["Lumen"]["frames"] == figures["frames"] >= 1
    # What the export says is what is measured: the starter knows such a lumen, and shifted masks it would not match.
    run("evaluate", *data, "--json", tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["classes"]["Lumen"]["iou"] > 0.7
