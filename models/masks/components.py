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
    plane = np.ascontiguousarray(mask != 0).view(np.uint8)
    labels = np.zeros(plane.shape, dtype=np.int32)
    left, top, width, height = cv2.boundingRect(plane)
    if not width:
        return labels, []
    # OpenCV numbers components by blocks of two by two pixels: cut between blocks, they get the same numbers.
    y, x = top - top % 2, left - left % 2
    box = slice(y, top + height), slice(x, left + width)
    _, labels[box], stats, _ = cv2.connectedComponentsWithStats(plane[box], connectivity=connectivity)
    rows = (stats[1:] + np.array([x, y, 0, 0, 0])).tolist()
    return labels, [Component(number, *row) for number, row in enumerate(rows, start=1)]


def only_component(mask: NDArray[np.uint8]) -> Component | None:
    """The component of a mask of shape (H, W), uint8, if it has just one (8-connected), the usual case; else None.

    Its outline is followed, which takes a fraction of the time of labels.

    >>> only_component(np.array([[0, 1, 1], [1, 0, 0]], np.uint8))
    Component(number=1, x=0, y=0, width=3, height=2, area=3)
    """
    contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if sum(int(parent) < 0 for *_, parent in (hierarchy[0] if contours else ())) != 1:
        return None
    x, y, width, height = cv2.boundingRect(mask)
    return Component(1, x, y, width, height, cv2.countNonZero(mask))


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
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if not width:
        return cleaned
    # A ring of background around the mask, where the frame has room for it, stands for all background beyond.
    bottom, right = min(top + height + 1, mask.shape[0]), min(left + width + 1, mask.shape[1])
    top, left = max(top - 1, 0), max(left - 1, 0)
    near, least = cleaned[top:bottom, left:right], min_share * mask.size
    first = cleaned[:top], cleaned[top:bottom, :left]  # beyond the ring's first pixel ...
    last = cleaned[bottom:], cleaned[top:bottom, right:]  # ... and beyond its last
    for value in (True, False):
        _, labels = cv2.connectedComponents((near == value).view(np.uint8), connectivity=4)
        areas = np.bincount(labels.ravel())
        ends = (labels[0, 0], first), (labels[-1, -1], last)
        if not value:
            for label, beyond in ends:
                areas[label] += sum(part.size for part in beyond)
        small = areas < least
        small[0] = False
        if small.any():
            near[small[labels]] = not value
            for label, beyond in ends:
                for part in beyond:
                    part[...] = part | small[label]
    return cleaned
