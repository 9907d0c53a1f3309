"""Connected components of masks."""

import cv2
import numpy as np
from numpy.typing import NDArray


def without_small_components(mask: NDArray[np.bool_], least: float) -> NDArray[np.bool_]:
    """Drop objects smaller than the fraction `least` of the frame, and fill holes as small.

    Args:
        mask: shape (H, W), bool.
        least: fraction of the frame's area, in [0, 1].
    """
    cleaned = mask.astype(np.uint8)
    for value in (1, 0):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((cleaned == value).astype(np.uint8), connectivity=4)
        small = stats[:count, cv2.CC_STAT_AREA] < least * mask.size
        small[0] = False
        cleaned[small[labels]] = 1 - value
    return cleaned.astype(bool)
