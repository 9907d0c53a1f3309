"""Polygon regions: corners in percent of the image."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from backend.errors import RegionError
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import Mask, Points, RegionAdapter, size_of, value_of
from models.segment import Segment

# How far, in pixels, a predicted polygon may run beside the mask's edge: fewer corners are easier to drag.
TOLERANCE = 1.0
# Outlines smaller than this, in pixels, are specks that an annotator would only have to delete.
SMALLEST = 4.0


class PolygonLabels(RegionAdapter):
    """Segments to and from polygons; a hole in a segment is lost, since a polygon has none."""

    tag = "PolygonLabels"

    def to_regions(self, segment: Segment, control: Control) -> list[dict[str, Any]]:
        """One polygon around each connected part, within TOLERANCE of its outer edge."""
        height, width = segment.mask.shape
        # OpenCV outlines run through the centres of the outermost pixels; on a doubled mask these lie within a quarter
        # of a pixel of the true edge.
        doubled = segment.mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
        contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        regions = []
        for contour in sorted(contours, key=cv2.contourArea, reverse=True):
            corners = (cv2.approxPolyDP(contour, 2 * TOLERANCE, closed=True).reshape(-1, 2) + 0.5) / 2  # (n, 2) x, y
            if len(corners) < 3 or cv2.contourArea(contour) / 4 < SMALLEST:
                continue
            percent = corners / (width, height) * 100
            regions.append(self._region(segment, control, {"points": percent.tolist(), "closed": True}))
        return regions

    def to_mask(self, region: Mapping[str, Any]) -> Mask:
        """Pixels whose centre is in the polygon."""
        height, width = size_of(region)
        try:
            percent = np.asarray(value_of(region)["points"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
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
