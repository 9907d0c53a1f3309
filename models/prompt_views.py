"""Views: squares of an image, and what was drawn inside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from models.prompt import Click, Mask
from models.prompt_network import PADDING, STRIDE

Edges = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Probabilities = NDArray[np.float32]  # (S, S), in [0, 1]

SIDE = 192  # of a view as the prompt network and the refiner see it, in pixels
CLOSER = 0.7  # a view is part of the image where it is below this share of the whole
MIN_VIEW = 32  # pixels of the image


@dataclass(frozen=True)
class View:
    """A square of the image, in its pixels; may reach beyond the edge."""

    x: float
    y: float
    side: float


@dataclass(frozen=True, eq=False)
class Drawn:
    """Answer to a prompt, kept for the next one.

    Attributes:
        view: what was looked at.
        probabilities: of the object there, as the network sees it.
        line: the clicks that show a line of the image in its place, none where a box does; None where the network's
            answer is shown.
    """

    view: View
    probabilities: Probabilities
    line: tuple[Click, ...] | None = None


def whole(shape: tuple[int, int]) -> View:
    """The view of all of an image of this height and width."""
    height, width = shape
    side = max(height, width)
    return View((width - side) / 2, (height - side) / 2, side)


def around(edges: Edges, shape: tuple[int, int], share: float) -> View:
    """A view around left, top, right and bottom, kept inside the image where it fits; else the whole."""
    height, width = shape
    left, top, right, bottom = edges
    side = max(share * max(right - left, bottom - top), MIN_VIEW)
    if side >= CLOSER * max(shape):
        return whole(shape)
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    x = min(max(x, 0), width - side) if side <= width else (width - side) / 2
    y = min(max(y, 0), height - side) if side <= height else (height - side) / 2
    return View(round(x), round(y), round(side))


def fits(view: View, wanted: View) -> bool:
    """Whether a view shows what another would show, about as large."""
    inside = view.x <= wanted.x + 0.12 * wanted.side and view.y <= wanted.y + 0.12 * wanted.side
    inside &= view.x + view.side >= wanted.x + 0.88 * wanted.side
    inside &= view.y + view.side >= wanted.y + 0.88 * wanted.side
    return inside and view.side <= 1.6 * wanted.side


def cut(plane: NDArray[Any], view: View, size: int = SIDE // STRIDE) -> NDArray[Any]:
    """The part of an image or mask inside a view, scaled to size x size; grey, or 0 for a mask, beyond the edge."""
    zoom = size / view.side
    padding = (PADDING,) * 3 if plane.ndim == 3 else 0
    if zoom < 0.6:  # else small things alias
        height, width = plane.shape[:2]
        small = max(round(width * zoom), 1), max(round(height * zoom), 1)
        plane = cv2.resize(plane, small, interpolation=cv2.INTER_AREA)
        ratio = small[0] / width, small[1] / height
    else:
        ratio = 1.0, 1.0
    fx, fy = zoom / ratio[0], zoom / ratio[1]
    # Pixel centres: (x + 0.5 - view.x) * zoom - 0.5.
    affine = np.array(
        [[fx, 0, 0.5 * fx - view.x * zoom - 0.5], [0, fy, 0.5 * fy - view.y * zoom - 0.5]], dtype=np.float64
    )
    return np.asarray(cv2.warpAffine(plane, affine, (size, size), flags=cv2.INTER_LINEAR, borderValue=padding))


def paste(probabilities: Probabilities, view: View, shape: tuple[int, int]) -> Mask:
    """The mask of an image, shape (H, W), of the probabilities inside a view."""
    mask = np.zeros(shape, dtype=bool)
    left, top = max(int(np.floor(view.x)), 0), max(int(np.floor(view.y)), 0)
    right, bottom = (
        min(int(np.ceil(start + view.side)), end) for start, end in ((view.x, shape[1]), (view.y, shape[0]))
    )
    zoom = probabilities.shape[0] / view.side
    affine = np.array(
        [[zoom, 0, (left + 0.5 - view.x) * zoom - 0.5], [0, zoom, (top + 0.5 - view.y) * zoom - 0.5]], dtype=np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part = cv2.warpAffine(
        probabilities, affine, (right - left, bottom - top), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    mask[top:bottom, left:right] = part >= 0.5
    return mask


def moved(drawn: Drawn, view: View, size: int) -> Probabilities:
    """Probabilities inside one view as another view shows them, shape (size, size)."""
    if drawn.view == view:
        return drawn.probabilities
    old = drawn.probabilities.shape[0] / drawn.view.side
    step = view.side / size  # image pixels per pixel
    affine = np.array(
        [
            [step * old, 0, ((view.x - drawn.view.x) + 0.5 * step) * old - 0.5],
            [0, step * old, ((view.y - drawn.view.y) + 0.5 * step) * old - 0.5],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(drawn.probabilities, affine, (size, size), flags=flags))


def edges_of(mask: Mask | None, clicks: Sequence[Click] = ()) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a mask and the clicks."""
    places = [(click.x, click.y) for click in clicks]
    if mask is not None and mask.any():
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        places += [(x, y), (x + w, y + h)]
    if not places:
        return 0.0, 0.0, 0.0, 0.0
    xs, ys = zip(*places, strict=True)
    return float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys))
