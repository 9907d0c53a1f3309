"""Masks as polygons."""

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from shapely import Polygon

Points = NDArray[np.float64]

# How far, in pixels, a polygon may run beside the edge of its mask if a caller does not say: fewer corners are easier
# to drag. Small parts are followed more closely, within this fraction of the side of a square as large, down to where
# stairs would show.
TOLERANCE = 1.0
RELATIVE_TOLERANCE = 0.015
MIN_TOLERANCE = 0.6
# Smaller parts, in pixels, get no outline: an annotator would only have to delete it.
SMALLEST = 4.0
# A polygon has no holes: each is joined to the outside by a slit of this width in pixels, which hardly any pixel's
# centre lies in. The smallest of too many are filled.
SLIT = 0.5
MAX_HOLES = 16


def outlines(mask: NDArray[np.bool_], tolerance: float = TOLERANCE) -> list[Points]:
    """One polygon around each connected part of a mask, close to its edge; none crosses itself.

    Args:
        mask: shape (H, W), bool.
        tolerance: pixels that a polygon may run beside the edge; less around small parts.

    Returns:
        Largest part first, the corners of each: shape (n, 2), n >= 3, x and y in pixels, (0, 0) being the outer corner
        of the first pixel. Parts smaller than SMALLEST have none, holes as small are filled.
    """
    polygons = []
    for part in _parts(mask):
        whole = _without_holes(part)
        allowed = min(max(RELATIVE_TOLERANCE * part.area**0.5, MIN_TOLERANCE), tolerance)
        simple = whole.simplify(allowed, preserve_topology=True)
        corners = np.asarray((simple if simple.is_valid else whole).exterior.coords)[:-1]
        polygons.append(corners)
    return polygons


def _parts(mask: NDArray[np.bool_]) -> "list[Polygon]":
    """The connected parts along their pixels' edges, with their larger holes, largest first."""
    from shapely import Polygon, make_valid

    # OpenCV's contours run through the centres of the outermost pixels; on a doubled mask these lie a quarter of a
    # pixel inside the true edge.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    rings = [(contour.reshape(-1, 2) + 0.5) / 2 for contour in contours]
    parents = [int(parent) for *_, parent in hierarchy[0]] if contours else []
    holes: dict[int, list[Points]] = {}
    # The largest first; chosen before shapely sees them, for thousands would take it seconds.
    for index in sorted((i for i in range(len(rings)) if parents[i] >= 0), key=lambda i: -cv2.contourArea(contours[i])):
        siblings = holes.setdefault(parents[index], [])
        if cv2.contourArea(contours[index]) / 4 >= SMALLEST and len(siblings) < MAX_HOLES:
            siblings.append(rings[index])
    parts: list[Polygon] = []
    for index, ring in enumerate(rings):
        if parents[index] < 0 and len(ring) >= 3:
            # Where pixels touch by a corner alone a ring touches itself: there the part falls into two.
            whole = make_valid(Polygon(ring, holes.get(index)), method="structure", keep_collapsed=False)
            parts += _polygons(whole.buffer(0.25, join_style="mitre"))
    return sorted((part for part in parts if part.area >= SMALLEST), key=lambda part: -part.area)


def _without_holes(part: "Polygon") -> "Polygon":
    """The part with a slit from each hole to the outside."""
    from shapely import shortest_line

    while part.interiors:
        # The nearest to the outside first, so that no slit runs through another hole.
        ways = [shortest_line(hole, part.exterior) for hole in part.interiors]
        slit = min(ways, key=lambda way: way.length).buffer(SLIT / 2, cap_style="square")
        part = max(_polygons(part.difference(slit)), key=lambda piece: piece.area)
    return part


def _polygons(shape: object) -> "list[Polygon]":
    """The polygons that a shape consists of."""
    from shapely import Polygon

    return [piece for piece in getattr(shape, "geoms", [shape]) if isinstance(piece, Polygon) and not piece.is_empty]
