"""Brush regions: run-length encoded masks."""

from collections.abc import Iterable, Mapping
from typing import Any

from backend.errors import RegionError
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import Mask, RegionAdapter, parts, size_of, value_of
from backend.label_studio.rle import decode_rle, encode_rle
from models.segment import Segment


class BrushLabels(RegionAdapter):
    """Segments to and from brush regions, pixel by pixel."""

    tag = "BrushLabels"
    exact = True

    def to_regions(self, segment: Segment, control: Control, *, per_object: bool = False) -> list[dict[str, Any]]:
        """One region with exactly the segment's pixels, or one with those of each connected part, largest first."""
        masks: Iterable[Mask] = parts(segment.mask) if per_object else [segment.mask]
        return [self._region(segment, control, {"format": "rle", "rle": encode_rle(mask)}) for mask in masks]

    def to_mask(self, region: Mapping[str, Any]) -> Mask:
        """Exactly the region's painted pixels."""
        height, width = size_of(region)
        try:
            return decode_rle(value_of(region)["rle"], (height, width))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise RegionError(region, f"its RLE cannot be read: {error}") from error
