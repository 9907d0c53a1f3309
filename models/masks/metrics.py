"""Agreement of two masks."""

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def iou(predicted: Mask, truth: Mask) -> float:
    """Intersection over union of two masks of shape (H, W), bool; 1 where both are empty.

    >>> iou(np.array([[True, True, False]]), np.array([[False, True, True]]))
    0.3333333333333333
    """
    union = int(np.count_nonzero(predicted | truth))
    return int(np.count_nonzero(predicted & truth)) / union if union else 1.0


def dice(predicted: Mask, truth: Mask) -> float:
    """2 |A and B| / (|A| + |B|) of two masks of shape (H, W), bool; 1 where both are empty.

    >>> dice(np.array([[True, True, False]]), np.array([[False, True, True]]))
    0.5
    """
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(predicted & truth)) / total if total else 1.0


def boundary_f(predicted: Mask, truth: Mask, tolerance: float = 0.008) -> float:
    """Boundary F-measure (Perazzi et al. 2016, the DAVIS benchmark): do the outlines agree?

    Args:
        predicted, truth: shape (H, W), bool.
        tolerance: outlines agree within this fraction of the image's diagonal.

    Returns:
        In [0, 1]; 1 where both are empty, 0 where one is.
    """
    if not predicted.any() or not truth.any():
        return float(predicted.any() == truth.any())
    reach = max(tolerance * float(np.linalg.norm(truth.shape)), 1.0)
    a, b = _outline(predicted), _outline(truth)
    precision = float((_distance(b)[a] <= reach).mean())
    recall = float((_distance(a)[b] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _outline(mask: Mask) -> Mask:
    # Padded, so that an object that touches the frame's edge has an outline there too.
    padded = np.pad(mask.astype(np.uint8), 1)
    return np.asarray((padded - cv2.erode(padded, np.ones((3, 3), np.uint8)))[1:-1, 1:-1].astype(bool))


def _distance(outline: Mask) -> NDArray[np.float32]:
    return np.asarray(cv2.distanceTransform((~outline).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
