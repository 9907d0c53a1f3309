"""An image or mask file as an array, whatever its format, orientation and colours."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import DataError

RgbImage = NDArray[np.uint8]

# Larger pictures are refused before they are decoded: they would fill the memory, and masks of so many pixels too.
MOST_PIXELS = 64_000_000

# Formats of pictures only: Pillow would also hand PostScript to an interpreter. JPEG includes cameras' MPO.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
# Pillow's modes of one channel with more than eight bits.
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# Pillow's plugins raise these on damaged files.
DAMAGED = (OSError, SyntaxError, EOFError, IndexError, TypeError, OverflowError, MemoryError)


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
    from PIL import Image, ImageOps, UnidentifiedImageError

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
    except (*DAMAGED, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"it is damaged or too large: {error}") from error


def read_image(path: Path) -> RgbImage:
    """An image file as `decode_image` decodes it, up to MOST_PIXELS.

    Raises:
        DataError: names the file and the cause.
    """
    try:
        return decode_image(path.read_bytes(), MOST_PIXELS)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def read_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask file: grey, black outside the object and white inside, of 8 or 16 bits.

    Colours count only if they are greys, and a transparent pixel is outside.

    Args:
        path: an image file.
        shape: (H, W) that it must have.

    Returns:
        Array of that shape, bool: at least half as bright as white.

    Raises:
        DataError: names the file, and what to do where it is no such mask: of another size, coloured, transparent
            only, or of labels 0, 1, 2 ...
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if (height, width) != shape:
                raise DataError(
                    f"{path} is {width}x{height}, but its image is {shape[1]}x{shape[0]}; export it at the image's size"
                )
            values = _grey(path, image)
    except (*DAMAGED, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a mask: {error}; export it again as a PNG") from error
    brightest = int(values.max())
    if 0 < brightest < 128:
        advice = "multiply them by 255" if brightest == 1 else "if they are numbers of classes, write a file for each"
        raise DataError(f"{path} has values up to {brightest} where a mask has 0 outside and 255 inside; {advice}")
    # Sixteen bits may hold 0 and 255 as well as 0 and 65535.
    return np.asarray(values >= (128 if brightest <= 255 else 32768))


def _grey(path: Path, image: Any) -> NDArray[Any]:
    """The values of a grey picture in any mode, shape (H, W); 0 where it is transparent."""
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))
    if image.mode in DEEP_MODES:
        return np.asarray(image)
    layers = np.asarray(image.convert("RGBA"))  # (H, W, 4)
    opaque = layers[..., 3] >= 128
    colours = layers[..., :3] * opaque[..., None]
    what = "is coloured" if (colours != colours[..., :1]).any() else ""
    if not colours.any() and opaque.any() and not opaque.all():
        what = "is black and shows its object by transparency alone"
    if what:
        raise DataError(f"{path} {what}; a mask is grey, 0 outside the object and 255 inside, a file for each class")
    return np.asarray(colours[..., 0])


def _rgb(image: Any) -> RgbImage:
    from PIL import Image

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
