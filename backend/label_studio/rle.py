"""Label Studio's run-length encoding of brush masks, by its own encoder and decoder."""

from importlib.metadata import distribution
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import numpy as np

from backend.label_studio.controls.region import Mask

# The editor draws with alpha 0..255; it is the opacity, not a confidence, so half of it decides what is painted.
PAINTED = 128


def _sdk_brush() -> Any:
    """The module label_studio_sdk.converter.brush, loaded from its file.

    It needs numpy alone, but importing it by name runs its package's `__init__`, which brings nltk, scikit-learn and
    pandas: seconds at every start, and their memory for good.
    """
    path = distribution("label-studio-sdk").locate_file("label_studio_sdk/converter/brush.py")
    spec = spec_from_file_location("label_studio_brush", str(path))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    # Its own asks for one bit at a time, which takes three quarters of a decoding (`premask bench rle`).
    module.bytes2bit = _bits  # type: ignore[attr-defined]
    return module


def _bits(rle: list[int]) -> str:
    """Bytes as a text of 0 and 1. Raises ValueError if they are none."""
    return format(int.from_bytes(bytes(rle), "big"), f"0{8 * len(rle)}b")


BRUSH = _sdk_brush()


def encode_rle(mask: Mask) -> list[int]:
    """Encode a mask as Label Studio's brush RLE.

    Args:
        mask: shape (H, W), bool.
    """
    # 0/1 would be drawn with an opacity of 1/255, that is, invisibly.
    encoded: list[int] = BRUSH.mask2rle(mask.astype(np.uint8) * 255)
    return encoded


def decode_rle(rle: list[int], shape: tuple[int, int]) -> Mask:
    """Decode Label Studio's brush RLE.

    Args:
        rle: bytes as a list of integers.
        shape: (H, W) of the image it was painted on.

    Returns:
        Mask of that shape, bool: painted with an opacity of at least PAINTED.

    Raises:
        ValueError: `rle` ends early or holds an image of another size.
    """
    height, width = shape
    # The first four bytes announce the length; checked before the decoder allocates that much.
    announced = int.from_bytes(bytes(rle[:4]), "big")
    if announced != height * width * 4:
        raise ValueError(f"it holds {announced / 4:g} pixels, expected {height} x {width} = {height * width}")
    rgba = BRUSH.decode_rle(rle)  # (H * W * 4,) uint8
    painted: Mask = rgba.reshape(height, width, 4)[:, :, 3] >= PAINTED
    return painted
