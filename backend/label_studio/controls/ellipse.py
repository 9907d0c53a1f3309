"""Ellipse regions: centre, two radii and rotation."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from backend.label_studio.controls.control import Control
from backend.label_studio.controls.rectangle import rotation_of
from backend.label_studio.controls.region import Mask, RegionAdapter, numbers, parts, size_of
from models.masks.outlines import SMALLEST
from models.masks.rasterising import fill_ellipse
from models.segment import Segment


class EllipseLabels(RegionAdapter):
    """Segments to and from ellipses."""

    tag = "EllipseLabels"

    def to_regions(self, segment: Segment, control: Control, *, per_object: bool = False) -> list[dict[str, Any]]:
        """The ellipse with the area and the second moments of each connected part, holes filled; largest first."""
        height, width = segment.mask.shape
        regions = []
        for mask in parts(segment.mask):
            if np.count_nonzero(mask) < SMALLEST:
                break
            (x, y), (major, minor), rotation = equivalent_ellipse(_without_holes(mask))
            value = {
                "x": x / width * 100,
                "y": y / height * 100,
                "radiusX": major / width * 100,
                "radiusY": minor / height * 100,
                "rotation": rotation,
            }
            regions.append(self._region(segment, control, value))
        return regions

    def to_mask(self, region: Mapping[str, Any]) -> Mask:
        """Pixels whose centre is in the ellipse; `rotation` turns it clockwise about its centre."""
        height, width = size_of(region)
        x, y, radius_x, radius_y = numbers(region, "x", "y", "radiusX", "radiusY")
        scale = np.array([width, height]) / 100
        centre, radii = np.array([x, y]) * scale, np.array([radius_x, radius_y]) * scale
        return fill_ellipse(centre, radii, rotation_of(region), (height, width))


def _without_holes(mask: Mask) -> Mask:
    """A mask with its holes filled: an ellipse goes around an object, a ring among them."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, dtype=np.uint8)
    return cv2.drawContours(filled, contours, -1, 1, cv2.FILLED).astype(bool)


def equivalent_ellipse(mask: Mask) -> tuple[tuple[float, float], tuple[float, float], float]:
    """The ellipse with a mask's centre, area and second moments.

    Args:
        mask: shape (H, W), bool, not empty.

    Returns:
        Centre (x, y) and radii in pixels, and the clockwise rotation in degrees of the first radius from the x axis.
    """
    rows, columns = np.nonzero(mask)
    points = np.stack([columns + 0.5, rows + 0.5], axis=1)  # (n, 2) x, y
    centre = points.mean(axis=0)
    # A pixel is a square, not a point: its own second moment of 1/12 keeps a thin line from having no width.
    covariance = np.cov(points.T, bias=True) + np.eye(2) / 12
    variances, axes = np.linalg.eigh(covariance)  # ascending
    radii = 2 * np.sqrt(variances[::-1])  # a filled ellipse has variance radius² / 4 along each axis
    radii *= np.sqrt(len(points) / (np.pi * radii.prod()))
    direction = axes[:, 1]
    rotation = float(np.rad2deg(np.arctan2(direction[1], direction[0])))
    return (float(centre[0]), float(centre[1])), (float(radii[0]), float(radii[1])), rotation
