"""An image file as arrays, in any format, orientation, depth and colours: `open_pages` is the one way in."""

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from models.data.depth import Scale
from models.data.dicom import DicomPages, is_dicom
from models.data.pages import BadImage, Pages, RgbImage
from models.data.pictures import FORMATS, open_picture, rgb_array
from models.data.tiff import TiffPages
from models.data.tiff_header import MAGIC as TIFF_MAGIC
from models.data.video import VideoPages, container

__all__ = ["Pages", "RgbImage", "decode_image", "decode_page", "open_pages", "rgb_array"]

SUPPORTED = (*FORMATS, "DICOM", "AVI", "MP4", "MOV", "Matroska")
# Files that are whole, but nothing that is read, by what they begin with in lower case.
OTHERS = {
    b"<!doc": "a web page, probably a login",
    b"<html": "a web page, probably a login",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file, perhaps an SVG drawing",
    b"%pdf": "a PDF",
    b"%!ps": "a PostScript file",
    b"pk\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a Git LFS pointer instead of the file",
    b"8bps": "a Photoshop file",
    b"v/1\x01": "an OpenEXR file",
    b"#?radiance": "a Radiance HDR file",
    b"simple  =": "a FITS file",
    b"\x89hdf": "an HDF5 file",
    b"nrrd": "an NRRD file",
    b"\xff\x0a": "a JPEG XL file",
    b"\0\0\0\x0cjxl ": "a JPEG XL file",
    b"ii\xbc": "a JPEG XR file",
    b"ii\x55\0": "a camera's raw picture",
    b"\0\0\1\0": "a Windows icon",
    b"\x93numpy": "a NumPy array",
}
DAMAGED = {
    b"\x89png": "a damaged PNG",
    b"\xff\xd8": "a damaged JPEG",
    b"gif8": "a damaged GIF",
    b"riff": "a damaged WebP, or a sound",
    b"bm": "a damaged BMP",
}


def decode_image(data: bytes | bytearray, max_pixels: int, page: int = 0) -> RgbImage:
    """Decode one page of an image as a browser shows it.

    EXIF orientation is applied, transparency becomes white, and deeper samples than 8 bits are scaled by the rule of
    `models.data.depth`.

    Args:
        data: a file's contents.
        max_pixels: a larger image is an error, raised before it is decoded.
        page: 0 for the first.

    Returns:
        Array of shape (H, W, 3), uint8, RGB.

    Raises:
        ValueError: not an image, damaged, too large, of an unsupported kind, or without such a page.
    """
    with open_pages(data, max_pixels) as pages:
        return decode_page(pages, page)


def decode_page(pages: Pages, page: int) -> RgbImage:
    """One page of an open file; raises ValueError as `decode_image` does."""
    if not 0 <= page < len(pages):
        raise ValueError(f"it has {len(pages)} pages, page {page + 1} is asked for")
    return pages.read(page)


def open_pages(source: bytes | bytearray | Path, max_pixels: int, scale: Scale | None = None) -> Pages:
    """Open an image, a stack, an animation or a film, whose pages are then read one by one.

    Args:
        source: a file, or its contents.
        max_pixels: a file with a larger page is an error, raised before it is decoded.
        scale: of the series that a DICOM file is of, as `series_scale` gives it.

    Returns:
        The pages, to be closed by the caller.

    Raises:
        OSError: the file cannot be opened.
        ValueError: not an image, damaged, too large, or of an unsupported kind, which the message names.
    """
    file: BinaryIO = _opened_file(source) if isinstance(source, Path) else BytesIO(source)
    head = b""
    try:
        head = file.read(352)
        return _Described(_opened(file, head, max_pixels, scale), head)
    except BadImage:
        file.close()
        raise
    except Exception as error:
        file.close()
        raise _described(error, head) from error


def is_pipe(path: Path) -> bool:
    """Whether a path is that of a pipe, a socket or a device, whose reader may wait for ever."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _opened_file(path: Path) -> BinaryIO:
    if is_pipe(path):
        raise BadImage("it is a pipe or a device, and no file")
    return path.open("rb")


def _opened(file: BinaryIO, head: bytes, max_pixels: int, scale: Scale | None) -> Pages:
    if is_dicom(head):  # first, since its preamble may be the beginning of a TIFF
        pages = DicomPages(file, max_pixels)
        pages.scale = scale
        return pages
    if head.startswith(TIFF_MAGIC):
        return TiffPages(file, max_pixels)
    film = container(head)
    if film is not None:
        return VideoPages(file, max_pixels, film)
    return open_picture(file, max_pixels)


class _Described(Pages):
    """Pages whose errors are ValueErrors in our words, for every error of a library."""

    def __init__(self, pages: Pages, head: bytes) -> None:
        self._pages, self._head = pages, head
        self.sizes, self.names, self.notes = pages.sizes, pages.names, pages.notes

    def read(self, index: int) -> RgbImage:
        """As the base class says."""
        if not 0 <= index < len(self):
            raise IndexError(f"page {index} of {len(self)}")
        try:
            return self._pages.read(index)
        except BadImage:
            raise
        except Exception as error:
            raise _described(error, self._head) from error

    def close(self) -> None:
        """As the base class says."""
        self._pages.close()


def _described(error: Exception, head: bytes) -> ValueError:
    """An error of a library in our words. They raise all kinds on damaged files: struct.error, KeyError ..."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, Image.DecompressionBombError):
        return ValueError(f"it is too large: {error}")
    if isinstance(error, UnidentifiedImageError):
        return ValueError(f"it is {_kind(head)}; supported are {', '.join(SUPPORTED)}")
    if isinstance(error, MemoryError):
        return ValueError("it takes more memory to decode than there is")
    return ValueError(f"it is damaged or of a kind that cannot be read: {error}")


def _kind(head: bytes) -> str:
    if not head:
        return "empty"
    if head[4:8] == b"ftyp":
        return f"a picture of the HEIF family ({head[8:12].decode('ascii', 'replace')})"
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return "a NIfTI file"
    start = head[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((name for magic, name in (OTHERS | DAMAGED).items() if start.startswith(magic)), "not an image")
