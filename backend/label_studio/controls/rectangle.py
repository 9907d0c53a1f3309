"""Rectangle regions: top left corner, size and rotation."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import Mask, RegionAdapter, numbers, size_of, value_of
from models.masks.outlines import SMALLEST
from models.masks.rasterising import fill_rectangle
from models.segment import Segment


class RectangleLabels(RegionAdapter):
    """Segments to and from rectangles."""

    tag = "RectangleLabels"

    def to_regions(self, segment: Segment, control: Control, *, per_object: bool = False) -> list[dict[str, Any]]:
        """The upright bounding box of each connected part, largest first."""
        height, width = segment.mask.shape
        _, _, stats, _ = cv2.connectedComponentsWithStats(segment.mask.astype(np.uint8))
        parts = sorted(stats[1:].tolist(), key=lambda part: part[cv2.CC_STAT_AREA], reverse=True)
        return [
            self._region(
                segment,
                control,
                {
                    "x": x / width * 100,
                    "y": y / height * 100,
                    "width": w / width * 100,
                    "height": h / height * 100,
                    "rotation": 0,
                },
            )
            for x, y, w, h, area in parts
            if area >= SMALLEST
        ]

    def to_mask(self, region: Mapping[str, Any]) -> Mask:
        """Pixels whose centre is in the rectangle; `rotation` turns it clockwise about its top left corner."""
        shape = size_of(region)
        x, y, w, h = numbers(region, "x", "y", "width", "height")
        scale = np.array([shape[1], shape[0]]) / 100
        # The turn happens in pixels: in percent of a non-square image it would shear.
        return fill_rectangle(np.array([x, y]) * scale, np.array([w, h]) * scale, rotation_of(region), shape)


def rotation_of(region: Mapping[str, Any]) -> float:
    """Rotation in degrees, clockwise; 0 when the region does not say."""
    return numbers(region, "rotation")[0] if value_of(region).get("rotation") is not None else 0.0
