"""Polygon regions: corners in percent of the image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from backend.errors import RegionError
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import Mask, Points, RegionAdapter, size_of, value_of
from models.masks.outlines import outlines
from models.segment import Segment


class PolygonLabels(RegionAdapter):
    """Segments to and from polygons; a hole is joined to the outside by a slit, since a polygon has none."""

    tag = "PolygonLabels"

    def to_regions(self, segment: Segment, control: Control, *, per_object: bool = False) -> list[dict[str, Any]]:
        """One polygon around each connected part, largest first."""
        height, width = segment.mask.shape
        return [
            self._region(segment, control, {"points": (corners / (width, height) * 100).tolist(), "closed": True})
            for corners in outlines(segment.mask)
        ]

    def to_mask(self, region: Mapping[str, Any]) -> Mask:
        """Pixels whose centre is in the polygon."""
        height, width = size_of(region)
        try:
            percent = np.asarray(value_of(region)["points"], dtype=np.float64)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise RegionError(region, f"value.points cannot be read: {error}") from error
        if percent.ndim != 2 or percent.shape[1] != 2 or len(percent) < 3 or not np.isfinite(percent).all():
            raise RegionError(region, f"value.points has shape {percent.shape}, expected at least three of x, y")
        return fill(percent / 100 * (width, height), (height, width))


def fill(corners: Points, shape: tuple[int, int]) -> Mask:
    """Fill a polygon: a pixel is in if its centre is, by the even-odd rule.

    OpenCV's fillPoly is not used: it takes in every pixel that the outline touches, half a pixel too much all around.

    Args:
        corners: shape (n, 2), x and y in pixels, (0, 0) being the outer corner of the first pixel.
        shape: (H, W) of the image.
    """
    height, width = shape
    corners = np.clip(corners, -1e6, 1e6)  # far outside of any image, near enough not to overflow
    flips = np.zeros((height, width + 1), dtype=bool)  # where, from left to right, a row enters or leaves the polygon
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        top, bottom = np.clip(np.ceil(np.sort([y0, y1]) - 0.5), 0, height).astype(int)
        if top < bottom:
            rows = np.arange(top, bottom)
            crossings = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            flips[rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(int)] ^= True
    inside: Mask = np.logical_xor.accumulate(flips, axis=1)[:, :width]
    return inside
