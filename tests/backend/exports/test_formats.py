"""What every format writes, read by the library that others read it with, or by a strict parser of its own."""

import csv
import json

import cv2
import numpy as np
import pytest
import yaml
from cvat_sdk.masks import decode_mask
from defusedxml.ElementTree import parse  # type: ignore[import-untyped]
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from backend.errors import ExportError
from backend.exports.formats import FORMATS
from backend.sources.source import open_source
from models.data.reader import open_data_folder
from models.masks.rasterising import fill_polygon
from tests.backend.exports.made import data_folder, masks_of, square, written

# pycocotools' decoder warns of numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (24, 31)
CLASSES = ("Lumen", "Fibrous cap", "benign")
LUMEN, CAP = square(SIZE, 2, 3, 9), square(SIZE, 8, 8, 7)
MASK_FORMATS = ("coco", "yolo-seg", "nnunet", "cvat", "dicom-seg")


@pytest.fixture
def folder(tmp_path):
    """Twelve images of four patients; on two of them a class is unknown, and `benign` is never drawn."""
    drawn = [{"Lumen": LUMEN, "Fibrous cap": CAP}, {"Lumen": LUMEN}, {}]
    images = {f"p{patient} f{frame}": drawn[frame] for patient in range(4) for frame in range(3)}
    presence: dict[str, dict[str, bool | None]] = {
        name: {"Lumen": "Lumen" in masks, "Fibrous cap": "Fibrous cap" in masks, "benign": True}
        for name, masks in images.items()
    }
    presence["p1 f2"]["Lumen"] = None
    presence["p2 f2"]["Fibrous cap"] = True  # it is there, and nobody knows where
    groups = {name: name[:2] for name in images}
    return data_folder(tmp_path / "data", CLASSES, images, size=SIZE, presence=presence, groups=groups)


def union(annotations, category, image):
    masks = [
        coco_mask.decode(a["segmentation"])
        for a in annotations
        if (a["image_id"], a["category_id"]) == (image, category)
    ]
    return np.any(masks, axis=0) if masks else np.zeros(SIZE, bool)


def test_pycocotools_reads_the_same_masks(folder, tmp_path):
    written(folder, "coco", tmp_path / "out")
    seen = 0
    for file in (tmp_path / "out/annotations").iterdir():
        coco = COCO(file)
        names = {category["name"]: category["id"] for category in coco.dataset["categories"]}
        for image in coco.dataset["images"]:
            sample = folder.samples[image["name"]]
            for label, number in names.items():
                found = union(coco.dataset["annotations"], number, image["id"])
                assert (found == sample.read_mask(label, SIZE)).all()
            assert (tmp_path / "out/images" / file.stem.removeprefix("instances_") / image["file_name"]).is_file()
            seen += 1
        for one in coco.dataset["annotations"]:
            assert one["area"] == coco_mask.area(one["segmentation"])
            assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()
    assert seen == 10


def test_connected_parts_are_objects_of_coco(tmp_path):
    two = square(SIZE, 1, 1, 4) | square(SIZE, 12, 12, 5)
    folder = data_folder(tmp_path / "data", ("Lumen",), {"a": {"Lumen": two}, "b": {}}, size=SIZE)
    written(folder, "coco", tmp_path / "out")
    files = [json.loads(file.read_text()) for file in (tmp_path / "out/annotations").iterdir()]
    assert sorted(one["area"] for content in files for one in content["annotations"]) == [16, 25]


def test_cvat_sdk_decodes_the_same_masks(folder, tmp_path):
    written(folder, "cvat", tmp_path / "out")
    root = parse(tmp_path / "out/annotations.xml").getroot()
    found = {image.get("name").removesuffix(".png"): image for image in root.iterfind("image")}
    assert found.keys() == folder.samples.keys() - {"p1 f2"}
    for name, image in found.items():
        assert (tmp_path / "out/images" / image.get("subset") / image.get("name")).is_file()
        for label in CLASSES[:2]:
            mask = np.zeros(SIZE, bool)
            for one in image.iterfind(f"mask[@label='{label}']"):
                left, top, width, height = (int(one.get(key)) for key in ("left", "top", "width", "height"))
                runs = [int(run) for run in one.get("rle").split(",")]
                box = (left, top, left + width - 1, top + height - 1)
                mask |= decode_mask([*runs, *box], image_width=SIZE[1], image_height=SIZE[0])
            assert (mask == folder.samples[name].read_mask(label, SIZE)).all()
        assert image.find("tag[@label='benign']") is not None
    assert found["p2 f2"].find("tag[@label='Fibrous cap']") is not None


def strict_yolo(path, classes):
    """Polygons of a label file, as strictly as training tools check it: class, then pairs within 0 and 1."""
    for line in path.read_text(encoding="utf-8").splitlines():
        number, *values = line.split(" ")
        assert number.isdecimal()
        assert int(number) < classes
        assert len(values) >= 6
        assert len(values) % 2 == 0
        assert all(0 <= float(value) <= 1 for value in values)
        yield int(number), np.array([float(value) for value in values]).reshape(-1, 2) * (SIZE[1], SIZE[0])


def test_yolo_files_are_well_formed_and_their_iou_is_stated(folder, tmp_path):
    result, _ = written(folder, "yolo-seg", tmp_path / "out")
    content = yaml.safe_load((tmp_path / "out/data.yaml").read_text(encoding="utf-8"))
    assert content == {"train": "images/train", "val": "images/val", "names": {0: "Lumen", 1: "Fibrous cap"}}
    ious = []
    for image in (tmp_path / "out/images").rglob("*.png"):
        labels = tmp_path / "out/labels" / image.parent.name / f"{image.stem}.txt"
        drawn = np.zeros((2, *SIZE), bool)
        for number, polygon in strict_yolo(labels, 2):
            drawn[number] |= fill_polygon(polygon, SIZE)
        for number, label in enumerate(CLASSES[:2]):
            mask = folder.samples[image.stem].read_mask(label, SIZE)
            assert drawn[number].any() == mask.any()
            if mask.any():
                ious.append((drawn[number] & mask).sum() / (drawn[number] | mask).sum())
    assert result.figures["lowest_iou"]["iou"] == pytest.approx(min(ious))
    assert min(ious) > 0.99
    assert "mean IoU: Lumen" in result.notes[0]


@pytest.mark.parametrize("side", [1, 2])
def test_the_smallest_object_keeps_a_polygon(tmp_path, side):
    folder = data_folder(tmp_path / "data", ("Lumen",), {"a": {"Lumen": square(SIZE, 3, 4, side)}, "b": {}}, size=SIZE)
    result, _ = written(folder, "yolo-seg", tmp_path / "out")
    assert result.figures["iou"] == {"Lumen": 1.0}


def test_nnunet_has_a_label_map_or_regions_where_classes_overlap(folder, tmp_path):
    result, _ = written(folder, "nnunet", tmp_path / "out")
    dataset = json.loads((tmp_path / "out/dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "Lumen": [1, 3], "Fibrous cap": [2, 3]}
    assert dataset["regions_class_order"] == [1, 2]
    assert "regions" in result.notes[0]
    names = table(tmp_path / "out")
    cases = sorted((tmp_path / "out/labelsTr").iterdir())
    assert len(cases) == dataset["numTraining"] == 10
    for case in cases:
        numbers = cv2.imread(str(case), cv2.IMREAD_UNCHANGED)
        image = f"imagesTr/{case.stem}_0000{dataset['file_ending']}"
        assert cv2.imread(str(tmp_path / "out" / image), cv2.IMREAD_UNCHANGED).shape == (*SIZE, 3)
        for label in CLASSES[:2]:
            expected = folder.samples[names[image]["name"]].read_mask(label, SIZE)
            assert (np.isin(numbers, dataset["labels"][label]) == expected).all()


def test_nnunet_without_overlaps_has_a_number_a_class(tmp_path):
    images = {"a": {"Lumen": square(SIZE, 0, 0, 5), "ignore": square(SIZE, 9, 9, 5)}, "b": {}}
    written(data_folder(tmp_path / "data", ("Lumen", "ignore"), images, size=SIZE), "nnunet", tmp_path / "out")
    dataset = json.loads((tmp_path / "out/dataset.json").read_text())
    assert dataset["labels"] == {"background": 0, "Lumen": 1, "ignore (class)": 2}
    assert "regions_class_order" not in dataset


def test_cvat_has_a_class_called_background_that_cuts_nothing(tmp_path):
    """It took the pixels of the classes below it away."""
    images = {"a": {"Lumen": square(SIZE, 0, 0, 9), "Background": square(SIZE, 0, 0, 9)}, "b": {}}
    classes = ("Lumen", "Background", "Background (class)")
    written(data_folder(tmp_path / "data", classes, images, size=SIZE), "cvat", tmp_path / "out")
    with open_source(tmp_path / "out") as source:
        read = open_data_folder(source.folder)
        assert read.classes == ("Lumen", "Background (class) (class)", "Background (class)")
        sample = read.samples["a"]
        for label in read.classes[:2]:
            assert (sample.read_mask(label, SIZE) == square(SIZE, 0, 0, 9)).all()


def test_groups_are_on_one_side_of_every_split(folder, tmp_path):
    for name in set(FORMATS) - {"dicom-seg"}:
        written(folder, name, tmp_path / name)
        sides: dict[str, set[str]] = {}
        for row in table(tmp_path / name).values():
            sides.setdefault(row["group"], set()).add(row["subset"])
        assert all(len(side) == 1 for side in sides.values())
        assert {"train"} in sides.values()
        assert {"val"} in sides.values()
    (fold,) = json.loads((tmp_path / "nnunet/splits_final.json").read_text())
    rows = table(tmp_path / "nnunet")
    groups = {side: {rows[f"imagesTr/{case}_0000.png"]["group"] for case in cases} for side, cases in fold.items()}
    assert not groups["train"] & groups["val"]


def test_unknown_presence_is_never_absence(folder, tmp_path):
    for name in ("coco", "yolo-seg", "nnunet"):
        result, left_out = written(folder, name, tmp_path / name)
        assert result.images == 10
        assert set(left_out) == {"p1 f2", "p2 f2"}
        assert "it is unknown where Lumen is on it" in left_out["p1 f2"]
    _, left_out = written(folder, "cvat", tmp_path / "cvat")
    assert set(left_out) == {"p1 f2"}
    written(folder, "png", tmp_path / "png")
    read = open_data_folder(tmp_path / "png")
    assert {name: dict(sample.presence) for name, sample in read.samples.items()} == {
        name: dict(sample.presence) for name, sample in folder.samples.items()
    }
    assert masks_of(read) == masks_of(folder)


def test_predictions_are_marked_in_the_formats_own_fields(folder, tmp_path):
    for name in set(FORMATS) - {"dicom-seg"}:
        written(folder, name, tmp_path / name, version="v3")
        rows = table(tmp_path / name).values()
        assert {row["masks"] for row in rows} == {"predicted by v3"}
        assert {row["subset"] for row in rows} == {"predicted"}
    coco = json.loads((tmp_path / "coco/annotations/instances_predicted.json").read_text())
    assert all(image["predicted"] == "v3" for image in coco["images"])
    assert all(annotation["predicted"] for annotation in coco["annotations"])
    masks = parse(tmp_path / "cvat/annotations.xml").getroot().iterfind("image/mask")
    assert {mask.get("source") for mask in masks} == {"auto"}
    assert json.loads((tmp_path / "nnunet/dataset.json").read_text())["numTraining"] == 0
    assert yaml.safe_load((tmp_path / "yolo-seg/data.yaml").read_text()).keys() == {"predicted", "names"}


@pytest.mark.parametrize("label", ["a\x01", "a\rb"])
def test_labels_that_xml_cannot_hold_are_refused_in_a_sentence(tmp_path, label):
    folder = data_folder(tmp_path / "data", (label,), {"a": {label: LUMEN}, "b": {}}, size=SIZE)
    with pytest.raises(ExportError, match="XML cannot hold"):
        written(folder, "cvat", tmp_path / "out")


def test_a_folder_of_presence_alone_is_for_formats_that_can_tell_it(tmp_path):
    presence: dict[str, dict[str, bool | None]] = {"a": {"benign": True}, "b": {"benign": False}}
    folder = data_folder(tmp_path / "data", ("benign",), {"a": {}, "b": {}}, size=SIZE, presence=presence)
    with pytest.raises(ExportError, match="no class has masks"):
        written(folder, "coco", tmp_path / "out")
    assert written(folder, "cvat", tmp_path / "cvat")[0].objects == {"benign": 1}


def table(out):
    with (out / "images.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_ragged_masks_with_many_holes_lower_the_stated_iou(tmp_path):
    size = (60, 60)
    holes = np.ones(size, bool)
    holes[2::6, 2::6] = holes[3::6, 2::6] = holes[2::6, 3::6] = holes[3::6, 3::6] = False  # 100 of 4 pixels
    folder = data_folder(tmp_path / "data", ("Lumen",), {"a": {"Lumen": holes}, "b": {}}, size=size)
    result, _ = written(folder, "yolo-seg", tmp_path / "out")
    assert 0.85 < result.figures["lowest_iou"]["iou"] < 0.99


def test_pictures_are_copied_where_every_tool_shows_them_alike(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    images = tmp_path / "data/images"
    images.mkdir(parents=True)
    Image.fromarray(pixels).save(images / "plain.jpg")
    Image.fromarray(pixels).save(images / "turned.jpg", exif=turned)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(images / "deep.png")
    Image.fromarray(pixels).save(images / "other.bmp")
    Image.fromarray(pixels).save(images / "stack.tif", save_all=True, append_images=[Image.fromarray(pixels[::-1])])
    (tmp_path / "data/classes.txt").write_text("Lumen\n")
    (tmp_path / "data/masks").mkdir()
    folder = open_data_folder(tmp_path / "data")
    written(folder, "coco", tmp_path / "out")
    found = {path.name: path for path in (tmp_path / "out/images").rglob("*.*")}
    assert set(found) == {
        "plain.jpg",
        *("turned.png", "deep.png", "other.png", "stack-page-1.png", "stack-page-2.png"),
    }
    assert found["plain.jpg"].read_bytes() == (images / "plain.jpg").read_bytes()
    for name, path in found.items():
        read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert read.dtype == np.uint8
        if not name.startswith("plain"):
            assert (cv2.imread(str(path))[..., ::-1] == folder.samples[path.stem].read_image()).all()


def test_names_of_files_are_safe_and_originals_are_in_the_table(tmp_path):
    names = ["a/b", "A\\B", "nul", "é" * 300, "x\n", "..", "кадр 1"]
    folder = data_folder(tmp_path / "data", ("Lumen",), {name: {"Lumen": LUMEN} for name in names}, size=SIZE)
    for format_name in ("coco", "yolo-seg", "cvat", "nnunet", "png"):
        written(folder, format_name, tmp_path / format_name)
        rows = table(tmp_path / format_name)
        assert {row["name"] for row in rows.values()} == set(names)
        assert all((tmp_path / format_name / file).is_file() for file in rows)
    assert {path.stem for path in (tmp_path / "yolo-seg/images").rglob("*.png")} == {
        *("A-B", "a-b-2", "nul-", "é" * 60, "x-", "image", "кадр 1"),
    }


def test_pixels_that_touch_by_a_corner_are_polygons_of_their_own(tmp_path):
    folder = data_folder(
        tmp_path / "data", ("Lumen",), {"a": {"Lumen": np.eye(24, 31, dtype=bool)}, "b": {}}, size=SIZE
    )
    result, _ = written(folder, "yolo-seg", tmp_path / "out")
    assert result.figures["iou"] == {"Lumen": 1.0}
    assert result.objects == {"Lumen": 24}
