"""Bitmask regions: masks as PNG pictures, black where they are painted and transparent elsewhere."""

import binascii
import io
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image

from backend.errors import RegionError
from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import MAX_PIXELS, Mask, RegionAdapter, parts, size_of, value_of
from backend.label_studio.rle import PAINTED
from models.segment import Segment

PREFIX = "data:image/png;base64,"
# The signature, and the first chunk up to width and height.
HEADER = struct.Struct(">8s4x4sII")
SIGNATURE, FIRST_CHUNK = b"\x89PNG\r\n\x1a\n", b"IHDR"


class BitmaskLabels(RegionAdapter):
    """Segments to and from bitmask regions, pixel by pixel."""

    tag = "BitmaskLabels"
    exact = True

    def to_regions(self, segment: Segment, control: Control, *, per_object: bool = False) -> list[dict[str, Any]]:
        """One region with exactly the segment's pixels, or one with those of each connected part, largest first."""
        masks: Iterable[Mask] = parts(segment.mask) if per_object else [segment.mask]
        return [self._region(segment, control, {"imageDataURL": encode_bitmask(mask)}) for mask in masks]

    def to_mask(self, region: Mapping[str, Any]) -> Mask:
        """Exactly the region's painted pixels; a picture of another size is scaled to the image, as the editor does."""
        height, width = size_of(region)
        try:
            mask = decode_bitmask(value_of(region).get("imageDataURL"))
        except ValueError as error:
            raise RegionError(region, f"value.imageDataURL {error}") from error
        if mask.shape == (height, width):
            return mask
        return cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)


def encode_bitmask(mask: Mask) -> str:
    """A mask as the editor stores it: a data URL of a PNG, black with alpha 255 where it is painted, 0 elsewhere.

    Args:
        mask: shape (H, W), bool.
    """
    pixels = np.zeros((*mask.shape, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(mask, 255, 0)
    done, png = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError(f"a mask of shape {mask.shape} cannot be written as PNG")
    return PREFIX + b64encode(png.tobytes()).decode()


def decode_bitmask(url: Any) -> Mask:
    """The painted pixels of a data URL of a PNG: those with at least half of the full alpha.

    Returns:
        Mask of the picture's own size, bool.

    Raises:
        ValueError: it is no such picture; the text follows on "value.imageDataURL".
    """
    if not isinstance(url, str) or not url.startswith(PREFIX):
        raise ValueError(f"should begin with {PREFIX}")
    try:
        png = b64decode(url[len(PREFIX) :], validate=True)
    except binascii.Error as error:
        raise ValueError(f"is no base64: {error}") from error
    if len(png) < HEADER.size:
        raise ValueError("holds no PNG picture")
    signature, chunk, width, height = HEADER.unpack_from(png)
    if signature != SIGNATURE or chunk != FIRST_CHUNK:
        raise ValueError("holds no PNG picture")
    if width * height > MAX_PIXELS:
        raise ValueError(f"claims {height} x {width} pixels, at most {MAX_PIXELS} are taken")
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            if not picture.has_transparency_data:
                raise ValueError("is opaque all over; a mask is painted on a transparent picture")
            alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
    except (OSError, SyntaxError) as error:
        raise ValueError(f"holds a damaged PNG picture: {error}") from error
    return alpha >= PAINTED
