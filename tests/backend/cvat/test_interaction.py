"""The interaction function under cvat-sdk's own loader, spec and driver, with the starter on synthetic frames."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from cvat_cli._internal.agent_driver_interaction import AgentInteractionFunctionDriver
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk.auto_annotation import InteractionFunctionSpec
from cvat_sdk.masks import decode_mask
from PIL import Image

from backend.cvat.interaction import InteractionFunction
from backend.cvat.interactor import _filled
from models.masks.metrics import iou
from models.phantom import render_phantom

SIZE = 256
FRAME = render_phantom(seed=3, size=SIZE, difficulty=0.2)
Draw = Callable[..., np.ndarray | None]


def load(**parameters: Any) -> InteractionFunction:
    """The function as cvat-cli's `--function-module backend.cvat.interaction -p NAME=TYPE:VALUE` loads it."""
    function: InteractionFunction = FunctionLoader("backend.cvat.interaction", None, parameters).load()
    return function


def prompts(positive: Any = (), negative: Any = (), box: Any = None) -> Any:
    return SimpleNamespace(pos_points=positive, neg_points=negative, bounding_box=box)


@pytest.fixture(scope="module")
def draw() -> Draw:
    """What a prompt on the frame gives."""
    function = load(device="cpu")
    embedding = function.preprocess_image(None, Image.fromarray(FRAME.image))

    def ask(*prompt: Any) -> np.ndarray | None:
        shapes = function.detect(None, embedding, prompts(*prompt))
        if not shapes:
            return None
        (shape,) = shapes
        return decode_mask(shape.points, image_height=SIZE, image_width=SIZE)

    return ask


def middle(mask: np.ndarray) -> tuple[float, float]:
    """x and y of the pixel farthest from the edge of a mask."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), mask.shape)
    return column + 0.5, row + 0.5


def test_cvat_is_told_that_a_click_or_a_box_is_enough() -> None:
    """No weights are loaded for it."""
    spec = load().spec
    assert isinstance(spec, InteractionFunctionSpec)
    fields = AgentInteractionFunctionDriver.get_remote_function_fields(spec)
    assert fields == {"min_pos_points": 0, "min_neg_points": 0, "startswith_box_optional": True}


def test_a_class_that_the_model_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"one of the model's classes, Lumen, .*, got 'Liver'"):
        load(label="Liver")


@pytest.mark.parametrize("label", ["Lumen", "Lipid core"])
def test_a_click_or_a_box_draws_the_object_whose_class_nobody_named(draw: Draw, label: str) -> None:
    truth = FRAME.masks[label]
    left, top, width, height = cv2.boundingRect(truth.astype(np.uint8))
    clicked, boxed = draw([middle(truth)]), draw([], [], ((left, top), (left + width, top + height)))
    assert clicked is not None
    assert boxed is not None
    assert iou(clicked, truth) > 0.5
    assert iou(boxed, truth) > 0.6


def test_a_click_on_what_does_not_belong_takes_it_away(draw: Draw) -> None:
    truth = FRAME.masks["Lumen"]
    x, y = middle(truth)
    away = (x + 0.6 * float(truth[int(y)].sum()) / 2, y)
    first, second = draw([(x, y)]), draw([(x, y)], [away])
    assert first is not None
    assert second is not None
    place = int(away[1]), int(away[0])
    assert first[place]
    assert not second[place]


def test_without_a_click_on_the_object_nothing_is_drawn(draw: Draw) -> None:
    assert draw() is None
    assert draw([], [(30.0, 30.0)]) is None


def test_a_class_can_be_set_for_all_prompts(draw: Draw) -> None:
    """A click in the lumen, taken for a lipid core."""
    function = load(device="cpu", label="Lipid core")
    embedding = function.preprocess_image(None, Image.fromarray(FRAME.image))
    click = [middle(FRAME.masks["Lumen"])]
    (shape,) = function.detect(None, embedding, prompts(click))
    mask = draw(click)
    assert mask is not None
    assert iou(decode_mask(shape.points, image_height=SIZE, image_width=SIZE), mask) < 0.8


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (((1.2, 2.9), (3.1, 4.0)), (slice(2, 4), slice(1, 4))),
        (((3.1, 4.0), (1.2, 2.9)), (slice(2, 4), slice(1, 4))),  # dragged from its last corner
        (((-5, -5), (2, 1)), (slice(0, 1), slice(0, 2))),
        (((7.9, 5.9), (99, 99)), (slice(5, 6), slice(7, 8))),
        (((2, 2), (2, 2)), (slice(2, 3), slice(2, 3))),
        (((50, 50), (60, 60)), (slice(5, 6), slice(7, 8))),  # outside: its nearest pixel
    ],
)
def test_a_box_covers_the_pixels_that_it_touches(box: Any, expected: tuple[slice, slice]) -> None:
    mask = np.zeros((6, 8), dtype=bool)
    mask[expected] = True
    assert np.array_equal(_filled(box, (6, 8)), mask)
