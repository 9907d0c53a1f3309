"""An image file as an array, whatever its format, orientation and colours."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

RgbImage = NDArray[np.uint8]

# Formats of pictures only: Pillow would also hand PostScript to an interpreter. JPEG includes cameras' MPO.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
# Pillow's modes of one channel with more than eight bits.
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")


def decode_image(data: bytes, max_pixels: int) -> RgbImage:
    """Decode an image as a browser shows it.

    EXIF orientation is applied, transparency becomes white, 16 bits are scaled by their range.

    Args:
        data: a file's contents.
        max_pixels: a larger image is an error, raised before it is decoded.

    Returns:
        Array of shape (H, W, 3), uint8, RGB.

    Raises:
        ValueError: not an image, damaged, or too large.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ValueError(f"it has {width} x {height} pixels, at most {max_pixels} are taken; make it smaller")
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _rgb(upright)
    except UnidentifiedImageError as error:
        start = data[:16].lstrip().lower()
        found = "a web page, probably a login" if start.startswith((b"<!doc", b"<html")) else "not an image"
        raise ValueError(f"it is {found}; supported are {', '.join(FORMATS)}") from error
    # Pillow's plugins raise these, and more, on damaged files.
    except (
        OSError,
        SyntaxError,
        EOFError,
        IndexError,
        TypeError,
        OverflowError,
        MemoryError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise ValueError(f"it is damaged or too large: {error}") from error


def _rgb(image: Image.Image) -> RgbImage:
    if image.mode in DEEP_MODES:
        return np.repeat(_eight_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"))


def _eight_bits(deep: NDArray[Any]) -> RgbImage:
    """Scale one channel to 0..255: unsigned 16 bits by what they can hold, anything else by what it does hold."""
    values = np.nan_to_num(deep.astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(), values.max()
    # Pillow reads some 16-bit files in a signed 32-bit mode; these are scaled as the 16 bits they are.
    if deep.dtype.kind in "ui" and low >= 0 and high <= 65535:
        scaled = values / 257
    else:
        scaled = (values - low) / max(high - low, np.finfo(float).tiny) * 255
    eight: RgbImage = np.round(scaled).astype(np.uint8)
    return eight
