"""`<Labels>` beside a tool: two results with one id, read and written as the one region that they are."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from backend.label_studio.annotations import read_annotation
from backend.label_studio.controls import REGION_CONTROLS
from backend.label_studio.controls.pairs import TOOLS, merge_results, split_results
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import prediction_entry
from models.segment import Prediction, Segment

SHAPE = (30, 40)
IMAGE = '<Image name="image" value="$image"/>'
WHAT = '<Labels name="what" toName="image"><Label value="Lumen"/><Label value="fc" predicted_values="Cap"/></Labels>'
DEVICE = '<Labels name="device" toName="image"><Label value="Stent"/></Labels>'


def config(*tools: str, labels: str = WHAT) -> Any:
    drawn = "".join(f'<{tool} name="{tool}" toName="image" closable="true"/>' for tool in tools)
    return parse_label_config(f"<View>{IMAGE}{labels}{drawn}</View>")


def block() -> Any:
    mask = np.zeros(SHAPE, bool)
    mask[5:15, 10:30] = True
    return mask


def predicted(*tools: str, label: str = "Cap", labels: str = WHAT) -> list[dict[str, Any]]:
    segment = Segment(label, 0.8, block())
    result: list[dict[str, Any]] = prediction_entry(
        Prediction({label: 0.9}, [segment]), config(*tools, labels=labels), "v"
    )["result"]
    return result


@pytest.mark.parametrize("tool", TOOLS)
def test_a_prediction_is_the_drawing_and_then_what_it_is(tool: str) -> None:
    drawing, label = predicted(tool)
    assert (drawing["type"], drawing["from_name"]) == (tool.lower(), tool)
    assert (label["type"], label["from_name"]) == ("labels", "what")
    assert drawing["id"] == label["id"]
    assert drawing["score"] == label["score"] == 0.8
    assert drawing["meta"] == label["meta"]
    assert label["value"] == drawing["value"] | {"labels": ["fc"]}
    assert not [key for key in drawing["value"] if key.endswith("labels")]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("kept", ["both", "other way round", "labels alone", "drawing repeated in one only"])
def test_what_was_accepted_is_read_under_the_models_name(tool: str, kept: str) -> None:
    drawing, label = predicted(tool)
    bare = label | {"value": {"labels": label["value"]["labels"]}}
    result = {
        "both": [drawing, label],
        "other way round": [label, drawing],
        "labels alone": [label],
        "drawing repeated in one only": [drawing, bare],
    }[kept]
    counts: Counter[str] = Counter()
    truth = read_annotation({"result": result}, config(tool), SHAPE, counts)
    (mask,) = truth.masks.values()
    assert list(truth.masks) == ["Cap"]
    assert (mask & block()).sum() / (mask | block()).sum() > (0.7 if tool == "Ellipse" else 0.99)
    assert truth.presence == {"Lumen": False, "Cap": True}
    assert not +counts


def test_the_exactest_tool_is_predicted_with_and_all_are_read() -> None:
    tools = ("Rectangle", "Polygon", "Brush")
    assert [one["type"] for one in predicted(*tools)] == ["brush", "labels"]
    boxed = predicted("Rectangle", label="Lumen")
    truth = read_annotation({"result": [*predicted("Polygon"), *boxed]}, config(*tools), SHAPE, Counter())
    assert set(truth.masks) == {"Lumen", "Cap"}


def test_a_tool_takes_its_labels_from_every_labels_tag_beside_it() -> None:
    both = config("Brush", labels=WHAT + DEVICE)
    assert both.classes == ("Lumen", "Cap", "Stent")
    drawing, label = predicted("Brush", label="Stent", labels=WHAT + DEVICE)
    assert (drawing["from_name"], label["from_name"]) == ("Brush", "device")
    # The annotator gives the region a label of each.
    more = label | {"from_name": "what", "value": drawing["value"] | {"labels": ["Lumen"]}}
    truth = read_annotation({"result": [drawing, label, more]}, both, SHAPE, Counter())
    assert set(truth.masks) == {"Stent", "Lumen"}


def test_a_drawing_without_a_label_is_counted_and_teaches_nothing() -> None:
    counts: Counter[str] = Counter()
    drawing, _ = predicted("Brush")
    truth = read_annotation({"result": [drawing]}, config("Brush"), SHAPE, counts)
    assert truth.masks == {}
    assert sum(counts.values()) == 1


def test_a_magic_wands_mask_is_a_brushs() -> None:
    drawing, label = predicted("Brush")
    (region,) = merge_results([drawing | {"type": "magicwand"}, label])
    assert np.array_equal(REGION_CONTROLS["BrushLabels"].to_mask(region), block())


def test_a_choice_about_a_region_does_not_take_its_place() -> None:
    drawing, label = predicted("Brush")
    choice = {"id": drawing["id"], "type": "choices", "from_name": "sure", "value": {"choices": ["yes"]}}
    assert [one["type"] for one in merge_results([drawing, label, choice])] == ["brushlabels", "choices"]


def test_a_control_with_labels_of_its_own_keeps_one_result() -> None:
    own = parse_label_config(
        f'<View>{IMAGE}<BrushLabels name="t" toName="image"><Label value="A"/></BrushLabels></View>'
    )
    (region,) = REGION_CONTROLS["BrushLabels"].to_regions(Segment("A", 1.0, block()), own.controls[0])
    assert split_results(region, own.controls[0]) == [region]
    assert merge_results([region]) == [region]


@pytest.mark.parametrize("result", [None, "text", {"id": 1}, [None, 3, "x"]])
def test_a_result_that_is_no_list_of_objects_holds_no_region(result: Any) -> None:
    assert merge_results(result) == []


@pytest.mark.parametrize("kind", [None, [], {}, 3, "relation"])
def test_a_result_of_any_other_type_stays_as_it_is(kind: Any) -> None:
    odd = {"id": "r", "type": kind, "value": {"labels": ["Lumen"]}}
    assert merge_results([odd, odd]) == [odd, odd]


@pytest.mark.parametrize("value", [None, [], {"labels": "Lumen"}, {"labels": None, "rle": [1]}])
def test_a_damaged_half_has_no_label(value: Any) -> None:
    for region in merge_results(
        [{"id": "r", "type": "labels", "value": value}, {"id": "s", "type": "brush", "value": value}]
    ):
        assert REGION_CONTROLS["BrushLabels"].labels(region) == []
