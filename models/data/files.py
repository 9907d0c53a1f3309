"""Image and mask files as arrays."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.data.decoding import Pages, RgbImage, open_pages
from models.data.depth import Scale
from models.data.pictures import DEEP_MODES, FORMATS
from models.data.tiff_header import MAGIC as TIFF_MAGIC
from models.data.tiff_header import check_tiff
from models.errors import DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"),
    *(".gif", ".jp2", ".j2k", ".pgm", ".ppm", ".btf", ".dcm", ".dicom"),
    *(".avif", ".jfif", ".jpe", ".mpo", ".apng", ".dib", ".pnm", ".pbm", ".pfm", ".jpx", ".jpf", ".j2c", ".jpc"),
)
VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg")
MIN_FLAT = 0.2  # share of flat pixels from which a mask's middle values are areas of their own
# Larger pictures are refused before they are decoded: they would fill the memory, and masks of so many pixels too.
MAX_PIXELS = 64_000_000


def open_image(path: Path, scale: Scale | None = None) -> Pages:
    """The pages of an image file, as `open_pages` gives them, up to MAX_PIXELS each.

    Args:
        path: the file.
        scale: as for `open_pages`.

    Raises:
        DataError: names the file and the cause.
    """
    try:
        return open_pages(path, MAX_PIXELS, scale)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def read_image(path: Path, page: int = 0) -> RgbImage:
    """One page of an image file, decoded as `open_pages` says, up to MAX_PIXELS.

    Raises:
        DataError: names the file and the cause.
    """
    with open_image(path) as pages:
        try:
            return pages.read(page)
        except (ValueError, IndexError) as error:
            raise DataError(f"{path} cannot be read as an image: {error}") from error


def has_dicom_preamble(path: Path) -> bool:
    """Whether a file of any name is DICOM, by its first bytes; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def image_shape(path: Path, page: int = 0) -> tuple[int, int]:
    """Height and width of a page as a browser shows it, without decoding it.

    Raises:
        DataError: names the file, which is no image, has more than MAX_PIXELS, or no such page.
    """
    with open_image(path) as pages:
        if not 0 <= page < len(pages):
            raise DataError(f"{path} has {len(pages)} pages, page {page + 1} is asked for")
        return pages.sizes[page]


def read_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask file: grey, black outside the object and white inside, of 8 or 16 bits.

    Colours count only if they are greys, and a transparent pixel is outside.

    Args:
        path: an image file.
        shape: (H, W) that it must have.

    Returns:
        Array of that shape, bool: more than half as bright as white.

    Raises:
        DataError: names the file, and what to do where it is no such mask: of another size, coloured, transparent
            only, or of numbers of classes or objects.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with path.open("rb") as file, Image.open(_checked(file), formats=FORMATS) as image:
            width, height = image.size
            if (height, width) != shape:
                raise DataError(
                    f"{path} is {width}x{height}, but its image is {shape[1]}x{shape[0]}; export it at the image's size"
                )
            if (pages := getattr(image, "n_frames", 1)) > 1:
                raise DataError(f"{path} has {pages} pages, and a mask has one; write a file for each image and class")
            values = _grey(path, image)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path} cannot be read as a mask: it is no image; export it again as a PNG") from error
    except Exception as error:
        raise DataError(f"{path} cannot be read as a mask: {error}; export it again as a PNG") from error
    brightest = int(values.max())
    # Sixteen bits may hold 0 and 255 as well as 0 and 65535.
    white = 255 if brightest <= 255 else 65535
    advice = "if they are numbers of classes or objects, write a file for each class"
    if 0 < brightest <= white // 2:
        advice = "multiply them by 255" if brightest == 1 else advice
        raise DataError(f"{path} has values up to {brightest} where a mask has 0 outside and {white} inside; {advice}")
    if (darkest := int(values.min())) > white // 2 and brightest - darkest > white // 16:
        raise DataError(
            f"{path} has values from {darkest} to {brightest} where a mask has 0 outside and {white} inside; {advice}"
        )
    if (between := _area_between(values, white)) is not None:
        raise DataError(f"{path} has areas of {between} where a mask has 0 outside and {white} inside; {advice}")
    return np.asarray(values > white // 2)


def _area_between(values: NDArray[Any], white: int) -> int | None:
    """A value between darkest and brightest that covers areas, as numbers of objects do; None where there is none.

    Soft edges and a JPEG's noise have such values too, but seldom a pixel among eight that equal it.
    """
    margin = white // 16
    middle = (values > int(values.min()) + margin) & (values < int(values.max()) - margin)
    if not middle.any():
        return None
    flat = middle[1:-1, 1:-1].copy()
    height, width = values.shape
    for down in range(3):
        for right in range(3):
            flat &= values[down : height - 2 + down, right : width - 2 + right] == values[1:-1, 1:-1]
    if flat.sum() < MIN_FLAT * middle.sum():
        return None
    return int(values[1:-1, 1:-1][flat][0])


def _checked(file: BinaryIO) -> BinaryIO:
    """The file, at its beginning. Raises ValueError where it is a TIFF whose header alone would cost much."""
    if file.read(4) in TIFF_MAGIC:
        check_tiff(file, MAX_PIXELS)
    file.seek(0)
    return file


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
    elif not opaque.any() and (layers[..., :3] != layers[0, 0, :3]).any():
        what = "is transparent throughout, what it shows too"
    if what:
        raise DataError(f"{path} {what}; a mask is grey, 0 outside the object and 255 inside, a file for each class")
    return np.asarray(colours[..., 0])
