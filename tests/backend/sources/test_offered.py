"""Documents of one source with different labels: what annotators could not choose is unknown, not absent."""

from pathlib import Path

import pytest
from PIL import Image

from backend.sources.source import open_source
from tests.backend.sources.exports import HEIGHT, WIDTH, coco, cvat_xml, picture, read, write_json

SQUARE = {"image_id": 1, "category_id": 1, "segmentation": [[10, 5, 22, 5, 22, 13, 10, 13]]}


def coco_files(folder: Path) -> None:
    """Of "a" both categories, of "b" the first alone."""
    both, one = coco(["a.png"], [SQUARE]), coco(["b.png"], [])
    one["categories"] = one["categories"][:1]
    write_json(folder / "annotations" / "instances_first.json", both)
    write_json(folder / "annotations" / "instances_second.json", one)


def datumaro_files(folder: Path) -> None:
    for subset, labels in (("a", ("scratch", "dent")), ("b", ("scratch",))):
        rows = [{"name": name, "parent": "", "attributes": []} for name in labels]
        image = {"path": f"{subset}.png", "size": [HEIGHT, WIDTH]}
        drawn = {"id": 0, "type": "polygon", "label_id": 0, "points": [10, 5, 22, 5, 22, 13, 10, 13], "z_order": 0}
        annotations = [drawn] if subset == "a" else []
        items = [{"id": subset, "annotations": annotations, "attr": {}, "image": image}]
        content = {"info": {}, "categories": {"label": {"labels": rows}}, "items": items}
        write_json(folder / "annotations" / f"{subset}.json", content)


def yolo_files(folder: Path) -> None:
    for part, names, text in (
        ("a", "[scratch, dent]", "0 0.25 0.2 0.5 0.2 0.5 0.4 0.25 0.4\n"),
        ("b", "[scratch]", ""),
    ):
        (folder / part / "labels").mkdir(parents=True)
        (folder / part / "images").mkdir()
        (folder / part / "data.yaml").write_text(f"names: {names}\ntrain: images\n")
        (folder / part / "labels" / f"{part}.txt").write_text(text)
        (folder / f"{part}.png").rename(folder / part / "images" / f"{part}.png")


def cvat_files(folder: Path) -> None:
    box = '    <box label="scratch" xtl="10" ytl="5" xbr="22" ybr="13" z_order="0">\n    </box>'
    (folder / "first.xml").write_text(cvat_xml({"a.png": box}))
    (folder / "second.xml").write_text(cvat_xml({"b.png": ""}, labels={"scratch": "any"}))


def mask_files(folder: Path) -> None:
    for part, labels in (("a", "scratch:9,9,9::\ndent:0,0,9::\n"), ("b", "scratch:9,9,9::\n")):
        picture(folder / part / "SegmentationClass" / f"{part}.png")
        (folder / part / "JPEGImages").mkdir()
        (folder / f"{part}.png").rename(folder / part / "JPEGImages" / f"{part}.png")
        (folder / part / "labelmap.txt").write_text(f"background:0,0,0::\n{labels}")
        colour = (9, 9, 9) if part == "a" else (0, 0, 0)
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(folder / part / "SegmentationClass" / f"{part}.png")


@pytest.mark.parametrize("write", [coco_files, datumaro_files, yolo_files, cvat_files, mask_files])
def test_a_class_that_only_another_document_offers_is_unknown(tmp_path: Path, write) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "export" / f"{name}.png")
    write(tmp_path / "export")
    with open_source(tmp_path / "export") as source:
        data, _ = read(source.folder)
    assert data.classes == ("scratch", "dent")
    assert data.samples["a"].presence == {"scratch": True, "dent": False}
    assert data.samples["b"].presence == {"scratch": False}
