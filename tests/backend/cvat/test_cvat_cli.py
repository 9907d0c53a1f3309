"""The real cvat-cli, in a process of its own, with the starter weights and synthetic frames, against a small CVAT."""

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from cvat_sdk.masks import decode_mask
from PIL import Image

from backend.cvat.detector import Detector
from backend.cvat.model import Checkpoint
from models.masks.metrics import iou
from models.phantom import render_phantom
from tests.backend.cvat.fake_cvat import FakeCVAT

# Each command and each agent's worker starts an interpreter and loads the networks; busy machines take minutes.
pytestmark = pytest.mark.timeout(900)

SIZE = 256
CLASSES = ("Lumen", "Fibrous cap", "Lipid core", "Vasa vasorum")
PHANTOM = render_phantom(seed=3, size=SIZE, difficulty=0.2)
DETECTION = ("--function-module", "backend.cvat.detection")
INTERACTION = ("--function-module", "backend.cvat.interaction")


def png(image: np.ndarray) -> bytes:
    out = BytesIO()
    Image.fromarray(image).save(out, format="PNG")
    return out.getvalue()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeCVAT]:
    """A task of two frames, the second cut so that it is no square."""
    frames = {"a.png": png(PHANTOM.image), "b.png": png(PHANTOM.image[: SIZE - 37])}
    labels = [{"name": name, "type": "mask"} for name in CLASSES]
    with FakeCVAT(tmp_path / "cache", labels, frames) as server:
        yield server


def lumen(server: FakeCVAT, shapes: list[dict], frame: int, height: int = SIZE) -> np.ndarray:
    (shape,) = (s for s in shapes if s["frame"] == frame and s["label_id"] == server.label_id("Lumen"))
    return decode_mask(shape["points"], image_height=height, image_width=SIZE)


def test_auto_annotate_draws_the_lumen_of_every_frame(server: FakeCVAT, cvat_cli: Callable[..., str]) -> None:
    cvat_cli(server, "task", "auto-annotate", "7", *DETECTION, "--conf-threshold", "0.3", "-p", "device=str:cpu")
    ((method, uploaded),) = server.annotations
    assert method == "PATCH"
    assert all(shape["score"] >= 0.3 for shape in uploaded["shapes"])
    truth = PHANTOM.masks["Lumen"]
    assert iou(lumen(server, uploaded["shapes"], 0), truth) > 0.8
    assert iou(lumen(server, uploaded["shapes"], 1, SIZE - 37), truth[: SIZE - 37]) > 0.8


def test_an_agent_serves_the_detection_function_that_was_created(
    server: FakeCVAT, cvat_cli: Callable[..., str]
) -> None:
    """Registered with its labels, then asked for a frame and for the whole task from CVAT's pages."""
    number = cvat_cli(server, "function", "create-native", "premask", *DETECTION)
    function = server.functions[int(number)]
    assert (function["kind"], function["provider"]) == ("detector", "native")
    assert [label | {"attributes": []} for label in Detector(Checkpoint()).labels] == function["labels_v2"]
    mapping = {name: {"name": name} for name in CLASSES}
    asked = {"task": 7, "mapping": mapping, "threshold": None, "conv_mask_to_poly": False}
    server.requests += [asked | {"type": "annotate_frame", "frame": 0}, asked | {"type": "annotate_task"}]
    cvat_cli(server, "function", "run-agent", number, *DETECTION, "--burst", "-p", "device=str:cpu")
    assert [what for _, what, _ in server.results] == ["complete"] * 2, json.dumps(server.results)[:1000]
    for _, _, body in server.results:
        assert iou(lumen(server, body["annotations"]["shapes"], 0), PHANTOM.masks["Lumen"]) > 0.8


def test_an_agent_draws_what_an_annotator_points_at(server: FakeCVAT, cvat_cli: Callable[..., str]) -> None:
    """A click, then another on the same frame, then a box on the next; and a call that CVAT's editor never makes."""
    number = cvat_cli(server, "function", "create-native", "premask clicks", *INTERACTION)
    function = server.functions[int(number)]
    assert (function["kind"], function["min_pos_points"], function["min_neg_points"]) == ("interactor", 0, 0)
    assert (function["startswith_box"], function["startswith_box_optional"]) == (False, True)
    truth = PHANTOM.masks["Lumen"]
    y, x = (float(np.mean(places)) for places in np.nonzero(truth))
    asked = {"type": "interact", "task": 7, "frame": 0, "pos_points": [[x, y]], "neg_points": [], "obj_bbox": []}
    left, top, width, height = cv2.boundingRect(truth[: SIZE - 37].astype(np.uint8))
    box = [[left, top], [left + width, top + height]]
    server.requests += [
        asked,
        asked | {"pos_points": [[x, y], [x + 5, y]], "neg_points": [[2.0, 2.0]]},
        asked | {"frame": 1, "pos_points": [], "obj_bbox": box},
        asked | {"frame": 9},
    ]
    cvat_cli(server, "function", "run-agent", number, *INTERACTION, "--burst", "-p", "device=str:cpu")
    *drawn, (_, what, body) = server.results
    assert (what, body["exc_info"]) == (
        "fail",
        "Invalid annotation request: Frame with index 9 does not exist in the task",
    )
    for (_, what, body), rows in zip(drawn, (SIZE, SIZE, SIZE - 37), strict=True):
        assert what == "complete", body
        (shape,) = body["shapes"]
        assert (shape["type"], shape["attributes"]) == ("mask", [])
        assert iou(decode_mask(shape["points"], image_height=rows, image_width=SIZE), truth[:rows]) > 0.8
