"""Any labelling config, region or prompt is read, or refused with an error of ours."""

from base64 import b64encode
from collections import Counter
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backend.errors import ConfigError, RegionError
from backend.label_studio.annotations import read_annotation
from backend.label_studio.controls import CONTROLS, REGION_CONTROLS
from backend.label_studio.controls.bitmask import PREFIX
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.prompts import read_prompts
from tests.backend.label_studio.configs import BRUSH, PAGES, SHAPES

TAGS = [*(control.tag for control in CONTROLS), "KeyPointLabels", "Labels", "Brush", "Image", "View", "Label", "Choice"]
NAMES = st.sampled_from(["image", "tag", "", "Lumen", "a,b", "$image", "$undefined$", "$", "true"]) | st.text(
    st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), max_size=6
)
ATTRIBUTES = st.dictionaries(
    st.sampled_from(
        ["name", "toName", "value", "alias", "predicted_values", "smart", "choice", "perRegion", "granularity"]
    ),
    NAMES,
)


@st.composite
def configs(draw: st.DrawFn) -> str:
    """A tree of the tags that matter, with any of the attributes that matter."""
    root = Element("View")
    elements = [root, SubElement(root, "Image", name="image", value="$image")][: draw(st.integers(1, 2))]
    for _ in range(draw(st.integers(0, 8))):
        elements.append(SubElement(draw(st.sampled_from(elements)), draw(st.sampled_from(TAGS)), draw(ATTRIBUTES)))
    return tostring(root, encoding="unicode")


@given(configs() | st.text(max_size=40))
def test_any_config_is_read_or_refused(xml: str) -> None:
    try:
        config = parse_label_config(xml)
    except ConfigError:
        return
    assert config.controls
    assert config.image_key
    assert len(set(config.classes)) == len(config.classes)
    assert set(config.training_classes) <= set(config.classes)
    for control in config.controls:
        assert control.name
        assert all(control.labels.values())


@pytest.mark.parametrize(
    "xml",
    [
        "<View>" * 100_000 + "</View>" * 100_000,
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]><View><Image name="&a;" value="$image"/></View>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><View/>',
        "\ud800",
        "<View>\x00</View>",
    ],
    ids=["deep", "entity", "external", "surrogate", "null"],
)
def test_a_hostile_config_is_refused(xml: str) -> None:
    with pytest.raises(ConfigError):
        parse_label_config(xml)


NUMBERS = st.one_of(
    st.floats(-20, 120),
    st.integers(-1, 300),
    st.floats(),
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.just(10**400),
)
SIZES = st.sampled_from([1, 6, 8, 40]) | NUMBERS
TYPES = [control.tag.lower() for control in CONTROLS] + ["keypointlabels", "labels", "brush", "textarea"]
POINTS = st.fixed_dictionaries({}, optional={"x": NUMBERS, "y": NUMBERS})
VERTICES = st.fixed_dictionaries(
    {},
    optional={
        "x": NUMBERS,
        "y": NUMBERS,
        "id": st.sampled_from(["a", "b"]) | NUMBERS,
        "prevPointId": st.sampled_from(["a", "b"]) | NUMBERS,
        "isBezier": st.booleans(),
        "controlPoint1": POINTS | NUMBERS,
        "controlPoint2": POINTS | NUMBERS,
    },
)
VALUES = st.dictionaries(
    st.sampled_from(["x", "y", "width", "height", "radiusX", "radiusY", "rotation"]), NUMBERS
).flatmap(
    lambda numbers: st.fixed_dictionaries(
        {name: st.just(number) for name, number in numbers.items()},
        optional={
            "points": st.lists(st.lists(NUMBERS, max_size=3) | NUMBERS, max_size=6) | NUMBERS,
            "rle": st.lists(st.integers(-1, 300), max_size=40) | NUMBERS,
            "imageDataURL": st.binary(max_size=60).map(lambda png: PREFIX + b64encode(png).decode()) | NUMBERS,
            "closed": st.booleans() | NUMBERS,
            "vertices": st.lists(VERTICES | NUMBERS, max_size=5) | NUMBERS,
            **{name: st.lists(NAMES | NUMBERS, max_size=2) | NUMBERS for name in TYPES},
        },
    )
)
REGIONS: st.SearchStrategy[Any] = (
    st.fixed_dictionaries(
        {},
        optional={
            "id": NAMES | NUMBERS,
            "type": st.sampled_from(TYPES) | NUMBERS,
            "from_name": st.sampled_from(["tag", "t", "shapes"]) | NAMES | NUMBERS,
            "to_name": NAMES | NUMBERS,
            "original_width": SIZES,
            "original_height": SIZES,
            "item_index": NUMBERS,
            "is_positive": NUMBERS,
            "value": VALUES | NUMBERS,
        },
    )
    | NUMBERS
)


@pytest.mark.parametrize("tag", REGION_CONTROLS)
@given(value=VALUES | NUMBERS, height=SIZES, width=SIZES)
@example(
    value={name: 10**400 for name in ("x", "y", "radiusX", "radiusY")} | {"points": [[10**400, 0]] * 3},
    height=6,
    width=8,
)
def test_any_region_is_drawn_at_its_size_or_refused(tag: str, value: Any, height: Any, width: Any) -> None:
    region = {"id": "r", "type": tag.lower(), "original_width": width, "original_height": height, "value": value}
    try:
        mask = REGION_CONTROLS[tag].to_mask(region)
    except RegionError:
        return
    assert mask.shape == (height, width)
    assert mask.dtype == bool


@pytest.mark.parametrize("config", [BRUSH, SHAPES, PAGES], ids=["brush", "shapes", "pages"])
@given(result=st.lists(REGIONS, max_size=4) | NUMBERS)
def test_any_annotation_is_read_or_refused(config: str, result: Any) -> None:
    parsed = parse_label_config(config)
    try:
        truth = read_annotation({"id": 1, "result": result}, parsed, (6, 8), Counter())
    except RegionError:
        return
    assert all(mask.shape == (6, 8) for mask in truth.masks.values())


@pytest.mark.parametrize("config", [BRUSH, SHAPES], ids=["brush", "shapes"])
@given(
    result=st.lists(REGIONS, max_size=4) | NUMBERS,
    drawn=st.lists(st.fixed_dictionaries({"result": st.lists(REGIONS, max_size=3) | NUMBERS}) | NUMBERS, max_size=2)
    | NUMBERS,
)
def test_any_prompt_is_read_or_refused(config: str, result: Any, drawn: Any) -> None:
    task = {"id": 1, "data": {}, "drafts": drawn, "annotations": drawn, "predictions": drawn}
    try:
        asked = read_prompts(task, {"result": result}, parse_label_config(config), (6, 8))
    except RegionError:
        return
    if asked is not None:
        assert all(np.shape(mask) == (6, 8) for mask in asked.existing.values())
