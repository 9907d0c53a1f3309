"""Requests as Label Studio sends them, and answers that it stores."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from backend.errors import BadRequest, ConfigError
from backend.label_studio.annotations import read_annotation
from backend.label_studio.controls import REGION_CONTROLS
from backend.label_studio.controls.region import Mask
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import (
    MAX_ACTION,
    parse_predict,
    parse_setup,
    parse_webhook,
    prediction_entry,
    prompt_entry,
    task_entry,
)
from backend.label_studio.task_images import task_images
from models.segment import Prediction, Segment
from tests.backend.label_studio.configs import BRUSH, CHOICES, PAGES, SHAPES

TASK = {"id": 1, "data": {"image": "/data/upload/1/ff43786f-a.png"}, "annotations": [], "predictions": []}
PREDICT: dict[str, Any] = {
    "tasks": [TASK],
    "project": "1.1795393773",
    "label_config": BRUSH,
    "params": {"login": None, "password": None, "context": None},
}
SETUP: dict[str, Any] = {
    "project": "1.1795393773",
    "schema": BRUSH,
    "hostname": "http://127.0.0.1:8081",
    "access_token": "0011223344",
    "extra_params": None,
}


def block() -> Mask:
    mask = np.zeros((30, 40), dtype=bool)
    mask[5:15, 10:30] = True
    return mask


# /predict


def test_a_predict_request_gives_project_tasks_and_config() -> None:
    request = parse_predict(PREDICT)
    assert request.project_id == "1"
    assert request.tasks == [TASK]
    assert request.config.classes == ("Lumen", "Lipid core", "blurred")
    assert request.context is None


@pytest.mark.parametrize("project", ["3", "3.1795393773", 3, 3.0, "03"])
def test_a_project_has_one_id_however_it_is_written(project: Any) -> None:
    assert parse_predict(PREDICT | {"project": project}).project_id == "3"


def test_a_smart_tools_prompts_come_as_context() -> None:
    context = {"result": [{"type": "keypointlabels"}]}
    assert parse_predict(PREDICT | {"params": {"context": context}}).context == context
    assert parse_predict({key: value for key, value in PREDICT.items() if key != "params"}).context is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": None}, "'tasks' should be a list of tasks, got nothing"),
        ({"tasks": [TASK, {"id": 2}]}, r"tasks\[1\] should be an object with 'data'"),
        ({"tasks": [TASK, 3]}, r"tasks\[1\].*got int '3'"),
        ({"project": None}, "/predict: the project should be an id"),
        ({"project": "../1"}, "the project should be an id"),
        ({"project": True}, "the project should be an id"),
        ({"label_config": None}, "'label_config' should be a string, got nothing"),
        ({"params": [1]}, "'params' should be a JSON object, got a list of 1"),
        ({"params": {"context": "x"}}, "'params.context' should be a JSON object"),
        ({"params": {"context": []}, "label_config": "<View/>"}, "'params.context' should be a JSON object"),
    ],
)
def test_a_malformed_predict_request_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        parse_predict(PREDICT | changes)


@pytest.mark.parametrize("body", [None, [], "text", 3])
def test_a_body_that_is_no_object_is_named(body: Any) -> None:
    for parse in (parse_predict, parse_setup, parse_webhook):
        with pytest.raises(BadRequest, match="should be a JSON object"):
            parse(body)


def test_a_predict_request_with_a_useless_config_says_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="<BrushLabels>"):
        parse_predict(PREDICT | {"label_config": "<View/>"})


# /setup


def test_a_setup_request_gives_project_config_and_access() -> None:
    request = parse_setup(SETUP)
    assert (request.project_id, request.label_config) == ("1", BRUSH)
    assert (request.hostname, request.access_token) == ("http://127.0.0.1:8081", "0011223344")
    assert "0011223344" not in repr(request)


def test_setting_up_does_not_need_a_usable_config_or_a_token() -> None:
    request = parse_setup({"project": 7, "schema": "<View/>", "hostname": None, "access_token": None})
    assert (request.project_id, request.hostname, request.access_token) == ("7", "", "")


@pytest.mark.parametrize("changes", [{"project": ""}, {"schema": 3}, {"access_token": ["a"]}])
def test_a_malformed_setup_request_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="/setup"):
        parse_setup(SETUP | changes)


# /webhook


@pytest.mark.parametrize(
    ("event", "annotations_change"),
    [
        ({"action": "ANNOTATION_CREATED", "annotation": {"id": 13}, "task": {"id": 5}}, True),
        ({"action": "ANNOTATIONS_CREATED", "annotation": [{"id": 1}, {"id": 2}], "task": [{"id": 5}]}, True),
        ({"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 13}]}, True),
        ({"action": "TASKS_DELETED", "tasks": [{"id": 4}]}, False),
        ({"action": "PROJECT_UPDATED"}, False),
    ],
)
def test_an_event_says_whether_annotations_change(event: dict[str, Any], annotations_change: bool) -> None:
    parsed = parse_webhook({**event, "project": {"id": 45, "label_config": BRUSH}})
    assert (parsed.action, parsed.project_id, parsed.label_config) == (event["action"], "45", BRUSH)
    assert parsed.changes_annotations is annotations_change
    assert not parsed.starts_training


def test_only_start_training_starts_training() -> None:
    assert parse_webhook({"action": "START_TRAINING", "project": {"id": 45}}).starts_training


@pytest.mark.parametrize("body", [{"action": "START_TRAINING"}, {"project": {"id": 1}}, {"action": "A", "project": {}}])
def test_an_event_without_action_or_project_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="/webhook"):
        parse_webhook(body)


# Predictions


def test_each_offered_segment_becomes_a_brush_region_and_each_choices_control_its_choices() -> None:
    prediction = Prediction(
        {"Lumen": 0.9, "Lipid core": 0.7, "blurred": 0.2, "Other": 0.9},
        [Segment("Lumen", 0.8, block()), Segment("Lipid core", 0.6, ~block()), Segment("Other", 0.9, block())],
        frozenset({"Lumen", "Lipid core", "Other"}),
    )
    entry = prediction_entry(prediction, parse_label_config(BRUSH), "lite0-r1")
    assert [(region["type"], region["score"]) for region in entry["result"]] == [
        ("brushlabels", 0.8),
        ("brushlabels", 0.6),
        ("choices", 0.9),
    ]
    assert entry["result"][2]["value"] == {"choices": ["Lumen"]}
    assert entry["model_version"] == "lite0-r1"
    assert entry["score"] == pytest.approx(0.8 * 0.6 * 0.8)
    assert len({region["id"] for region in entry["result"]}) == 3
    assert np.array_equal(REGION_CONTROLS["BrushLabels"].to_mask(entry["result"][1]), ~block())


def test_a_class_is_drawn_with_the_most_exact_control_that_offers_it() -> None:
    segments = [Segment(name, 0.9, block()) for name in ("Lumen", "Plaque", "Stent", "Catheter")]
    entry = prediction_entry(Prediction({}, segments), parse_label_config(SHAPES), "v1")
    assert [(region["from_name"], region["type"]) for region in entry["result"]] == [
        ("brush", "brushlabels"),
        ("polygon", "polygonlabels"),
        ("box", "rectanglelabels"),
        ("oval", "ellipselabels"),
    ]


def test_without_region_controls_only_choices_are_made() -> None:
    prediction = Prediction(
        {"benign": 0.3, "malignant": 0.7, "gas": 0.9},
        [Segment("malignant", 0.9, block())],
        frozenset({"malignant", "gas"}),
    )
    entry = prediction_entry(prediction, parse_label_config(CHOICES), "v1")
    assert [region["value"]["choices"] for region in entry["result"]] == [["malignant"], ["gas"]]


def test_nothing_found_is_an_empty_prediction_with_a_score() -> None:
    entry = prediction_entry(Prediction({"Lumen": 0.1}), parse_label_config(SHAPES), "v1")
    assert entry == {"result": [], "score": 0.9, "model_version": "v1"}


def spots() -> Any:
    """Three parts, the largest in the middle."""
    mask = np.zeros((30, 40), dtype=bool)
    mask[2:5, 2:5] = mask[10:20, 10:20] = mask[25:29, 30:36] = True
    return mask


@pytest.mark.parametrize(
    ("setting", "attribute", "regions"),
    [(False, None, 1), (True, None, 3), (False, "object", 3), (True, "class", 1), (True, "object", 3)],
)
def test_a_brush_draws_a_class_or_its_objects_and_the_control_has_the_last_word(
    setting: bool, attribute: str | None, regions: int
) -> None:
    xml = BRUSH.replace("<BrushLabels", f'<BrushLabels model_regions="{attribute}"') if attribute else BRUSH
    prediction = Prediction({"Lumen": 0.9}, [Segment("Lumen", 0.8, spots())])
    entry = prediction_entry(prediction, parse_label_config(xml), "v1", per_object=setting)
    brushes = [region for region in entry["result"] if region["type"] == "brushlabels"]
    masks = [REGION_CONTROLS["BrushLabels"].to_mask(region) for region in brushes]
    assert len(brushes) == len({region["id"] for region in brushes}) == regions
    assert [int(mask.sum()) for mask in masks] == sorted((int(mask.sum()) for mask in masks), reverse=True)
    # What comes back is the class again, pixel for pixel.
    truth = read_annotation(entry, parse_label_config(xml), (30, 40), Counter())
    assert np.array_equal(truth.masks["Lumen"], spots())


@pytest.mark.parametrize("tag", ["PolygonLabels", "RectangleLabels", "EllipseLabels"])
@pytest.mark.parametrize("setting", [False, True])
def test_shapes_which_hold_one_part_each_are_always_one_per_object(tag: str, setting: bool) -> None:
    config = parse_label_config(BRUSH.replace("BrushLabels", tag))
    entry = prediction_entry(Prediction({}, [Segment("Lumen", 0.8, spots())]), config, "v1", per_object=setting)
    assert [region["type"] for region in entry["result"]] == [tag.lower()] * 3


def test_meta_tells_how_uncertain_a_class_is_in_numbers_and_in_text() -> None:
    prediction = Prediction(
        {"Lumen": 0.75, "blurred": 0.5},
        [Segment("Lumen", 0.8, block(), uncertainty=0.25)],
        frozenset({"Lumen", "blurred"}),
    )
    brush, quality = prediction_entry(prediction, parse_label_config(BRUSH), "v1")["result"]
    bits = -0.75 * math.log2(0.75) - 0.25 * math.log2(0.25)
    assert brush["meta"]["uncertainty"] == {"presence": round(bits, 3), "outline": 0.25}
    assert brush["meta"]["text"] == ["uncertainty in bits: presence 0.81, outline 0.25"]
    assert quality["meta"] == {"uncertainty": {"blurred": 1.0, "Lumen": round(bits, 3)}}


def test_the_score_is_the_product_over_the_classes_that_the_project_has() -> None:
    unsure = Prediction({"Lumen": 0.9, "Plaque": 0.45, "Other": 0.5}, [Segment("Lumen", 0.8, block())])
    assert prediction_entry(unsure, parse_label_config(SHAPES), "v1")["score"] == pytest.approx(0.8 * 0.55)
    assert prediction_entry(unsure, parse_label_config(BRUSH), "v1")["score"] == pytest.approx(0.8)


def test_a_class_that_is_surely_there_and_not_drawn_is_served_first() -> None:
    """The answer says that it is absent, which is wrong with nine chances in ten."""
    missed = prediction_entry(Prediction({"Lumen": 0.9}), parse_label_config(SHAPES), "v1")
    empty = prediction_entry(Prediction({"Lumen": 0.02}), parse_label_config(SHAPES), "v1")
    assert missed["score"] == pytest.approx(0.1)
    assert empty["score"] == pytest.approx(0.98)


def test_where_only_presence_is_asked_a_missing_mask_is_no_doubt() -> None:
    entry = prediction_entry(
        Prediction({"benign": 0.1, "malignant": 0.9, "gas": 0.2}, present=frozenset({"malignant"})),
        parse_label_config(CHOICES),
        "v1",
    )
    assert entry["score"] == pytest.approx(0.9 * 0.9 * 0.8)


@pytest.mark.parametrize("presence", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("present", [False, True])
def test_a_class_is_drawn_exactly_if_its_choice_is_taken(presence: float, present: bool) -> None:
    prediction = Prediction(
        {"Lumen": presence},
        [Segment("Lumen", 0.8, block())] * present,
        frozenset({"Lumen"}) if present else frozenset(),
    )
    kinds = [region["type"] for region in prediction_entry(prediction, parse_label_config(BRUSH), "v1")["result"]]
    assert kinds == (["brushlabels", "choices"] if present else [])


def test_an_empty_mask_is_no_region() -> None:
    prediction = Prediction({"Lumen": 0.2}, [Segment("Lumen", 0.5, np.zeros((3, 3), dtype=bool))])
    assert prediction_entry(prediction, parse_label_config(SHAPES), "v1")["result"] == []


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_the_answer_never_holds_nan(score: float) -> None:
    prediction = Prediction({"Lumen": score}, [Segment("Lumen", score, block())])
    entry = prediction_entry(prediction, parse_label_config(BRUSH), "v1")
    json.dumps(entry, allow_nan=False)
    assert 0 <= entry["score"] <= 1


def test_scores_from_the_network_are_written_as_plain_numbers() -> None:
    prediction = Prediction({"blurred": float(np.float32(0.7))}, [Segment("Lumen", np.float32(0.8), block())])  # type: ignore[arg-type]
    assert json.loads(json.dumps(prediction_entry(prediction, parse_label_config(BRUSH), "v1")))["result"]


@pytest.mark.parametrize("tag", ["BrushLabels", "PolygonLabels", "RectangleLabels"])
def test_the_answer_to_a_prompt_replaces_one_region_of_several(tag: str) -> None:
    (control,) = parse_label_config(BRUSH.replace("BrushLabels", tag)).region_controls
    segment = Segment("Lumen", 0.8, spots())
    entry = prompt_entry(segment, control, "v1", improved="drawn-before")
    ids = [region["id"] for region in entry["result"]]
    assert ids[0] == "drawn-before"
    assert len(set(ids)) == len(ids)
    assert (entry["score"], entry["model_version"]) == (0.8, "v1")
    assert "drawn-before" not in [region["id"] for region in prompt_entry(segment, control, "v1")["result"]]


def test_a_prompt_for_which_nothing_is_found_is_answered_with_an_empty_result() -> None:
    (control,) = parse_label_config(BRUSH).region_controls
    nothing = prompt_entry(Segment("Lumen", 0.8, np.zeros((3, 3), dtype=bool)), control, "v1", improved="drawn-before")
    assert nothing == {"result": [], "score": 0.0, "model_version": "v1"}


# Several images


def test_a_choice_for_a_whole_list_is_what_is_on_any_page() -> None:
    config = parse_label_config(PAGES)
    images = task_images({"data": {"images": ["/0.png", "/1.png"]}}, config)
    seen = [
        Prediction(
            {"stable": 0.1, "blurred": 0.8, "Lumen": 0.9}, [Segment("Lumen", 0.9, block())], frozenset({"blurred"})
        ),
        Prediction({"stable": 0.7, "blurred": 0.2, "Lumen": 0.6}, [], frozenset({"stable"})),
    ]
    entry = task_entry(list(zip(images, seen, strict=True)), config, "v1")
    said = [
        (region["from_name"], region.get("item_index"), region["value"].get("choices")) for region in entry["result"]
    ]
    assert said == [("tag", 0, None), ("quality", 0, ["blurred"]), ("kind", None, ["stable"])]
    assert entry["score"] == pytest.approx((0.9 * 0.8 * 0.9) * (0.7 * 0.8 * 0.4))  # nothing is wrong on either page


def test_a_prompts_region_is_on_its_page() -> None:
    (control,) = parse_label_config(PAGES).region_controls
    (region,) = prompt_entry(Segment("Lumen", 0.9, block()), control, "v1", item_index=3)["result"]
    assert region["item_index"] == 3


def test_an_action_that_nobody_knows_is_told_back_in_short() -> None:
    assert len(parse_webhook({"action": "A" * 100_000, "project": {"id": 3}}).action) == MAX_ACTION
