"""The parts that regions of every shape share."""

import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.errors import RegionError
from backend.label_studio.controls.control import Control
from models.errors import brief
from models.segment import Segment

Mask = NDArray[np.bool_]
# Keeps a damaged region from asking for all the memory there is.
MAX_PIXELS = 100_000_000
MAX_CORNERS = 20_000  # of an outline; each costs a pass over the rows beside it


class NoArea(RegionError):
    """A region covers no pixel that could be learnt: its class is on the image, but not said where."""


class RegionAdapter(ABC):
    """Segments to and from the regions of one control tag.

    Attributes:
        tag: the control tag.
        exact: whether its regions hold any mask, pixel by pixel.
    """

    tag: str
    exact = False

    @property
    def type(self) -> str:
        """The `type` of its regions and the key of their labels: the tag in lower case."""
        return self.tag.lower()

    @abstractmethod
    def to_regions(self, segment: Segment, control: Control, *, per_object: bool = False) -> list[dict[str, Any]]:
        """Describe a segment as regions, one or several.

        Args:
            segment: its label must be one of `control.labels`, its mask not empty.
            control: the control of the project's config that the regions belong to.
            per_object: a region for each connected part, also of a kind of which one region could hold them all.
        """

    @abstractmethod
    def to_mask(self, region: Mapping[str, Any]) -> Mask:
        """Draw a region.

        Returns:
            Mask of shape (original_height, original_width), bool.

        Raises:
            NoArea: the region is read, and encloses nothing.
            RegionError: the region lacks a field or holds one that cannot be.
        """

    def labels(self, region: Mapping[str, Any]) -> list[str]:
        """The stored labels of a region; empty when its label has been taken away."""
        labels = value_of(region).get(self.type)
        return [str(label) for label in labels] if isinstance(labels, list) else []

    def _region(self, segment: Segment, control: Control, value: dict[str, Any]) -> dict[str, Any]:
        height, width = segment.mask.shape
        return {
            "id": new_id(),
            "type": self.type,
            "from_name": control.name,
            "to_name": control.to_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": segment.score,
            "value": {**value, self.type: [control.labels[segment.label]]},
        }


def parts(mask: Mask) -> Iterator[Mask]:
    """The connected parts of a mask, largest first; pixels that share a corner are connected."""
    # One at a time: of a large image, all of them would fill the memory.
    _, numbered, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for part in np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable") + 1:
        yield numbered == part


def new_id() -> str:
    """A region id of the editor's own length, unique within any prediction."""
    return uuid.uuid4().hex[:10]


def size_of(region: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width in pixels of the image that a region was drawn on.

    Raises:
        RegionError: they are missing, not whole positive numbers, or too large.
    """
    height, width = region.get("original_height"), region.get("original_width")
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise RegionError(region, f"original_height x original_width is {brief(height)} x {brief(width)}")
    if height * width > MAX_PIXELS:
        raise RegionError(region, f"it claims {brief(height)} x {brief(width)} pixels, at most {MAX_PIXELS} are taken")
    return height, width


def value_of(region: Mapping[str, Any]) -> Mapping[str, Any]:
    """A region's value, empty if it has none."""
    value = region.get("value")
    return value if isinstance(value, Mapping) else {}


def is_finite(number: Any) -> TypeGuard[float]:
    """Whether it is a number that a float can hold: JSON's whole numbers know no limit, and Python takes Infinity."""
    known = isinstance(number, int | float) and not isinstance(number, bool)
    return known and abs(number) <= sys.float_info.max


def numbers(region: Mapping[str, Any], *keys: str) -> list[float]:
    """Finite numbers from a region's value.

    Raises:
        RegionError: one is missing or is not a finite number.
    """
    value = value_of(region)
    found = []
    for key in keys:
        number = value.get(key)
        if not is_finite(number):
            raise RegionError(region, f"value.{key} is {brief(number)}, expected a number")
        found.append(float(number))
    return found
