"""The functions that Nuclio runs for CVAT's own server; docker/cvat holds the functions, whose `main.py` call `answer`.

To a detector CVAT posts {"image": base64, "threshold": 0.5} and expects a list of objects. It draws "mask" or, if the
user wants polygons, "points", and the function is not told which: so each connected part of a mask is an object of its
own. To an interactor it posts the image with each click, {"image": base64, "pos_points": [[x, y], ...], "neg_points":
..., "obj_bbox": two corners, [] or null}, and expects {"shapes": [...]}, each mask as run lengths and a box.
"""

import base64
import hashlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.cvat.detector import Detector
from backend.cvat.interactor import Interactor
from backend.cvat.model import Checkpoint
from backend.prediction.embeddings import Embeddings
from models.data.bounded import decode_bounded
from models.data.decoding import RgbImage
from models.data.files import MAX_PIXELS
from models.masks.outlines import outlines
from models.segment import Segment

MAX_IMAGE_CHARACTERS = 90 << 20  # 64 MB in base64
MAX_POINTS = 100  # each costs a kernel over the whole image

Function = Callable[[dict[str, Any]], Any]


class BadCall(ValueError):
    """A call is not one that CVAT makes; the text says what was expected and what came."""


def detector(model: Path, draws: str = "masks") -> Function:
    """A detector, from a call's body to the objects that CVAT draws.

    Args:
        model: checkpoint folder; the starter weights are used if there is none.
        draws: as in `Detector`.
    """
    found = Detector(_loaded(model), draws)

    def detect(call: dict[str, Any]) -> list[dict[str, Any]]:
        threshold = call.get("threshold")
        if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
            raise BadCall(f"'threshold' should be a number, got {type(threshold).__name__}")
        segments, tags = found.find(image_of(call), threshold or 0.0)
        objects = [{"type": "tag", "label": name, "confidence": str(score)} for name, score in tags]
        return objects + [one for segment in segments for one in _objects(segment)]

    return detect


def interactor(model: Path, label: str = "") -> Function:
    """An interactor, from a call's body to the mask that CVAT draws.

    Args:
        model: checkpoint folder; the starter weights are used if there is none.
        label: as in `Interactor`.
    """
    drawing = Interactor(_loaded(model), label)
    embeddings = Embeddings()

    def interact(call: dict[str, Any]) -> dict[str, Any]:
        positive, negative = _points(call, "pos_points"), _points(call, "neg_points")
        box = _points(call, "obj_bbox")
        if len(box) not in (0, 2):
            raise BadCall(f"'obj_bbox' should be two corners, got {len(box)}")
        # CVAT sends the whole image with every click; only the first one on it embeds it.
        key = hashlib.sha256(str(call.get("image")).encode()).hexdigest()
        embedding = embeddings.get((key,), lambda: drawing.embed(image_of(call)))
        mask = drawing.draw(embedding, positive, negative, box or None)
        return {"shapes": [{"type": "mask", "points": _runs(mask), "attributes": []}] if mask.any() else []}

    return interact


def answer(context: Any, event: Any) -> Any:
    """The response of `context.user_data.function` to an event: its JSON, or 400 or 500 with the reason."""
    try:
        body, status = context.user_data.function(_body(event.body)), 200
    except BadCall as error:
        context.logger.warn(f"refused: {error}")
        body, status = {"error": str(error)}, 400
    except Exception as error:
        context.logger.error(f"failed: {traceback.format_exc()}")
        body, status = {"error": f"{type(error).__name__}: {error}"}, 500
    return context.Response(body=json.dumps(body), headers={}, content_type="application/json", status_code=status)


def image_of(call: dict[str, Any]) -> RgbImage:
    """The call's image, shape (H, W, 3), uint8, RGB, turned as its EXIF orientation says.

    Raises:
        BadCall: there is none, or it cannot be read.
    """
    image = call.get("image")
    if isinstance(image, str) and len(image) > MAX_IMAGE_CHARACTERS:
        raise BadCall(f"'image' should have at most {MAX_IMAGE_CHARACTERS} characters, got {len(image)}")
    if not isinstance(image, str):
        raise BadCall(f"'image' should be an image file in base64, got {type(image).__name__}")
    try:
        return decode_bounded(base64.b64decode(image, validate=True), MAX_PIXELS)
    except ValueError as error:
        raise BadCall(f"'image' cannot be read: {error}") from None


def _body(body: Any) -> dict[str, Any]:
    if isinstance(body, bytes | str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):  # the latter for a body of ten thousand brackets
            raise BadCall(f"the body should be JSON, got {len(body)} characters that are not") from None
    if not isinstance(body, dict):
        raise BadCall(f"the body should be a JSON object, got {type(body).__name__}")
    return body


def _loaded(directory: Path) -> Checkpoint:
    checkpoint = Checkpoint(directory if directory.is_dir() else "")
    _ = checkpoint.model  # the first user would wait for it otherwise
    return checkpoint


def _points(call: dict[str, Any], key: str) -> list[tuple[float, float]]:
    """Points of a call; CVAT sends null for a box that was not drawn."""
    points = call.get(key) or []
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise BadCall(f"'{key}' should be a list of [x, y], got {str(points)[:50]}")
    if len(points) > MAX_POINTS:
        raise BadCall(f"'{key}' should hold at most {MAX_POINTS} points, got {len(points)}")
    values = [value for point in points for value in point]
    # The largest float is compared with, as math.isfinite refuses larger whole numbers by an OverflowError.
    if not all(type(value) in (int, float) and abs(value) <= sys.float_info.max for value in values):
        raise BadCall(f"'{key}' should hold numbers, got {str(points)[:50]}")
    return [(float(x), float(y)) for x, y in points]


def _runs(mask: NDArray[np.bool_]) -> list[int]:
    """A mask as CVAT stores it: run lengths row by row within its box, off first, then the box's first and last x, y.

    The same as encode_mask of cvat-sdk, which this function's image does not need for it.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    inside = mask[y : y + height, x : x + width].ravel()
    changes = np.flatnonzero(np.diff(inside, prepend=False, append=not inside[-1]))
    return [*np.diff(changes, prepend=0).tolist(), x, y, x + width - 1, y + height - 1]


def _objects(segment: Segment) -> Iterator[dict[str, Any]]:
    """Each connected part of a segment: its pixels row by row within its box, then the box's first and last x and y."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(segment.mask.astype(np.uint8), connectivity=4)
    for part in range(1, count):
        x, y, width, height = stats[part, :4].tolist()
        inside = parts[y : y + height, x : x + width] == part
        for corners in outlines(inside)[:1]:  # small components have none
            yield {
                "type": "mask",
                "label": segment.label,
                "confidence": str(segment.score),
                "points": (corners + np.array([x, y])).ravel().tolist(),
                "mask": [*inside.astype(int).ravel().tolist(), x, y, x + width - 1, y + height - 1],
            }
