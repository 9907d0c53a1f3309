"""The Nuclio functions, started and called as Nuclio's wrapper does, with its own events, context and responses."""

import base64
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import nuclio_sdk
import numpy as np
import pytest
import yaml
from cvat_sdk.masks import decode_mask, encode_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backend.cvat import nuclio
from backend.cvat.detector import Detector
from backend.cvat.interaction import InteractionFunction, create
from backend.cvat.model import Checkpoint
from backend.cvat.nuclio import BadCall, _body, _objects, _points, _runs, detector, image_of
from models.masks.outlines import outlines
from models.masks.rasterising import fill_polygon
from models.phantom import render_phantom
from models.pipeline import Pipeline
from models.segment import Prediction, Segment
from tests.backend.cvat.conftest import ROOT, bright, picture

Finds = Callable[..., None]
Call = Callable[[Any], tuple[int, Any]]


def start(function: str) -> Call:
    """The function in docker/cvat: posts a body to it and returns the status and what came back."""
    path = ROOT / "docker" / "cvat" / function / "main.py"
    spec = importlib.util.spec_from_file_location(f"nuclio_{function}", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    handler = module.handler
    logger = nuclio_sdk.Logger("DEBUG")
    logger.set_handler("default", io.StringIO(), nuclio_sdk.logger.HumanReadableFormatter())
    context = nuclio_sdk.Context(logger)
    sys.modules[handler.__module__].init_context(context)

    def call(body: Any) -> tuple[int, Any]:
        event = nuclio_sdk.Event(body=body, content_type="application/json")
        answer = nuclio_sdk.Response.from_entrypoint_output(json.dumps, handler(context, event))
        assert answer["content_type"] == "application/json"
        return answer["status_code"], json.loads(answer["body"])

    return call


def body(file: bytes, **more: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(file).decode(), **more}


def mask_of(drawn: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """What CVAT draws: pixels in a box, whose first and last x and y follow them."""
    *pixels, x1, y1, x2, y2 = drawn["mask"]
    mask = np.zeros(size, dtype=bool)
    mask[y1 : y2 + 1, x1 : x2 + 1] = np.reshape(pixels, (y2 - y1 + 1, x2 - x1 + 1))
    return mask


def test_each_part_is_an_object_whose_mask_and_polygon_are_the_same(finds: Finds) -> None:
    finds(bright)
    mask = np.zeros((37, 51), dtype=bool)
    mask[3:20, 4:30] = mask[25:37, 40:51] = True
    status, objects = start("detector")(body(picture(np.rot90(mask), orientation=6), threshold=0.5))
    assert (status, len(objects)) == (200, 2)
    for one in objects:
        assert (one["type"], one["label"], one["confidence"]) == ("mask", "Lumen", "0.9")
        assert np.array_equal(mask_of(one, mask.shape), fill_polygon(np.reshape(one["points"], (-1, 2)), mask.shape))
    assert np.array_equal(mask_of(objects[0], mask.shape) | mask_of(objects[1], mask.shape), mask)


@settings(max_examples=60, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 19), st.integers(1, 23)), elements=st.booleans()))
def test_every_part_with_an_outline_becomes_exactly_one_object(mask: np.ndarray) -> None:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    parts = [part for part in (labels == number for number in range(1, count)) if outlines(part)]
    objects = list(_objects(Segment("Lumen", 1.0, mask)))
    assert len(objects) == len(parts)
    for one, part in zip(objects, parts, strict=True):
        assert np.array_equal(mask_of(one, mask.shape), part)
        assert np.allclose(np.reshape(one["points"], (-1, 2)), outlines(part)[0])


def test_the_threshold_and_the_models_choice_of_tags_are_honoured(finds: Finds, tmp_path: Path) -> None:
    def scene(image: np.ndarray) -> Prediction:
        segment = Segment("Lumen", 0.6, np.ones(image.shape[:2], dtype=bool))
        return Prediction({"Lumen": 0.7, "Lipid core": 0.68}, [segment], frozenset({"Lumen"}))

    finds(scene)
    call = body(picture(np.ones((6, 9))))
    both = detector(tmp_path / "none", draws="both")
    assert [one["type"] for one in both(call)] == ["tag", "mask"]
    assert [one["type"] for one in both(call | {"threshold": 0.65})] == ["tag"]
    assert both(call | {"threshold": 0.75}) == []


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"{", "should be JSON"),
        ([], "should be a JSON object, got list"),
        ({}, "'image' should be an image file in base64, got NoneType"),
        ({"image": "%%%"}, "'image' cannot be read: Only base64 data is allowed"),
        (body(b"<html>login"), "'image' cannot be read: it is a web page"),
        (body(picture(np.ones((2, 2))), threshold="high"), "'threshold' should be a number, got str"),
    ],
)
def test_a_call_that_cannot_be_answered_is_told_why(finds: Finds, sent: Any, words: str) -> None:
    finds(bright)
    status, answer = start("detector")(sent)
    assert status == 400
    assert words in answer["error"]


def test_an_image_on_which_the_model_fails_fails_alone(finds: Finds) -> None:
    def scene(image: np.ndarray) -> Prediction:
        if image.shape[0] == 13:
            raise RuntimeError("out of memory")
        return bright(image)

    finds(scene)
    call = start("detector")
    assert call(body(picture(np.ones((13, 13))))) == (500, {"error": "RuntimeError: out of memory"})
    assert call(body(picture(np.ones((14, 14)))))[0] == 200


def annotations(function: str) -> dict[str, Any]:
    """What CVAT reads of a function, and that the rest is one and the same for all of them."""
    configs = [
        yaml.safe_load((ROOT / "docker" / "cvat" / name / "function.yaml").read_text(encoding="utf-8"))
        for name in (function, "detector")
    ]
    for config in configs:
        assert config["spec"]["build"].pop("image").startswith("cvat.premask.")
        assert config["spec"].pop("description")
    assert configs[0]["spec"] == configs[1]["spec"]
    assert configs[0]["spec"]["handler"] == "main:handler"
    assert configs[0]["metadata"]["name"] == f"premask-{function}"
    found: dict[str, Any] = configs[0]["metadata"]["annotations"]
    assert found["type"] == function
    return found


def test_the_detectors_file_has_the_starters_labels() -> None:
    assert json.loads(annotations("detector")["spec"]) == Detector(Checkpoint()).labels


def test_the_interactors_file_asks_for_a_click_or_a_box() -> None:
    """Read as CVAT 2.80's LambdaFunction does: its bool() takes any text for true, so a key may only be left out."""
    found = annotations("interactor")
    assert json.loads(found.get("spec") or "[]") == []
    assert int(found["version"]) >= 2  # the editor refuses older ones
    assert (int(found["min_pos_points"]), int(found["min_neg_points"])) == (0, 0)
    assert "startswith_box" not in found
    assert bool(found["startswith_box_optional"])
    spec = InteractionFunction.spec
    assert (spec.min_pos_points, spec.min_neg_points, spec.min_bounding_boxes) == (0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 19), st.integers(1, 23)), elements=st.booleans()))
def test_masks_are_encoded_as_cvat_sdk_does(mask: np.ndarray) -> None:
    if mask.any():
        assert _runs(mask) == encode_mask(mask)


def test_a_prompt_is_answered_as_by_an_agent_and_embeds_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = []
    embed = Pipeline.embed

    def counted(self: Pipeline, image: Any) -> Any:
        embeddings.append(image)
        return embed(self, image)

    monkeypatch.setattr(Pipeline, "embed", counted)
    frame = render_phantom(seed=3, size=256, difficulty=0.2)
    out = io.BytesIO()
    Image.fromarray(frame.image).save(out, format="PNG")
    y, x = (float(np.mean(places)) for places in np.nonzero(frame.masks["Lumen"]))
    call, agent = start("interactor"), create(device="cpu")
    seen = agent.preprocess_image(None, Image.fromarray(frame.image))
    for negative, box in (([], None), ([[5.0, 5.0]], []), ([], [[x + 60, y + 60], [x - 60, y - 60]])):
        status, drawn = call(body(out.getvalue(), pos_points=[[x, y]], neg_points=negative, obj_bbox=box))
        prompts = SimpleNamespace(pos_points=[(x, y)], neg_points=negative, bounding_box=box)
        (theirs,) = agent.detect(None, seen, prompts)
        assert (status, drawn) == (200, {"shapes": [{"type": "mask", "points": theirs.points, "attributes": []}]})
    mask = decode_mask(drawn["shapes"][0]["points"], image_height=256, image_width=256)
    assert mask[round(y), round(x)]
    assert len(embeddings) == 2  # one by the agent
    for refused, words in (
        ({"pos_points": [[1]]}, "'pos_points' should be a list of [x, y]"),
        ({"neg_points": [["a", 1]]}, "'neg_points' should hold numbers"),
        ({"obj_bbox": [[1, 2]]}, "'obj_bbox' should be two corners, got 1"),
        ({"image": "%%%"}, "'image' cannot be read"),
    ):
        status, told = call(body(out.getvalue(), pos_points=[[x, y]], neg_points=[]) | refused)
        assert status == 400
        assert words in told["error"]
    assert call(body(out.getvalue(), pos_points=[], neg_points=[[x, y]], obj_bbox=[])) == (200, {"shapes": []})


def test_a_call_is_bounded_before_anything_is_made_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadCall, match="the body should be JSON"):
        _body("[" * 100_000)
    with pytest.raises(BadCall, match="'pos_points' should hold at most 100 points, got 101"):
        _points({"pos_points": [[1, 2]] * 101}, "pos_points")
    monkeypatch.setattr(nuclio, "MAX_IMAGE_CHARACTERS", 8)
    with pytest.raises(BadCall, match="'image' should have at most 8 characters, got 12"):
        image_of({"image": "A" * 12})


@pytest.mark.parametrize("value", [10**400, float("nan"), float("-inf"), True, "1"])
def test_a_point_is_two_numbers(value: Any) -> None:
    with pytest.raises(BadCall, match="'pos_points' should hold numbers"):
        _points({"pos_points": [[1, value]]}, "pos_points")


def test_an_image_is_decoded_in_a_bounded_process(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    monkeypatch.setattr(nuclio, "decode_bounded", lambda data, most: decoded.append(len(data)))
    image_of({"image": base64.b64encode(b"abc").decode()})
    assert decoded == [3]
