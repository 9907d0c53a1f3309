"""Image files of any format, orientation and colours as arrays: the one decoder."""

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

RgbImage = NDArray[np.uint8]

# Formats of pictures only: Pillow would also hand PostScript to an interpreter. JPEG includes cameras' MPO.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
# Pillow's modes of one channel with more than eight bits.
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# A progressive JPEG comes in about ten scans. Each costs a pass over all pixels, so a small file of thousands of empty
# scans would keep the decoder busy for an hour.
START_OF_SCAN, MAX_SCANS = b"\xff\xda", 100
# What files that cannot be opened begin with, in lower case.
BEGINNINGS = {
    b"\x89png": "a damaged PNG",
    b"\xff\xd8": "a damaged JPEG",
    b"ii*\0": "a damaged TIFF",
    b"mm\0*": "a damaged TIFF",
    b"gif8": "a damaged GIF",
    b"riff": "a damaged WebP, or a sound or film",
    b"bm": "a damaged BMP",
    b"<!doc": "a web page, probably a login",
    b"<html": "a web page, probably a login",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file, perhaps an SVG drawing",
    b"%pdf": "a PDF",
    b"%!ps": "a PostScript file",
    b"pk\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a Git LFS pointer instead of the file",
}
ROWS = 256  # rows scaled at a time, so that a large image of floats is never copied as a whole


def decode_image(data: bytes, max_pixels: int) -> RgbImage:
    """Decode an image as a browser shows it.

    EXIF orientation is applied, transparency becomes white, 16 bits are scaled by their range; of several frames or
    pages the first counts.

    Args:
        data: a file's contents.
        max_pixels: a larger image is an error, raised before it is decoded.

    Returns:
        Array of shape (H, W, 3), uint8, RGB.

    Raises:
        ValueError: not an image, damaged, or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            problem = _refusal(image, data, max_pixels)
            if problem is None:
                image.load()
                return rgb_array(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"it is {_described(data)}; supported are {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"it is too large: {error}") from error
    # Pillow's plugins raise errors of any kind on damaged files: struct.error, KeyError, ZeroDivisionError ...
    except Exception as error:
        raise ValueError(f"it is damaged or of a kind that cannot be read: {error}") from error
    raise ValueError(problem)


def rgb_array(image: "Image") -> RgbImage:
    """A Pillow image as `decode_image` gives it: shape (H, W, 3), uint8, RGB, turned as its EXIF orientation says."""
    return _rgb(_upright(image))


def _refusal(image: "Image", data: bytes, max_pixels: int) -> str | None:
    """Why an opened image, of which only the header has been read, is not decoded."""
    width, height = image.size
    if width * height == 0:
        return "it has no pixels"
    if width * height > max_pixels:
        return f"it has {width} x {height} pixels, at most {max_pixels} are taken; make it smaller"
    if image.format in ("JPEG", "MPO") and data.count(START_OF_SCAN) > MAX_SCANS:
        return f"it is a JPEG of more than {MAX_SCANS} scans, which no camera writes; save it again"
    return None


def _described(data: bytes) -> str:
    if not data:
        return "empty"
    if data[128:132] == b"DICM":
        return "a DICOM file, which is to be exported as PNG first"
    start = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((name for magic, name in BEGINNINGS.items() if start.startswith(magic)), "not an image")


def _upright(image: "Image") -> "Image":
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF, which browsers pass over too; the picture is whole
        return image


def _rgb(image: "Image") -> RgbImage:
    from PIL import Image

    if image.mode in DEEP_MODES:
        return np.repeat(_eight_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.new("RGB", layer.size, "white")
        image.paste(layer, mask=layer)
    return np.array(image.convert("RGB"))


def _eight_bits(deep: NDArray[Any]) -> RgbImage:
    """Scale one channel to 0..255: unsigned 16 bits by what they can hold, anything else by what it does hold."""
    eight = np.empty(deep.shape, np.uint8)
    rows = [slice(start, start + ROWS) for start in range(0, len(deep), ROWS)]
    low = min(float(_finite(deep[row]).min()) for row in rows)
    high = max(float(_finite(deep[row]).max()) for row in rows)
    # Pillow reads some 16-bit files in a signed 32-bit mode; these are scaled as the 16 bits they are.
    if deep.dtype.kind in "ui" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    for row in rows:
        eight[row] = np.round((_finite(deep[row]) - low) / max(high - low, np.finfo(float).tiny) * 255)
    return eight


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    finite: NDArray[np.float64] = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    return finite
