"""PNG files: the one place that writes them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def encode_png(picture: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """A picture as a PNG file's content, compressed quickly.

    Args:
        picture: shape (H, W), uint8 grey or bool (False is stored as 0, True as 255); or (H, W, 3), uint8 RGB.

    Raises:
        ValueError: it has another shape or dtype, or no pixels.
    """
    pixels: NDArray[Any] = picture.astype(np.uint8) * 255 if picture.dtype == np.bool_ else picture
    if pixels.dtype != np.uint8 or 0 in pixels.shape or (pixels.ndim != 2 and pixels.shape[2:] != (3,)):
        raise ValueError(
            f"a picture has shape (H, W) or (H, W, 3) and dtype uint8 or bool, got {picture.shape} {picture.dtype}"
        )
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]  # OpenCV stores BGR
    _, content = cv2.imencode(".png", np.ascontiguousarray(pixels))
    return content.tobytes()


def write_png(path: Path, picture: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write a picture as `encode_png` encodes it; its folder must exist.

    Raises:
        OSError: the file cannot be written.
        ValueError: see `encode_png`.
    """
    path.write_bytes(encode_png(picture))
