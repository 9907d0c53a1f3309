"""Vector regions: paths of straight lines and Bézier curves, in percent of the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import RegionError
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import (
    MAX_CORNERS,
    Mask,
    NoArea,
    RegionAdapter,
    is_finite,
    new_id,
    size_of,
    value_of,
)
from models.errors import brief
from models.masks.outlines import outlines
from models.masks.rasterising import fill_polygon
from models.segment import Segment

Point = NDArray[np.float64]  # (2,): x, y

STEPS = 32  # straight pieces that a curve is drawn with
# Where one end of a curve has no handle, the editor puts it on the straight line, so much of its length from that end.
BARE_HANDLE = 0.3


class VectorLabels(RegionAdapter):
    """Segments to and from closed paths; a hole is joined to the outside by a slit, as in a polygon."""

    tag = "VectorLabels"

    def to_regions(self, segment: Segment, control: Control, *, per_object: bool = False) -> list[dict[str, Any]]:
        """One closed path of straight lines around each connected part, largest first."""
        height, width = segment.mask.shape
        return [
            self._region(segment, control, {"vertices": _vertices(corners / (width, height) * 100), "closed": True})
            for corners in outlines(segment.mask)
        ]

    def to_mask(self, region: Mapping[str, Any]) -> Mask:
        """Pixels whose centre is in the closed path; raises NoArea for an open one."""
        height, width = size_of(region)
        value = value_of(region)
        if value.get("closed") is not True:
            raise NoArea(region, "its path is not closed")
        vertices = _in_order(region, value.get("vertices"))
        corners = [
            point
            for start, end in zip(vertices, [*vertices[1:], vertices[0]], strict=True)
            for point in _piece(region, start, end)
        ]
        if len(corners) > MAX_CORNERS:
            raise RegionError(region, f"it has {len(corners)} corners, at most {MAX_CORNERS} are taken")
        return fill_polygon(np.array(corners) / 100 * (width, height), (height, width))


def _vertices(corners: NDArray[np.float64]) -> list[dict[str, Any]]:
    ids = [new_id() for _ in corners]
    return [
        {"id": own, "prevPointId": before, "x": x, "y": y, "isBezier": False}
        for own, before, (x, y) in zip(ids, [ids[-1], *ids[:-1]], corners.tolist(), strict=True)
    ]


def _in_order(region: Mapping[str, Any], listed: Any) -> Sequence[Mapping[str, Any]]:
    """The vertices along the path. Each names the one before it; without names their order in the list counts."""
    if not isinstance(listed, list) or len(listed) < 3 or not all(isinstance(vertex, Mapping) for vertex in listed):
        raise RegionError(region, "value.vertices should be a list of at least three vertices")
    after = {str(vertex["prevPointId"]): vertex for vertex in listed if vertex.get("prevPointId") is not None}
    if not after:
        return listed
    # The first of a path may lack the name of the last.
    first = next((vertex for vertex in listed if vertex.get("prevPointId") is None), listed[0])
    path = [first]
    while (following := after.pop(str(path[-1].get("id")), None)) is not None and following is not first:
        path.append(following)
    if len(path) != len(listed):
        raise RegionError(region, f"its path branches or is torn: only {len(path)} of {len(listed)} vertices follow")
    return path


def _piece(region: Mapping[str, Any], start: Mapping[str, Any], end: Mapping[str, Any]) -> Sequence[Point]:
    """Points from a vertex up to, but without, the next one."""
    one, two = _point(region, start), _point(region, end)
    leaving, arriving = _handle(region, start, "controlPoint2"), _handle(region, end, "controlPoint1")
    if leaving is None and arriving is None:
        return [one]
    if leaving is None:
        leaving = one + BARE_HANDLE * (two - one)
    if arriving is None:
        arriving = two - BARE_HANDLE * (two - one)
    t = np.arange(STEPS)[:, np.newaxis] / STEPS
    curve = (1 - t) ** 3 * one + 3 * (1 - t) ** 2 * t * leaving + 3 * (1 - t) * t**2 * arriving + t**3 * two
    return list(curve)


def _handle(region: Mapping[str, Any], vertex: Mapping[str, Any], name: str) -> Point | None:
    found = vertex.get(name)
    return _point(region, found) if vertex.get("isBezier") is True and isinstance(found, Mapping) else None


def _point(region: Mapping[str, Any], fields: Mapping[str, Any]) -> Point:
    x, y = fields.get("x"), fields.get("y")
    if not is_finite(x) or not is_finite(y):
        raise RegionError(region, f"a vertex lies at {brief(x)}, {brief(y)}, expected two numbers")
    return np.array([x, y], dtype=np.float64)
