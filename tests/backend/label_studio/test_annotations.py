"""Accepted annotations as a data folder: what counts, what is left out, and that both are told."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import ImageError
from backend.label_studio import annotations
from backend.label_studio.acceptance import AcceptanceStatistics
from backend.label_studio.annotations import AcceptedReport, accepted_annotation, write_data_folder
from backend.label_studio.client import LabelStudio
from backend.label_studio.controls.bitmask import encode_bitmask
from backend.label_studio.controls.region import Mask
from backend.label_studio.images import ImageLoader, image_address
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import prediction_entry, task_entry
from backend.label_studio.rle import encode_rle
from backend.label_studio.task_images import task_images
from models.data.files import read_mask
from models.data.reader import open_data_folder
from models.segment import Prediction, Segment
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.label_studio.configs import BRUSH, CHOICES, PAGES, PAIR, SHAPES

HEIGHT, WIDTH = 30, 40


class SameImage(ImageLoader):
    """Gives every task the same picture, except those whose address says that it is broken."""

    def __init__(self, height: int = HEIGHT, width: int = WIDTH) -> None:
        super().__init__(None)
        self.image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)

    def load(self, task: Any, image_key: str) -> Any:
        if "broken" in image_address(task, image_key):
            raise ImageError(f"task {task['id']}: image broken.png: it is damaged")
        return self.image


LATER: dict[str, Any] = {"updated_at": "2027-01-01T00:00:00Z"}


def block(top: int = 5, left: int = 10) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + 8, left : left + 12] = True
    return mask


def brush(label: str | None, mask: Mask, **fields: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": encode_rle(mask)} | ({"brushlabels": [label]} if label else {})
    height, width = mask.shape
    return {
        "id": "r1",
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_height": height,
        "original_width": width,
        "value": value,
        **fields,
    }


def choices(*taken: str, name: str = "quality") -> dict[str, Any]:
    return {"id": "c", "type": "choices", "from_name": name, "to_name": "image", "value": {"choices": list(taken)}}


def annotation(*result: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": 1, "result": list(result), "was_cancelled": False, "updated_at": "2026-11-23T00:00:00Z", **fields}


def task(task_id: int, *made: dict[str, Any], image: str = "/data/a.png") -> dict[str, Any]:
    return {"id": task_id, "data": {"image": image}, "annotations": list(made)}


def write(out: Path, *tasks: dict[str, Any], config: str = BRUSH, images: ImageLoader | None = None) -> AcceptedReport:
    return write_data_folder(tasks, parse_label_config(config), images or SameImage(), out)


def mask_of(out: Path, label: str, name: str) -> Mask:
    sample = open_data_folder(out).samples[name]
    return read_mask(sample.masks[label], sample.read_image().shape[:2])


def drawn_on(out: Path) -> dict[str, set[str]]:
    """Image -> classes with a mask."""
    return {name: set(sample.masks) for name, sample in open_data_folder(out).samples.items()}


def table(out: Path) -> dict[str, dict[str, bool | None]]:
    """Image -> class -> whether it is present."""
    folder = open_data_folder(out)
    return {
        name: {label: sample.presence.get(label) for label in folder.classes} for name, sample in folder.samples.items()
    }


def test_the_folder_has_images_masks_classes_and_presence(tmp_path: Path) -> None:
    images = SameImage()
    report = write(
        tmp_path,
        task(3, annotation(brush("Lumen", block()), choices("blurred"))),
        task(12, annotation(brush("Lipid core", block()))),
        images=images,
    )
    folder = open_data_folder(tmp_path)
    assert folder.classes == ("Lumen", "Lipid core", "blurred")
    assert np.array_equal(folder.samples["task-3"].read_image(), images.image)
    assert drawn_on(tmp_path) == {"task-3": {"Lumen"}, "task-12": {"Lipid core"}}
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-3"), block())
    assert table(tmp_path) == {
        "task-3": {"Lumen": True, "Lipid core": False, "blurred": True},
        "task-12": {"Lumen": False, "Lipid core": True, "blurred": False},
    }
    assert (report.used, report.dropped, report.regions) == (2, {}, {})
    assert report.classes == {"Lumen": 1, "Lipid core": 1, "blurred": 1}


def test_of_many_problems_the_first_are_told_and_the_others_counted(tmp_path: Path) -> None:
    unreadable = {**brush("Lumen", block()), "value": {"format": "rle", "rle": "no", "brushlabels": ["Lumen"]}}
    report = write(tmp_path, *(task(number, annotation(unreadable)) for number in range(1, 31)))
    assert (len(report.problems), report.untold) == (20, 10)
    assert report.text.endswith("... and 10 more that could not be read")


def test_a_class_is_the_union_of_its_regions(tmp_path: Path) -> None:
    write(tmp_path, task(1, annotation(brush("Lumen", block()), brush("Lumen", block(12, 20)))))
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-1"), block() | block(12, 20))


def test_what_was_predicted_and_accepted_is_learnt_as_it_was_predicted(tmp_path: Path) -> None:
    """Through every kind of region and back."""
    config = parse_label_config(SHAPES)
    segments = [Segment(name, 0.9, block()) for name in ("Lumen", "Plaque", "Stent")]
    entry = prediction_entry(Prediction({}, segments), config, "v1")
    write(tmp_path, task(1, annotation(*entry["result"])), config=SHAPES)
    for segment in segments:
        assert np.array_equal(mask_of(tmp_path, segment.label, "task-1"), segment.mask)


def test_masks_are_named_after_the_models_class_and_not_after_the_label(tmp_path: Path) -> None:
    config = BRUSH.replace('<Label value="Lumen"/>', '<Label value="Vessel" predicted_values="Lumen"/>')
    write(tmp_path, task(1, annotation(brush("Vessel", block()))), config=config)
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-1"), block())


def test_a_task_accepted_without_regions_shows_that_nothing_is_there(tmp_path: Path) -> None:
    report = write(tmp_path, task(1, annotation()))
    assert report.used == 1
    assert set(table(tmp_path)["task-1"].values()) == {False}


def test_tasks_that_were_not_accepted_are_left_out_and_counted(tmp_path: Path) -> None:
    report = write(
        tmp_path,
        task(1, annotation(brush("Lumen", block()))),
        task(2),
        task(3, annotation(was_cancelled=True)),
        task(4, annotation(last_action="rejected")),
        task(5, annotation(brush("Lumen", block())), image="/broken.png"),
        task(6, annotation(brush("Gone", block()))),
        task(7, annotation({"id": "f1", "type": "future", "to_name": "image", "value": {"x": 3}})),
        {"id": 8, "data": {"image": "/a"}},
    )
    assert list(table(tmp_path)) == ["task-1"]
    assert report.used == report.images == 1
    assert report.dropped == {
        annotations.NO_ANNOTATION: 2,
        annotations.CANCELLED: 1,
        annotations.REJECTED: 1,
        annotations.NO_IMAGE: 1,
        annotations.NO_LABEL: 1,
        annotations.NO_REGION: 1,
    }
    assert "1 accepted task: Lumen on 1" in report.text
    assert "1 skipped by the annotator" in report.text
    assert "task 5: image broken.png" in report.text
    assert "task 7: region 'f1'" in report.text
    assert [what for what, _ in report.left_out] == [f"task {number}" for number in range(2, 9)]
    json.dumps(asdict(report))


@pytest.mark.parametrize(
    ("made", "chosen"),
    [
        ([("a", {}), ("b", {"updated_at": "2026-11-23T00:00:00.5Z"})], "b"),
        ([("a", {"updated_at": "2026-11-24T00:00:00+00:00"}), ("b", {})], "a"),
        ([("a", {"updated_at": "2026-11-23T01:00:00+02:00"}), ("b", {})], "b"),
        ([("a", {"ground_truth": True}), ("b", {"updated_at": "2027-01-01T00:00:00Z"})], "a"),
        ([("a", {}), ("b", {"updated_at": "2027-01-01T00:00:00Z", "was_cancelled": True})], "a"),
        ([("a", {}), ("b", {"ground_truth": True, "last_action": "rejected"})], "a"),
        ([("a", {}), ("b", LATER | {"reviews": [{"accepted": True}, {"accepted": False}]})], "a"),
        ([("a", {}), ("b", LATER | {"reviews": [{"accepted": False}, {"accepted": True}]})], "b"),
        ([("a", {}), ("b", LATER | {"reviews": [{"accepted": False}], "last_action": "updated"})], "b"),
        ([("a", {}), ("b", LATER | {"reviews": "none"})], "b"),
        ([("a", {"id": 2}), ("b", {"id": 1})], "a"),
        ([("a", {"updated_at": None, "created_at": "2027-01-01T00:00:00"}), ("b", {})], "a"),
        ([("a", {"updated_at": None}), ("b", {})], "b"),
    ],
)
def test_of_several_annotations_the_newest_ground_truth_counts_else_the_newest(
    made: list[tuple[str, dict[str, Any]]], chosen: str
) -> None:
    candidates = [annotation(**fields, name=name) for name, fields in made]
    assert accepted_annotation(task(1, *candidates))["name"] == chosen


def test_a_drawable_class_is_present_only_if_it_is_drawn(tmp_path: Path) -> None:
    report = write(tmp_path, task(1, annotation(choices("Lumen", "blurred"))))
    assert table(tmp_path)["task-1"] == {"Lumen": False, "Lipid core": False, "blurred": True}
    assert report.regions == {annotations.UNDRAWN: 1}


def test_choices_alone_give_presence_and_an_unmade_single_choice_leaves_it_open(tmp_path: Path) -> None:
    write(
        tmp_path,
        task(1, annotation(choices("malignant", name="kind"), choices("gas", name="artefacts"))),
        task(2, annotation()),
        config=CHOICES,
    )
    assert table(tmp_path) == {
        "task-1": {"benign": False, "malignant": True, "blood": False, "gas": True},
        "task-2": {"benign": None, "malignant": None, "blood": False, "gas": False},
    }


def test_a_choice_about_a_region_says_nothing_about_the_image(tmp_path: Path) -> None:
    drawn = brush("Lumen", block())
    about = choices("blurred", name="sharpness") | {"id": drawn["id"]}
    about["value"] |= {"format": "rle", "rle": drawn["value"]["rle"]}
    report = write(tmp_path, task(1, annotation(drawn, about)))
    assert table(tmp_path)["task-1"] == {"Lumen": True, "Lipid core": False, "blurred": False}
    assert report.regions == {}


def test_regions_without_a_known_label_are_counted_and_the_rest_is_used(tmp_path: Path) -> None:
    report = write(
        tmp_path,
        task(
            1,
            annotation(
                brush("Lumen", block()),
                brush("Gone", ~block()),
                brush(None, ~block()),
                {"id": "k", "type": "keypointlabels", "value": {"x": 1, "y": 1}},
                {"id": "t", "type": "textarea", "value": {"text": ["fine"]}},
            ),
        ),
    )
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-1"), block())
    assert report.regions == {
        annotations.UNKNOWN_LABEL: 1,
        annotations.NO_LABEL_LEFT: 1,
        annotations.OTHER_KIND: 1,
    }


def test_an_annotation_without_a_result_says_nothing(tmp_path: Path) -> None:
    report = write(tmp_path, task(1, {"id": 1}), task(2, {"id": 2, "result": None}), task(3, annotation()))
    assert report.dropped == {annotations.NO_REGION: 2}
    assert list(open_data_folder(tmp_path).samples) == ["task-3"]


def test_a_region_without_a_label_never_teaches_that_a_class_is_absent(tmp_path: Path) -> None:
    """It may be of any class; what is drawn beside it with a label stays."""
    empty = brush("Lumen", block()) | {"value": {"rle": encode_rle(block()), "brushlabels": []}}
    tool = brush(None, block(), type="brush", from_name="tool")
    point = {"id": "k", "type": "keypointlabels", "to_name": "image", "value": {"x": 1, "y": 1}}
    report = write(
        tmp_path,
        *(task(number, annotation(made)) for number, made in enumerate((brush(None, block()), empty, tool, point), 1)),
        task(5, annotation(brush(None, block()), brush("Lumen", block(12, 20), id="r2"))),
    )
    unknown = {"Lumen": None, "Lipid core": None, "blurred": False}
    assert table(tmp_path) == dict.fromkeys(("task-1", "task-2", "task-3", "task-4"), unknown) | {
        "task-5": {"Lumen": True, "Lipid core": None, "blurred": False}
    }
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-5"), block(12, 20))
    assert report.regions == {annotations.NO_LABEL_LEFT: 4, annotations.OTHER_KIND: 1}
    assert "task 5, image /data/a.png: region 'r1' has no label" in report.text


UNREADABLE = [
    brush("Lumen", block()) | {"value": {"brushlabels": ["Lumen"], "rle": [1]}},
    brush("Lumen", block(), from_name="other", to_name="overview"),  # an image that the config no longer has
    {"id": "b", "type": "bitmasklabels", "from_name": "tag", "to_name": "image", "original_height": 30}
    | {"original_width": 40, "value": {"bitmasklabels": ["Lumen"], "imageDataURL": "data:image/png;base64,AAAA"}},
    {"id": "f", "type": "splinelabels", "to_name": "image", "value": {"knots": [1, 2], "splinelabels": ["Lumen"]}},
    {"id": "f", "type": "spline", "to_name": "image", "value": {"knots": [1, 2], "labels": ["Lumen"]}},
]


@pytest.mark.parametrize("unread", UNREADABLE)
@pytest.mark.parametrize("beside", [[], [brush("Lumen", block(12, 20), id="r2")]], ids=["alone", "beside another"])
def test_a_region_that_cannot_be_read_never_teaches_that_its_class_is_absent(
    tmp_path: Path, unread: dict[str, Any], beside: list[dict[str, Any]]
) -> None:
    """Nor that it is nowhere else: the mask of a readable region of the class would be only part of it."""
    result = [unread, *beside, brush("Lipid core", block(), id="r3")]
    report = write(tmp_path, task(1, annotation(*result)), task(2, annotation()))
    assert table(tmp_path) == {
        "task-1": {"Lumen": None, "Lipid core": True, "blurred": False},
        "task-2": {"Lumen": False, "Lipid core": False, "blurred": False},
    }
    assert drawn_on(tmp_path) == {"task-1": {"Lipid core"}, "task-2": set()}
    assert report.regions[annotations.UNREAD] == 1
    assert "task 1, image /data/a.png: " in report.text
    assert "'Lumen' counts as unknown there" in report.text


VECTOR = '<VectorLabels name="v" toName="image" closable="true"><Label value="Lumen"/></VectorLabels></View>'


@pytest.mark.parametrize("closed", [True, False])
def test_an_open_path_says_that_its_class_is_there_but_not_where(tmp_path: Path, closed: bool) -> None:
    corners = [{"x": x, "y": y} for x, y in ((25, 20), (75, 20), (75, 80), (25, 80))]
    value = {"vertices": corners, "closed": closed, "vectorlabels": ["Lumen"]}
    drawn = brush("Lumen", block(), type="vectorlabels", from_name="v", value=value)
    report = write(tmp_path, task(1, annotation(drawn)), config=BRUSH.replace("</View>", VECTOR))
    assert table(tmp_path)["task-1"]["Lumen"] is True
    assert drawn_on(tmp_path)["task-1"] == ({"Lumen"} if closed else set())
    assert report.regions == ({} if closed else {annotations.OPEN: 1})


def test_a_shape_smaller_than_a_pixel_is_there_and_a_brush_that_was_erased_is_not(tmp_path: Path) -> None:
    tiny = {"x": 10.1, "y": 10.1, "width": 0.1, "height": 0.1, "rotation": 0, "rectanglelabels": ["Stent"]}
    result = [
        brush("Stent", block(), type="rectanglelabels", from_name="box", value=tiny),
        brush("Lumen", np.zeros_like(block()), from_name="brush", id="r2"),
    ]
    write(tmp_path, task(1, annotation(*result)), config=SHAPES)
    assert table(tmp_path)["task-1"] == {"Lumen": False, "Plaque": False, "Stent": True, "Catheter": False}
    assert drawn_on(tmp_path)["task-1"] == set()


SMART = '<RectangleLabels name="box" toName="image" smart="true"><Label value="Lumen"/></RectangleLabels></View>'


@pytest.mark.parametrize(
    "hint",
    [
        {"type": "keypointlabels", "from_name": "kp", "value": {"x": 1, "y": 1, "keypointlabels": ["Lumen"]}},
        {"type": "rectanglelabels", "from_name": "box"}
        | {"value": {"x": 0, "y": 0, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["Lumen"]}},
    ],
    ids=["point", "smart box"],
)
def test_what_a_prompt_left_behind_leaves_its_class_open_unless_it_is_drawn(tmp_path: Path, hint: Any) -> None:
    hint = {"id": "h", "to_name": "image", "original_height": HEIGHT, "original_width": WIDTH, **hint}
    config = BRUSH.replace("</View>", SMART)
    write(tmp_path, task(1, annotation(hint)), task(2, annotation(hint, brush("Lumen", block()))), config=config)
    assert [row["Lumen"] for row in table(tmp_path).values()] == [None, True]
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-2"), block())


def test_what_is_said_about_a_region_or_a_text_is_no_class_of_the_image(tmp_path: Path) -> None:
    """A choice with a region's id alone, one below a region, a text that repeats the labels, one about another tag."""
    drawn = brush("Lipid core", block())
    texts = '<Text name="t" value="$t"/><Choices name="d" toName="t"><Choice value="blurred"/></Choices></View>'
    report = write(
        tmp_path,
        task(
            1,
            annotation(
                drawn,
                choices("blurred") | {"id": drawn["id"]},
                choices("blurred") | {"parentID": drawn["id"]},
                choices("blurred", name="d") | {"to_name": "t"},
                {"id": drawn["id"], "type": "textarea", "to_name": "image", "value": {"brushlabels": ["Lumen"]}},
                {"type": "relation", "from_id": "r1", "to_id": "r1", "labels": ["Lumen"]},
                {"id": "s", "type": "hypertextlabels", "to_name": "t", "value": {"hypertextlabels": ["Lumen"]}},
            ),
        ),
        config=BRUSH.replace("</View>", texts),
    )
    assert table(tmp_path)["task-1"] == {"Lumen": False, "Lipid core": True, "blurred": False}
    assert report.regions == {}


def test_tasks_without_an_id_are_named_by_their_position(tmp_path: Path) -> None:
    tasks = [task(1, annotation(brush("Lumen", block()))) for _ in range(2)]
    write(tmp_path, *[{key: value for key, value in one.items() if key != "id"} for one in tasks])
    assert list(table(tmp_path)) == ["task-row-1", "task-row-2"]


# Several images in a task


def bitmask(label: str, mask: Mask, **fields: Any) -> dict[str, Any]:
    value = {"imageDataURL": encode_bitmask(mask), "bitmasklabels": [label]}
    return brush(label, mask, type="bitmasklabels", value=value, **fields)


def test_each_region_is_learnt_on_the_image_that_it_is_on(tmp_path: Path) -> None:
    """And of an image only the classes of its own controls are known."""
    result = [
        bitmask("Lumen", block(), from_name="tagL", to_name="imgL"),
        brush("Plaque", block(12, 20), from_name="tagR", to_name="imgR", id="r2"),
        choices("blurred") | {"to_name": "imgR"},
    ]
    made = {"id": 7, "data": {"left": "/l.png", "right": "/r.png"}, "annotations": [annotation(*result)]}
    report = write(tmp_path, made, config=PAIR)
    assert table(tmp_path) == {
        "task-7 left": {"Lumen": True, "Plaque": None, "blurred": False},
        "task-7 right": {"Lumen": False, "Plaque": True, "blurred": True},
    }
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-7 left"), block())
    assert np.array_equal(mask_of(tmp_path, "Plaque", "task-7 right"), block(12, 20))
    assert (report.used, report.images) == (1, 2)
    assert "1 accepted task with 2 images" in report.text


def test_each_page_of_a_list_is_an_image_of_its_own(tmp_path: Path) -> None:
    """A choice for all pages leaves open which page it is about; one for a page does not."""
    result = [
        bitmask("Lumen", block(), item_index=1),
        bitmask("Lumen", block(12, 20), id="r2"),  # without a page it is on the first, as in the editor
        bitmask("Lumen", block(), item_index=5, id="r3"),
        choices("stable", name="kind"),
        choices("blurred") | {"item_index": 2},
    ]
    made = {"id": 7, "data": {"images": ["/0.png", "/1.png", "/2.png"]}, "annotations": [annotation(*result)]}
    report = write(tmp_path, made, config=PAGES)
    assert table(tmp_path) == {
        "task-7 page 1": {"Lumen": True, "stable": None, "blurred": False},
        "task-7 page 2": {"Lumen": True, "stable": None, "blurred": False},
        "task-7 page 3": {"Lumen": False, "stable": None, "blurred": True},
    }
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-7 page 1"), block(12, 20))
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-7 page 2"), block())
    assert report.regions == {annotations.NO_PAGE: 1}


def test_a_region_on_an_unclear_page_leaves_its_class_open_on_all(tmp_path: Path) -> None:
    made = {"id": 7, "data": {"images": ["/0.png", "/1.png"]}}
    made["annotations"] = [annotation(bitmask("Lumen", block(), item_index="1"))]
    write(tmp_path, made, config=PAGES)
    assert [row["Lumen"] for row in table(tmp_path).values()] == [None, None]


def test_an_image_that_cannot_be_read_leaves_the_others_of_its_task(tmp_path: Path) -> None:
    made = {"id": 7, "data": {"images": ["/0.png", "/broken.png"]}, "annotations": [annotation()]}
    report = write(tmp_path, made, config=PAGES)
    assert list(table(tmp_path)) == ["task-7 page 1"]
    assert report.dropped == {annotations.NO_IMAGE: 1}
    assert [what for what, _ in report.left_out] == ["task 7 page 2"]


@pytest.mark.parametrize("field", [None, "patient"])
def test_the_images_of_a_task_stay_together(tmp_path: Path, field: str | None) -> None:
    tasks = [
        {"id": number, "data": {"images": ["/0.png", "/1.png"], "patient": number // 7}, "annotations": [annotation()]}
        for number in range(14)
    ]
    write_data_folder(tasks, parse_label_config(PAGES), SameImage(), tmp_path, group_field=field)
    groups = open_data_folder(tmp_path).groups()
    together = [(groups[f"task-{n} page 1"], groups[f"task-{n} page 2"]) for n in range(14)]
    assert all(first == second for first, second in together)
    assert len(dict(together)) == (2 if field else 3)


def test_predictions_on_several_images_are_compared_image_by_image(tmp_path: Path) -> None:
    config = parse_label_config(PAGES)
    images = task_images({"data": {"images": ["/0.png", "/1.png"]}}, config)
    seen = [Prediction({}, [Segment("Lumen", 0.9, mask)]) for mask in (block(), block(12, 20))]
    entry = task_entry(list(zip(images, seen, strict=True)), config, "v1")
    accepted = [*entry["result"][:1], entry["result"][1] | {"item_index": 0, "id": "moved"}]
    made = {"id": 7, "data": {"images": ["/0.png", "/1.png"]}, "annotations": [annotation(*accepted)]}
    report = write_data_folder([made], config, SameImage(), tmp_path, lambda made: entry)
    both = block() | block(12, 20)
    assert report.acceptance["v1"]["Lumen"].drawn == 2
    assert report.acceptance["v1"]["Lumen"].iou == pytest.approx(block().sum() / both.sum() / 2)


def test_a_region_of_a_control_that_was_renamed_since_is_still_read(tmp_path: Path) -> None:
    write(tmp_path, task(1, annotation(brush("Lumen", block(), from_name="former"))))
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-1"), block())


def test_a_region_of_a_control_that_became_another_kind_is_still_read(tmp_path: Path) -> None:
    """The project went over from polygons to brushes, under the same name or another."""
    polygons = parse_label_config(BRUSH.replace("BrushLabels", "PolygonLabels"))
    drawn = prediction_entry(Prediction({}, [Segment("Lumen", 0.9, block())]), polygons, "v1")["result"]
    for number, name in enumerate(("tag", "former")):
        write(tmp_path / name, task(1, annotation(drawn[0] | {"from_name": name})))
        assert np.array_equal(mask_of(tmp_path / name, "Lumen", "task-1"), block()), number


def test_a_brush_of_another_size_is_scaled_to_the_image_and_counted(tmp_path: Path) -> None:
    report = write(tmp_path, task(1, annotation(brush("Lumen", block()))), images=SameImage(2 * HEIGHT, 2 * WIDTH))
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-1"), block().repeat(2, axis=0).repeat(2, axis=1))
    assert report.regions == {annotations.RESIZED: 1}


def test_a_brush_with_its_size_written_the_wrong_way_round_is_read_as_the_editor_draws_it(tmp_path: Path) -> None:
    swapped = brush("Lumen", block(), original_height=WIDTH, original_width=HEIGHT)
    report = write(tmp_path, task(1, annotation(swapped)))
    assert np.array_equal(mask_of(tmp_path, "Lumen", "task-1"), block())
    assert report.regions == {annotations.RESIZED: 1}


def test_percent_fit_an_image_of_any_size(tmp_path: Path) -> None:
    config = parse_label_config(SHAPES)
    entry = prediction_entry(Prediction({}, [Segment("Stent", 0.9, block())]), config, "v1")
    write(tmp_path, task(1, annotation(*entry["result"])), config=SHAPES, images=SameImage(3 * HEIGHT, 3 * WIDTH))
    assert np.array_equal(mask_of(tmp_path, "Stent", "task-1"), block().repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("label", ["Calcium/Lipid", "..", "a\\b", "name", " blank ", "Ä" * 260, "管腔 ☃"])
def test_a_label_may_be_any_text(tmp_path: Path, label: str) -> None:
    write(
        tmp_path, task(1, annotation(brush(label, block()))), config=BRUSH.replace('value="Lumen"', f'value="{label}"')
    )
    assert table(tmp_path)["task-1"][label] is True
    assert np.array_equal(mask_of(tmp_path, label, "task-1"), block())


def test_an_export_of_label_studio_is_read_with_images_fetched_from_it(
    tmp_path: Path, server: FakeLabelStudio, client: LabelStudio, picture: Callable[[int, int], bytes]
) -> None:
    project = server.add_project(BRUSH)
    server.add_annotation(server.add_upload(project, "a.png", picture(WIDTH, HEIGHT)), [brush("Lumen", block())])
    server.add_upload(project, "b.png", picture(WIDTH, HEIGHT))
    report = write(tmp_path, *client.export(project, all_tasks=True), images=ImageLoader(client))
    assert (report.used, report.dropped) == (1, {annotations.NO_ANNOTATION: 1})


def test_an_empty_project_gives_an_empty_report(tmp_path: Path) -> None:
    assert write(tmp_path).text == "0 accepted tasks: Lumen on 0, Lipid core on 0, blurred on 0"


def test_predicted_masks_are_compared_with_the_accepted_ones(tmp_path: Path) -> None:
    """Accepted unchanged, moved, deleted, added, started empty, and predicted by a version whose labels are gone."""
    drawn = {"result": [brush("Lumen", block())], "model_version": "p3-r001"}
    moved = brush("Lumen", block(top=9))  # 4 of 8 rows in common: 4/12
    gone = {"result": [brush("Calcium", block())], "model_version": "p3-r000"}
    broken = {"result": [brush("Lumen", block(), value={"rle": [1], "brushlabels": ["Lumen"]})], "model_version": "x"}
    tasks = [
        (task(1, annotation(brush("Lumen", block()))), drawn),
        (task(2, annotation(moved, brush("Lipid core", block()))), drawn),
        (task(3, annotation()), drawn),
        (task(4, annotation(brush("Lumen", block()))), None),
        (task(5, annotation(brush("Lumen", block()))), gone),
        (task(6, annotation(brush("Lumen", block()))), broken),
    ]
    behind = {id(made["annotations"][0]): prediction for made, prediction in tasks}
    report = write_data_folder(
        [made for made, _ in tasks], parse_label_config(BRUSH), SameImage(), tmp_path, lambda made: behind[id(made)]
    )
    assert report.used == 6
    assert report.acceptance == {
        "p3-r001": {
            "Lumen": AcceptanceStatistics(drawn=3, iou=(1 + 1 / 3 + 0) / 3, unchanged=1, added=0),
            "Lipid core": AcceptanceStatistics(drawn=0, iou=0.0, unchanged=0, added=1),
        }
    }
    assert (
        "Of 3 masks predicted by p3-r001, 1 were accepted unchanged; mean IoU with the accepted masks 0.444"
        in report.text
    )
    assert report.regions == {}


@given(st.lists(st.tuples(*[st.none() | st.lists(st.booleans(), min_size=3, max_size=3).filter(any)] * 2)))
def test_acceptance_is_a_mean_over_the_predicted_masks(tasks: list[tuple[list[bool] | None, ...]]) -> None:
    statistics = AcceptanceStatistics()
    ious = []
    for drawn, accepted in tasks:
        statistics.count(*(None if mask is None else np.array([mask]) for mask in (drawn, accepted)))
        if drawn is not None:
            both = [a and b for a, b in zip(drawn, accepted or [False] * 3, strict=True)]
            either = [a or b for a, b in zip(drawn, accepted or [False] * 3, strict=True)]
            ious.append(sum(both) / sum(either))
    assert statistics.drawn == len(ious)
    assert statistics.iou == pytest.approx(np.mean(ious) if ious else 0)
    assert statistics.unchanged == ious.count(1.0)
    assert statistics.added == sum(drawn is None and accepted is not None for drawn, accepted in tasks)


def grouped(number: int, **data: Any) -> dict[str, Any]:
    made = task(number, annotation(brush("Lumen", block())))
    made["data"] |= data
    return made


def test_the_group_of_each_task_is_written_for_the_split(tmp_path: Path) -> None:
    """The tasks of four patients take turns, as a worklist mixes them."""
    tasks = [grouped(number, patient=f"P{number % 4}") for number in range(20)]
    report = write_data_folder(tasks, parse_label_config(BRUSH), SameImage(), tmp_path, group_field="patient")
    assert report.groups == 4
    assert "Groups that are kept together: 4" in report.text
    assert open_data_folder(tmp_path).groups() == {f"task-{number}": f"P{number % 4}" for number in range(20)}


def test_without_a_group_field_no_groups_are_written(tmp_path: Path) -> None:
    report = write(tmp_path, grouped(1, patient="P1"))
    assert report.groups == 0
    assert not (tmp_path / "groups.json").exists()


def test_a_group_field_that_no_task_has_is_reported(tmp_path: Path) -> None:
    report = write_data_folder(
        [grouped(1, patient="P1")], parse_label_config(BRUSH), SameImage(), tmp_path, group_field="study"
    )
    assert "no task has the field 'study'" in report.text


def test_annotations_whose_ids_are_numbers_and_texts_are_compared() -> None:
    """Files that were put together by hand have both, and no times."""
    task = {"id": 1, "annotations": [{"id": 3}, {"id": "12"}, {"id": "mine"}, {}]}
    assert annotations.accepted_annotation(task) == {"id": "12"}


@pytest.mark.parametrize("points", [[[120, 120], [130, 120], [130, 130]], [[500, 300], [1500, 300], [1500, 900]]])
def test_a_region_outside_of_its_image_is_said(tmp_path: Path, points: list[list[float]]) -> None:
    """Written in pixels instead of percent, it covers none of them."""
    polygon = brush("Plaque", block(), type="polygonlabels", from_name="polygon")
    polygon["value"] = {"points": points, "polygonlabels": ["Plaque"]}
    report = write(tmp_path, task(1, annotation(polygon)), config=SHAPES)
    assert drawn_on(tmp_path) == {"task-1": set()}
    assert report.regions == {annotations.NOWHERE: 1}
    assert "region 'r1' covers no pixel" in report.problems[0]
