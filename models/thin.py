"""Thin objects: cracks, scratches, vessels, which are thinner than a cell of a network's output.

A network that is pointed at one draws a blob around the place, or a piece of it. The line through that place is found
in the image instead: what differs from its surroundings by as much, in the same direction of colour, and is connected.
Surroundings are the mean over a wide window (the difference of two Gaussians, Marr and Hildreth 1980), the scale is the
one at which the clicked place stands out most (Lindeberg 1998), and the two thresholds are those of hysteresis
(Canny 1986).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.masks.components import connected_components
from models.prompt import Click, Mask

SCALES = (1.0, 1.6, 2.5, 4.0, 6.4)  # half widths of lines, in pixels
WIDEST = 3 * SCALES[-1]  # width of a line at most, at its bends: what is wider was seen at no scale
NEAR = 0.7  # of it, the scale at which the line itself is seen
SURROUNDINGS = 4.0  # their scale, relative to that of the line
OUTSTANDING = 3.5  # robust standard deviations by which a line differs from its surroundings at least
WEAK = 0.45  # of the difference at the clicked place, that the line must have all along
MAX_SIDE = 1024  # of the part of the image that is looked at, in pixels; a larger one is made smaller
PATCH = 64  # pixels around a click in which the scale is looked for
COVERED = 0.65  # of what a network has drawn, that a line must cover to be the object that was meant
THICK = 3.0  # times the half width of the widest line
FAT, SLIM, COMPACT = 0.3, 0.15, 0.6  # shares of a box: of the widest line, of one in a blob, of a compact thing
OPEN = 0.9  # of what a line encloses, it is itself; else it is a ring
SPAN = 0.85  # of a box's width and height, that the line in it must span
SEEDS = 4  # places in a box at which a line is looked for
MARGIN = 32  # pixels around a box that belong to its surroundings
LONG = 4.0  # times longer than wide, at least: else it is a spot, which the network sees better


def line_through(image: NDArray[np.uint8], clicks: Sequence[Click], within: Mask | None = None) -> Mask | None:
    """The thin object that was clicked on; None where no line stands out there.

    Args:
        image: shape (H, W, 3), uint8 RGB.
        clicks: at least one on the object; those off it cut it.
        within: where it may be, shape (H, W), bool; None for anywhere.

    Returns:
        Shape (H, W), bool.
    """
    height, width = image.shape[:2]
    scale = min(MAX_SIDE / max(height, width), 1.0)
    small = image
    if scale < 1:
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        shrunk = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        small = np.asarray(shrunk, dtype=np.uint8)
    places = [_cell(click, scale, small.shape) for click in clicks if click.positive]
    strength, half, direction = max((_standing_out(small, places, half) for half in SCALES), key=lambda one: one[0])
    if strength < OUTSTANDING:
        return None
    # From here on one channel: a pixel's colour along the direction in which the clicked place differs.
    towards = direction[None] / float(direction @ direction)
    along = np.asarray(cv2.transform(small.astype(np.float32), towards), dtype=np.float32)  # (h, w)
    share = cv2.GaussianBlur(along, (0, 0), NEAR * half) - _wide_mean(along, SURROUNDINGS * half)  # (h, w), 1 as there
    line = share >= WEAK
    if within is not None:
        line &= cv2.resize(within.astype(np.uint8), line.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    for click in clicks:
        if not click.positive:
            row, column = _cell(click, scale, small.shape)
            cv2.circle(line.view(np.uint8), (column, row), 3, 0, cv2.FILLED)
    labels, _ = connected_components(line)
    wanted = {int(label) for row, column in places for label in np.unique(_around(labels, row, column))} - {0}
    if not wanted:
        return None
    mask = np.isin(labels, list(wanted))
    if not _is_line(mask):
        return None
    if scale == 1:
        return mask
    soft = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft >= 0.5)


def is_thick(drawn: Mask) -> bool:
    """Whether what a network has drawn is too thick for any line to cover most of it: a look that costs little."""
    x, y, width, height = cv2.boundingRect(drawn.view(np.uint8))
    if not width:
        return False
    step = max(max(width, height) // 128, 1)
    part = np.pad(drawn[y : y + height : step, x : x + width : step], 1).astype(np.uint8)
    radius = float(cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_3).max()) * step
    return bool(radius > THICK * SCALES[-1] * max(max(drawn.shape) / MAX_SIDE, 1.0))


def covers(line: Mask, drawn: Mask) -> bool:
    """Whether a line is what a network has seen of an object: it covers most of what was drawn."""
    near = cv2.dilate(line.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return bool((near & drawn).sum() >= COVERED * max(int(drawn.sum()), 1))


def clicks_on(line: Mask, clicks: Sequence[Click], *, beside: bool = True) -> float:
    """The share of the clicks on the object that lie on a line, or beside it, as `line_through` looks for them."""
    height, width = line.shape
    reach = round(2 / min(MAX_SIDE / max(height, width), 1.0)) if beside else 0
    hits = [
        bool(_around(line, min(max(int(c.y), 0), height - 1), min(max(int(c.x), 0), width - 1), reach).any())
        for c in clicks
        if c.positive
    ]
    return float(np.mean(hits)) if hits else 0.0


def fits_box(line: Mask, drawn: Mask, box: Mask) -> bool:
    """Whether a line in a box is the object, and not a part of the compact thing, or the rim of it, that was drawn.

    Either it covers most of what was drawn, or what was drawn is no compact thing: those fill most of a tight box.
    """
    area = float(box.sum())
    near = cv2.dilate(line.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if (near & drawn).sum() >= 0.5 * max(float(drawn.sum()), 1.0):
        return bool(line.sum() <= FAT * area)
    outlines, _ = cv2.findContours(line.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros(line.shape, np.uint8), outlines, -1, 1, cv2.FILLED)
    ring = line.sum() < OPEN * float(filled.sum())
    return bool(not ring and line.sum() <= SLIM * area and drawn.sum() <= COMPACT * area)


def line_across(image: NDArray[np.uint8], box: Mask) -> Mask | None:
    """The line that a tight box is around: it spans the box; None where there is none.

    Args:
        image: shape (H, W, 3), uint8 RGB.
        box: shape (H, W), bool.

    Returns:
        Shape (H, W), bool.
    """
    x, y, width, height = cv2.boundingRect(box.astype(np.uint8))
    top, left = max(y - MARGIN, 0), max(x - MARGIN, 0)
    part = np.s_[top : y + height + MARGIN, left : x + width + MARGIN]
    seen, within = np.ascontiguousarray(image[part]), box[part]
    colours = seen.astype(np.float32)
    half = SCALES[len(SCALES) // 2]
    found = cv2.GaussianBlur(colours, (0, 0), NEAR * half) - cv2.GaussianBlur(colours, (0, 0), SURROUNDINGS * half)
    salient = np.where(within, (found**2).sum(axis=2), -1.0)
    for _ in range(SEEDS):
        row, column = np.unravel_index(int(salient.argmax()), salient.shape)
        if salient[row, column] <= 0:
            break
        line = line_through(seen, [Click(float(column) + 0.5, float(row) + 0.5)], within)
        if line is not None:
            _, _, across, down = cv2.boundingRect(line.astype(np.uint8))
            if across >= SPAN * width and down >= SPAN * height:
                mask = np.zeros_like(box)
                mask[part] = line
                return mask
        reach = max(round(0.1 * max(width, height)), 4)
        cv2.circle(salient, (int(column), int(row)), reach, -1.0, cv2.FILLED)
    return None


def _standing_out(
    image: NDArray[np.uint8], places: Sequence[tuple[int, int]], half: float
) -> tuple[float, float, NDArray[np.float64]]:
    """How much the clicked places stand out at a scale, the scale, and the difference of colour there, shape (3,)."""
    differences, spreads = [], []
    for row, column in places:
        part = _around(image, row, column, PATCH)
        middle = min(row, PATCH), min(column, PATCH)
        colours = part.astype(np.float32)
        near = cv2.GaussianBlur(colours, (0, 0), NEAR * half)
        found = near - cv2.GaussianBlur(colours, (0, 0), SURROUNDINGS * half)
        here = _around(found, *middle).reshape(-1, 3)
        differences.append(here[(here**2).sum(1).argmax()])
        spreads.append(found[::2, ::2].reshape(-1, 3))
    direction = np.mean(differences, axis=0, dtype=np.float64)
    norm = float(np.linalg.norm(direction))
    if norm < 1e-3:
        return 0.0, half, np.ones(3)
    noise = np.abs(np.concatenate(spreads) @ (direction / norm))
    return (
        norm / (1.4826 * float(np.median(noise)) + 0.5),
        half,
        np.asarray(direction),
    )  # half a grey level: images without noise


def _wide_mean(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """A Gaussian mean, computed on a smaller picture, which nobody can tell from the large one."""
    step = max(int(sigma / 2), 1)
    height, width = plane.shape
    small = cv2.resize(plane, (max(width // step, 1), max(height // step, 1)), interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / step), (width, height), interpolation=cv2.INTER_LINEAR)
    )


def _is_line(mask: Mask) -> bool:
    inner = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    width = max(2 * float(inner.max()) - 1, 1.0)
    return width <= WIDEST and float(mask.sum()) / width >= LONG * width


def _around(plane: NDArray[np.generic], row: int, column: int, reach: int = 2) -> NDArray[np.generic]:
    return plane[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]


def _cell(click: Click, scale: float, shape: tuple[int, ...]) -> tuple[int, int]:
    row, column = int(click.y * scale), int(click.x * scale)
    return min(max(row, 0), shape[0] - 1), min(max(column, 0), shape[1] - 1)
