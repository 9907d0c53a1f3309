"""The Nuclio functions, started and called as Nuclio's wrapper does, with its own events, context and responses."""

import base64
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import nuclio_sdk
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.cvat.detector import Detector
from backend.cvat.nuclio import _objects, detector
from backend.label_studio.controls.polygon import fill
from models.outlines import outlines
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
        assert np.array_equal(mask_of(one, mask.shape), fill(np.reshape(one["points"], (-1, 2)), mask.shape))
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
    finds(lambda image: Prediction({"Lumen": 0.7}, [Segment("Lumen", 0.6, np.ones(image.shape[:2], dtype=bool))]))
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


def test_the_function_files_fit_their_handlers_and_the_starter() -> None:
    config = yaml.safe_load((ROOT / "docker" / "cvat" / "detector" / "function.yaml").read_text(encoding="utf-8"))
    assert json.loads(config["metadata"]["annotations"]["spec"]) == Detector().labels
    assert config["metadata"]["annotations"]["type"] == "detector"
    assert config["spec"]["handler"] == "main:handler"
