"""Polygon regions: corners in percent of the image."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from backend.errors import RegionError
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import MAX_CORNERS, Mask, RegionAdapter, size_of, value_of
from models.masks.outlines import outlines
from models.masks.rasterising import fill_polygon
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
        if len(percent) > MAX_CORNERS:
            raise RegionError(region, f"it has {len(percent)} corners, at most {MAX_CORNERS} are taken")
        return fill_polygon(percent / 100 * (width, height), (height, width))
