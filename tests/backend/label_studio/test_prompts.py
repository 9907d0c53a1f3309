"""Smart tools' contexts as Label Studio sends them."""

from typing import Any

import numpy as np
import pytest

from backend.errors import RegionError
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.prompts import MAX_CLICKS, read_prompts
from backend.label_studio.rle import encode_rle
from models.prompt import Click

CONFIG = parse_label_config("""<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="tag" toName="image"><Label value="LM" predicted_values="Lumen"/><Label value="Core"/></BrushLabels>
  <PolygonLabels name="poly" toName="image"><Label value="LM"/><Label value="Stent"/></PolygonLabels>
  <KeyPointLabels name="kp" toName="image" smart="true"><Label value="LM"/><Label value="Stent"/></KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true"><Label value="LM"/></RectangleLabels>
</View>""")
SHAPE = (48, 64)


def click(x: float, y: float, positive: bool = True, label: str = "LM", id: str = "k") -> dict[str, Any]:
    """A keypoint as the editor serialises it."""
    return {
        "original_width": 64,
        "original_height": 48,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.23, "labels": [label], "keypointlabels": [label]},
        "is_positive": positive,
        "id": id,
        "from_name": "kp",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }


def brush(mask: Any, id: str = "r1", label: str = "LM") -> dict[str, Any]:
    value = {"format": "rle", "rle": encode_rle(mask), "brushlabels": [label]}
    return {"id": id, "type": "brushlabels", "from_name": "tag", "to_name": "image", "value": value}


def square(x: int, y: int) -> Any:
    mask = np.zeros(SHAPE, bool)
    mask[y : y + 8, x : x + 8] = True
    return mask


def read(*regions: Any, **task: Any) -> Any:
    return read_prompts({"id": 1, **task}, {"result": list(regions)}, CONFIG, SHAPE)


def test_clicks_come_in_pixels_with_their_sign_and_the_brush_that_cache() -> None:
    asked = read(click(25, 50, id="a"), click(50, 25, positive=False, id="b"))
    assert asked.prompt.clicks == (Click(16, 24), Click(32, 12, positive=False))
    assert (asked.label, asked.control.name) == ("Lumen", "tag")
    assert asked.existing == {}


def test_a_rectangle_is_a_box_and_other_shapes_are_outlines() -> None:
    value = {"x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0, "rectanglelabels": ["LM"]}
    asked = read({"id": "r", "type": "rectanglelabels", "value": value})
    expected = np.zeros(SHAPE, bool)
    expected[12:36, 16:32] = True
    np.testing.assert_array_equal(asked.prompt.boxes[0], expected)
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 10, "rotation": 0, "ellipselabels": ["LM"]}
    polygon = {"points": [[0, 0], [50, 0], [50, 50]], "closed": True, "polygonlabels": ["LM"]}
    shapes = [{"id": "e", "value": ellipse}, {"id": "p", "value": polygon}, brush(square(3, 4), id="b")]
    asked = read(*shapes)
    assert [int(mask.sum()) > 0 for mask in asked.prompt.outlines] == [True] * 3
    np.testing.assert_array_equal(asked.prompt.outlines[2], square(3, 4))


def test_a_tool_beside_labels_is_listed_twice_and_counts_once() -> None:
    value = {"x": 25, "y": 50, "width": 0.2, "labels": ["LM"]}
    twice = [{"id": "k", "type": kind, "from_name": "x", "value": value} for kind in ("keypoint", "labels")]
    assert len(read(*twice).prompt.clicks) == 1


@pytest.mark.parametrize("key", ["drafts", "annotations", "predictions"])
def test_what_is_drawn_already_of_that_label_is_there_to_be_improved(key: str) -> None:
    result = [brush(square(3, 4)), brush(square(20, 20), id="r2", label="Core")]
    older = {"id": 1, "updated_at": "2026-01-01", "result": [brush(square(40, 4), id="old")]}
    newest = {"id": 2, "updated_at": "2026-01-02", "result": result}
    asked = read(click(25, 50), **{key: [newest, older]})
    assert list(asked.existing) == ["r1"]
    np.testing.assert_array_equal(asked.existing["r1"], square(3, 4))


def test_a_draft_is_newer_than_the_prediction_it_began_as() -> None:
    """The annotator deleted the region: it must not come back."""
    predicted = [{"id": 1, "result": [brush(square(3, 4))]}]
    assert read(click(25, 50), drafts=[{"id": 2, "result": []}], predictions=predicted).existing == {}


def test_what_cannot_be_read_of_the_task_is_passed_over() -> None:
    broken = brush(square(3, 4)) | {"value": {"rle": [1, 2], "brushlabels": ["LM"]}}
    assert read(click(25, 50), drafts=[{"id": 1, "result": [broken, "text"]}, None]).existing == {}
    assert read(click(25, 50), drafts=5, annotations="none", predictions={"result": []}).existing == {}


def test_a_label_that_only_polygons_offer_is_answered_with_a_polygon() -> None:
    assert read(click(25, 50, label="Stent")).control.name == "poly"


@pytest.mark.parametrize("result", [[], None, "text", [3], [{"id": "x", "value": {"x": 1, "y": 2}}]])
def test_without_a_prompt_there_is_nothing_to_answer(result: Any) -> None:
    """An empty result comes when the last prompt is deleted."""
    assert read_prompts({"id": 1}, {"result": result}, CONFIG, SHAPE) is None


def test_a_label_that_nothing_draws_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert read(click(25, 50, label="Gone")) is None
    assert "no control offers 'Gone'" in caplog.text


def test_a_damaged_prompt_is_an_error_that_names_it() -> None:
    with pytest.raises(RegionError, match=r"value\.x is 'left'"):
        read({"id": "k", "type": "keypointlabels", "value": {"x": "left", "y": 1, "keypointlabels": ["LM"]}})


def test_of_a_thousand_clicks_the_newest_are_taken() -> None:
    asked = read(*(click(i / 20, 50, id=f"c{i}") for i in range(1000)))
    assert len(asked.prompt.clicks) == MAX_CLICKS
    assert asked.prompt.clicks[-1].x == pytest.approx(999 / 20 / 100 * 64)


def test_a_smart_tool_is_no_annotation() -> None:
    """A box that was left over must not be trained on as a mask."""
    assert [control.name for control in CONFIG.region_controls] == ["tag", "poly"]
