"""The detection function under cvat-sdk's own loader, spec validation, annotation mapper, driver and mask codec."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk.auto_annotation import BadFunctionError, annotate_task
from cvat_sdk.auto_annotation.driver import _DetectionFunctionContextImpl as Context
from cvat_sdk.masks import decode_mask
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from backend.cvat.detection import DetectionFunction, create
from backend.cvat.labels import main as labels_command
from models import families
from models.errors import CheckpointError
from models.masks.rasterising import fill_polygon
from models.segment import Prediction, Segment
from tests.backend.cvat.conftest import CLASSES, FakeModel, bright, picture
from tests.backend.cvat.fake_cvat import FakeCVAT

Finds = Callable[..., None]


def load(**parameters: Any) -> DetectionFunction:
    """The function as cvat-cli's `--function-module backend.cvat.detection -p NAME=TYPE:VALUE` loads it."""
    function: DetectionFunction = FunctionLoader("backend.cvat.detection", None, parameters).load()
    return function


def labelled(kind: str) -> list[dict[str, Any]]:
    return [{"name": name, "type": kind} for name in CLASSES]


def annotate(server: FakeCVAT, function: DetectionFunction, **options: Any) -> dict[str, Any]:
    """What cvat-sdk uploads for the task."""
    with server.client() as client:
        annotate_task(client, 7, function, **options)
    return server.annotations[-1][1]


def mask_of(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    assert shape["type"] == "mask"
    return decode_mask(shape["points"], image_height=size[0], image_width=size[1])


# The spec


def test_the_labels_are_the_models_classes_and_no_weights_are_loaded_for_them(model: Path) -> None:
    """The checkpoint's weights are no weights at all: loading them would fail."""
    labels = load(model=str(model)).spec.labels
    assert [(label.id, label.name, label.type) for label in labels] == [(i, c, "mask") for i, c in enumerate(CLASSES)]
    assert {label.type for label in load(model=str(model), draws="tags").spec.labels} == {"tag"}
    assert [label.name for label in load().spec.labels] == ["Lumen", "Fibrous cap", "Lipid core", "Vasa vasorum"]


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [({"model": "nowhere"}, CheckpointError, "nowhere is no checkpoint"), ({"draws": "boxes"}, ValueError, "'boxes'")],
)
def test_parameters_that_cannot_be_used_are_named(
    parameters: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load(**parameters)


def test_the_label_command_prints_what_a_project_needs(model: Path) -> None:
    printed = CliRunner().invoke(labels_command, ["--model", str(model), "--draws", "both"])
    assert json.loads(printed.output) == labelled("any")


def test_the_label_command_says_that_a_folder_is_no_model(tmp_path: Path) -> None:
    printed = CliRunner().invoke(labels_command, ["--model", str(tmp_path)])
    assert printed.exit_code == 1
    assert printed.output == f"Error: {tmp_path} is no checkpoint: it has no card.json\n"


# Masks


def test_masks_arrive_where_they_are_in_images_of_any_size_and_orientation(
    model: Path, finds: Finds, tmp_path: Path
) -> None:
    """Odd, non-square images; one turned by EXIF, which CVAT hands out upright; and one without anything on it."""
    finds(bright)
    masks = [np.zeros(size, dtype=bool) for size in ((33, 47), (5, 91), (40, 21), (8, 8))]
    masks[0][10:20, 5:40] = masks[1][0, :] = masks[2][30:, 15:] = True
    files = [picture(mask) for mask in masks[:2]] + [picture(np.rot90(masks[2]), orientation=6), picture(masks[3])]
    frames = {f"{number}.png": file for number, file in enumerate(files)}
    with FakeCVAT(tmp_path / "cache", labelled("mask"), frames) as server:
        uploaded = annotate(server, load(model=str(model)))
    assert [shape["frame"] for shape in uploaded["shapes"]] == [0, 1, 2]
    for shape, mask in zip(uploaded["shapes"], masks, strict=False):
        assert np.array_equal(mask_of(shape, mask.shape), mask)
        assert (shape["label_id"], shape["source"], shape["score"]) == (server.label_id("Lumen"), "auto", 0.9)


@settings(max_examples=60, deadline=None)
@given(mask=arrays(bool, st.tuples(st.integers(1, 19), st.integers(1, 23)), elements=st.booleans()))
def test_every_mask_survives_cvats_encoding_and_an_empty_one_is_left_out(mask: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        model = FakeModel(lambda image: Prediction({"Lumen": 1.0}, [Segment("Lumen", 1.0, mask)]))
        patch.setitem(families.FAMILIES, "cam", lambda directory, device: model)
        found = create().detect(Context(frame_name="a"), Image.new("RGB", mask.shape[::-1]))
    assert len(found) == mask.any()
    for shape in found:
        decoded = decode_mask(shape.points, image_height=mask.shape[0], image_width=mask.shape[1])
        assert np.array_equal(decoded, mask)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_are_understood(model: Path, finds: Finds, mode: str) -> None:
    finds(bright)
    shade = Image.fromarray(np.repeat([[0, 255]], 4, axis=1).repeat(3, axis=0).astype(np.uint8))
    deep = Image.fromarray(np.asarray(shade).astype(np.uint16) * 257)
    (shape,) = load(model=str(model)).detect(Context(frame_name="a"), deep if mode == "I;16" else shade.convert(mode))
    assert decode_mask(shape.points, image_height=3, image_width=8)[:, 4:].all()


# Polygons


def test_masks_become_polygons_when_cvat_asks_for_them(model: Path, finds: Finds, tmp_path: Path) -> None:
    """One for each part, in pixels from the image's corner; the task's labels may then be of type polygon."""
    finds(bright)
    mask = np.zeros((31, 57), dtype=bool)
    mask[4:20, 3:30] = mask[22:30, 40:57] = True
    with FakeCVAT(tmp_path / "cache", labelled("polygon"), {"a.png": picture(mask)}) as server:
        with pytest.raises(BadFunctionError, match="'mask' in the function, but 'polygon' in the dataset"):
            annotate(server, load(model=str(model)))
        uploaded = annotate(server, load(model=str(model)), conv_mask_to_poly=True)
    assert [(shape["type"], shape["score"]) for shape in uploaded["shapes"]] == [("polygon", 0.9)] * 2
    drawn = [fill_polygon(np.reshape(shape["points"], (-1, 2)), mask.shape) for shape in uploaded["shapes"]]
    assert np.array_equal(drawn[0] | drawn[1], mask)


# Tags


def presence(image: np.ndarray) -> Prediction:
    mask = np.ones(image.shape[:2], dtype=bool)
    probabilities = {"Lumen": 0.9, "Fibrous cap": 0.4, "Lipid core": 0.2}
    segments = [Segment("Lumen", 0.6, mask), Segment("Fibrous cap", 0.35, mask)]
    return Prediction(probabilities, segments, frozenset({"Lumen", "Fibrous cap"}))


def test_tags_say_which_classes_are_on_an_image(model: Path, finds: Finds, tmp_path: Path) -> None:
    """Those that are drawn: the model decides once what is present."""
    finds(presence)
    with FakeCVAT(tmp_path / "cache", labelled("tag"), {"a.png": picture(np.ones((4, 6)))}) as server:
        uploaded = annotate(server, load(model=str(model), draws="tags"))
    assert [tag["label_id"] for tag in uploaded["tags"]] == [server.label_id(c) for c in ("Lumen", "Fibrous cap")]
    assert uploaded["shapes"] == []


def test_masks_and_tags_together_need_labels_of_any_type(model: Path, finds: Finds, tmp_path: Path) -> None:
    finds(presence)
    with FakeCVAT(tmp_path / "cache", labelled("any"), {"a.png": picture(np.ones((4, 6)))}) as server:
        uploaded = annotate(server, load(model=str(model), draws="both"))
    assert (len(uploaded["tags"]), len(uploaded["shapes"])) == (2, 2)


@pytest.mark.parametrize(
    ("least", "masks", "tags"), [(None, 2, 2), (0.0, 2, 2), (0.35, 2, 2), (0.5, 1, 1), (1.0, 0, 0)]
)
def test_nothing_below_the_confidence_asked_for_is_returned(
    model: Path, finds: Finds, least: float | None, masks: int, tags: int
) -> None:
    finds(presence)
    function = load(model=str(model), draws="both")
    found = function.detect(Context(frame_name="a", conf_threshold=least), Image.new("RGB", (6, 4)))
    kinds = [type(one).__name__ for one in found]
    assert (kinds.count("LabeledShapeRequest"), kinds.count("LabeledImageRequest")) == (masks, tags)


# Labels of the task


def test_a_label_that_the_task_lacks_is_an_error_until_it_is_allowed(model: Path, finds: Finds, tmp_path: Path) -> None:
    finds(presence)
    with FakeCVAT(tmp_path / "cache", labelled("mask")[1:], {"a.png": picture(np.ones((4, 6)))}) as server:
        with pytest.raises(BadFunctionError, match="'Lumen' is not in dataset"):
            annotate(server, load(model=str(model)))
        uploaded = annotate(server, load(model=str(model)), allow_unmatched_labels=True)
    assert [shape["label_id"] for shape in uploaded["shapes"]] == [server.label_id("Fibrous cap")]


def test_deleted_frames_are_left_alone_and_existing_annotations_replaced_on_request(
    model: Path, finds: Finds, tmp_path: Path
) -> None:
    finds(presence)
    frames = {f"{number}.png": picture(np.ones((4, 6))) for number in range(3)}
    with FakeCVAT(tmp_path / "cache", labelled("mask"), frames, deleted=[1]) as server:
        annotate(server, load(model=str(model)))
        annotate(server, load(model=str(model)), clear_existing=True)
    assert [method for method, _ in server.annotations] == ["PATCH", "PUT"]
    assert [shape["frame"] for shape in server.annotations[0][1]["shapes"]] == [0, 0, 2, 2]
