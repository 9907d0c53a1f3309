"""Masks as polygons."""

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

# How far, in pixels, a polygon may run beside the mask's edge: fewer corners are easier to drag.
TOLERANCE = 1.0
# Parts smaller than this, in pixels, are specks that an annotator would only have to delete.
SMALLEST = 4.0


def outlines(mask: NDArray[np.bool_]) -> list[Points]:
    """One polygon around each connected part of a mask, within TOLERANCE of its outer edge; holes are lost.

    Args:
        mask: shape (H, W), bool.

    Returns:
        Largest part first, the corners of each: shape (n, 2), n >= 3, x and y in pixels, (0, 0) being the outer corner
        of the first pixel. Parts smaller than SMALLEST have none.
    """
    # OpenCV outlines run through the centres of the outermost pixels; on a doubled mask these lie within a quarter of
    # a pixel of the true edge.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in sorted(contours, key=cv2.contourArea, reverse=True):
        corners = (cv2.approxPolyDP(contour, 2 * TOLERANCE, closed=True).reshape(-1, 2) + 0.5) / 2
        if len(corners) >= 3 and cv2.contourArea(contour) / 4 >= SMALLEST:
            polygons.append(corners)
    return polygons
