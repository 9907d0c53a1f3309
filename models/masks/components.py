"""Connected components of masks."""

from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Connectivity = Literal[4, 8]


class Component(NamedTuple):
    """One connected component.

    Attributes:
        number: its label, from 1.
        x, y, width, height: its bounding box in pixels.
        area: its pixels.
    """

    number: int
    x: int
    y: int
    width: int
    height: int
    area: int

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the bounding box."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def connected_components(
    mask: NDArray[Any], connectivity: Connectivity = 8
) -> tuple[NDArray[np.int32], list[Component]]:
    """Number the connected components of a mask.

    Args:
        mask: shape (H, W), bool or uint8; a pixel that is not 0 belongs to it.
        connectivity: 8 where pixels that share a corner are connected, 4 where they must share an edge.

    Returns:
        Labels of shape (H, W), int32, 0 outside the mask; and the components in the order of their numbers.

    >>> labels, found = connected_components(np.array([[1, 0, 1], [1, 0, 1], [0, 0, 1]], np.uint8))
    >>> labels
    array([[1, 0, 2],
           [1, 0, 2],
           [0, 0, 2]], dtype=int32)
    >>> [component.area for component in found]
    [2, 3]
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    rows = stats[1:].tolist()
    return np.asarray(labels, dtype=np.int32), [Component(number, *row) for number, row in enumerate(rows, start=1)]


def largest_component(mask: NDArray[np.bool_], connectivity: Connectivity = 4) -> NDArray[np.bool_]:
    """The largest component of a mask of shape (H, W), bool; the mask itself if it is empty."""
    labels, found = connected_components(mask, connectivity)
    if not found:
        return mask
    return np.asarray(labels == max(found, key=lambda component: component.area).number)


def without_small_components(mask: NDArray[np.bool_], min_share: float) -> NDArray[np.bool_]:
    """Drop components smaller than a share of the frame, and fill holes as small (4-connected).

    Args:
        mask: shape (H, W), bool.
        min_share: of the frame's pixels, in [0, 1].

    >>> without_small_components(np.array([[1, 0, 1], [0, 0, 1]], bool), min_share=0.3).astype(int)
    array([[0, 0, 1],
           [0, 0, 1]])
    """
    cleaned = mask.copy()
    for value in (True, False):
        labels, found = connected_components(cleaned == value, connectivity=4)
        small = np.array([False, *(component.area < min_share * mask.size for component in found)])
        cleaned[small[labels]] = not value
    return cleaned
