"""Files that Pillow reads: PNG, JPEG, BMP, GIF, WebP, AVIF, PPM, JPEG 2000; and deep ones that it does not keep."""

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.data.depth import measured_scale, scale_of_bits
from models.data.pages import BadImage, Pages, RgbImage, UnsupportedImage, check_count, check_size, numbered, upright

# Formats of pictures only: Pillow would also hand PostScript to an interpreter. JPEG includes cameras' MPO.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "PPM", "JPEG2000")
ANIMATED = ("PNG", "GIF", "WEBP", "AVIF")
# Pillow's modes of one channel with more than eight bits.
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# A progressive JPEG comes in about ten scans. Each costs a pass over all pixels, so a small file of thousands of empty
# scans would keep the decoder busy for an hour.
START_OF_SCAN, MAX_SCANS = b"\xff\xda", 100
ORIENTATION = 0x0112
JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
CODESTREAM = b"\xff\x4f\xff\x51"  # start of codestream, size
SYCC = b"colr\x01\0\0\0\0\0\x12"  # colours as brightness and differences
MAX_TILES = 65_535  # as many as JPEG 2000 can number
PNG_START = b"\x89PNG\r\n\x1a\n"
SWAPPED = (5, 6, 7, 8)  # orientations that swap width and height
BAND = 256  # rows converted at a time, so that a large picture is never copied as a whole


class Pictures(Pages):
    """A picture, or the frames of an animation."""

    def __init__(self, file: BinaryIO, max_pixels: int) -> None:
        """Raises ValueError from the header alone; Pillow's plugins raise other errors too where it is damaged."""
        self._file = file
        self._image = self._opened()
        width, height = self._image.size
        self._orientation = _orientation(self._image)
        check_size(width, height, max_pixels)
        if self._image.format in ("JPEG", "MPO"):
            file.seek(0)
            if file.read().count(START_OF_SCAN) > MAX_SCANS:
                raise BadImage(f"it is a JPEG of more than {MAX_SCANS} scans, which no camera writes; save it again")
        count = int(getattr(self._image, "n_frames", 1)) if self._image.format in ANIMATED else 1
        check_count(count)
        shape = (width, height) if self._orientation in SWAPPED else (height, width)
        self.sizes = [shape] * count
        self.names = numbered(count)
        views = int(getattr(self._image, "n_frames", 1))
        if self._image.format == "MPO" and views > 1:
            self.notes = (f"it has {views} views, of which the first is shown",)

    def read(self, index: int) -> RgbImage:
        """As the base class says."""
        if index < self._image.tell():  # Pillow does not go back in every format
            self._image = self._opened()
        for frame in range(self._image.tell(), index + 1) if len(self) > 1 else ():
            self._image.seek(frame)
            self._image.load()
        self._image.load()
        return upright(_rgb(self._image), self._orientation)

    def _opened(self) -> Any:
        from PIL import Image

        self._file.seek(0)
        head = self._file.read(26)
        image = Image.open(self._file, formats=FORMATS)
        key = image.info.get("transparency")
        if image.format == "PNG" and image.mode == "L" and head[24] in (2, 4) and isinstance(key, int):
            # Pillow widens the samples, but not the one that is transparent.
            image.info["transparency"] = key * 255 // ((1 << head[24]) - 1)
        return image

    def close(self) -> None:
        """As the base class says."""
        self._image.close()
        self._file.close()


class DeepPicture(Pages):
    """A picture of more than 8 bits a sample, or a lossless JPEG: imagecodecs keeps all of them.

    Pillow turns white into black in deep colours of JPEG 2000: it rounds up beyond 255.
    """

    def __init__(self, file: BinaryIO, max_pixels: int, kind: str) -> None:
        """`kind` is "png", "jpeg8", "jpegls" or "jpeg2k", as imagecodecs has it. Raises ValueError: large, damaged."""
        self._file, self._kind = file, kind
        file.seek(0)
        data = file.read()
        if kind == "png":
            header = _png_header(file, data)
        else:
            header = jpeg2k_header(data) if kind == "jpeg2k" else _jpeg_header(data)
        width, height, samples, self._stated = header
        check_size(width, height, max_pixels, 2 * samples)
        self._orientation = 1
        if kind == "png":
            from PIL import Image

            with Image.open(file, formats=("PNG",)) as image:
                self._orientation = _orientation(image)
        self._data = data
        self.sizes = [(width, height) if self._orientation in SWAPPED else (height, width)]
        self.names = numbered(1)

    def read(self, index: int) -> RgbImage:
        """As the base class says."""
        import imagecodecs

        samples: NDArray[Any] = getattr(imagecodecs, f"{self._kind}_decode")(self._data)
        if samples.ndim == 2:
            samples = samples[:, :, None]
        colours = samples.shape[2] - (samples.shape[2] in (2, 4))
        shown = samples[:, :, :colours]
        told = scale_of_bits(self._stated) if self._kind == "jpeg2k" and self._stated else None
        eight = (told or measured_scale([shown], 1, self._stated)).apply(shown)
        if colours < samples.shape[2]:
            opaque = told.high if told else np.iinfo(samples.dtype).max
            eight = on_white(eight, samples[:, :, colours].astype(np.float32) / opaque)
        return upright(grey_or_rgb(eight), self._orientation)

    def close(self) -> None:
        """As the base class says."""
        self._file.close()


def open_picture(file: BinaryIO, max_pixels: int) -> Pages:
    """A picture of whichever of these kinds it is; raises ValueError, and Pillow's errors where it is damaged."""
    file.seek(0)
    head = file.read(26)
    if head.startswith(PNG_START) and head[24:25] == b"\x10" and head[25:26] != b"\x03":
        return DeepPicture(file, max_pixels, "png")
    if head.startswith(b"\xff\xd8"):
        file.seek(0)
        marker, bits = _frame(file.read())
        if marker in (0xF7,):
            return DeepPicture(file, max_pixels, "jpegls")
        if marker == 0xC3 or (marker in (0xC0, 0xC1, 0xC2) and bits == 12):
            return DeepPicture(file, max_pixels, "jpeg8")
        if marker in (0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF):
            raise UnsupportedImage("it is a JPEG with arithmetic or hierarchical coding, which is not supported")
    if head.startswith(JPEG_2000):
        file.seek(0)
        data = file.read()
        _, _, samples, depth = jpeg2k_header(data)
        if samples > 1 and depth is not None and depth > 8 and SYCC not in data:
            return DeepPicture(file, max_pixels, "jpeg2k")
    file.seek(0)
    return Pictures(file, max_pixels)


def jpeg2k_header(data: bytes) -> tuple[int, int, int, int | None]:
    """Width, height, samples a pixel and bits a sample of JPEG 2000; raises BadImage: damaged, or of too many tiles."""
    start = data.find(CODESTREAM)
    if start < 0 or len(data) < start + 43:
        raise BadImage("it is a damaged JPEG 2000: it has no header of its samples")
    right, bottom, left, top, tile_width, tile_height, *_ = struct.unpack_from(">8I", data, start + 8)
    samples, bits = struct.unpack_from(">HB", data, start + 40)
    if not tile_width or not tile_height or -(-right // tile_width) * -(-bottom // tile_height) > MAX_TILES:
        raise BadImage("it is a damaged JPEG 2000: it claims too many tiles")
    return right - left, bottom - top, samples, None if bits & 128 else bits + 1  # the upper bit: they have a sign


def rgb_array(image: Any) -> RgbImage:
    """A Pillow image as an array of shape (H, W, 3), uint8, RGB, turned as its EXIF orientation says."""
    orientation = _orientation(image)
    image.load()
    return upright(_rgb(image), orientation)


def grey_or_rgb(eight: NDArray[np.uint8]) -> RgbImage:
    """An array (H, W, 1) or (H, W, 3) as RGB."""
    return np.asarray(np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight)


def on_white(eight: NDArray[np.uint8], share: NDArray[Any]) -> NDArray[np.uint8]:
    """Colours (H, W, C) with an opacity (H, W) in [0, 1], laid on white."""
    laid: NDArray[np.uint8] = np.round(255 + (eight.astype(np.float32) - 255) * share[:, :, None]).astype(np.uint8)
    return laid


def _orientation(image: Any) -> int:
    try:
        # Pillow would decode a PNG here, to look for EXIF behind its pixels.
        if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
            return _late_orientation(image.fp) if image.fp is not None else 1
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF, which browsers pass over too; the picture is whole
        return 1


def _late_orientation(file: BinaryIO) -> int:
    """The orientation in a chunk behind a PNG's pixels; 1 without it. The file's position stays."""
    from PIL import Image

    place = file.tell()
    try:
        for name, at, length in _chunks(file):
            if name == b"eXIf":
                file.seek(at)
                exif = Image.Exif()
                exif.load(b"Exif\0\0" + file.read(length))
                return int(exif.get(ORIENTATION, 1))
    finally:
        file.seek(place)
    return 1


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Name, position of the contents and their length, of each chunk of a PNG."""
    at = len(PNG_START)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length, name = struct.unpack(">I4s", head)
        yield name, at + 8, length
        at += 12 + length


def _rgb(image: Any) -> RgbImage:
    if image.mode in DEEP_MODES:
        deep = np.asarray(image)
        # PGM and JPEG 2000 state their depth, and Pillow has widened their samples to 16 bits.
        told = image.format in ("PPM", "JPEG2000") and image.mode != "F"
        scale = scale_of_bits(16) if told else measured_scale([deep], 1)
        return grey_or_rgb(scale.apply(deep)[:, :, None])
    if image.format == "BMP" and image.mode == "RGBA" and image.getextrema()[3] == (0, 0):
        image = image.convert("RGB")  # the byte is not used: browsers show such a picture, too
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, BAND):
        rgb[top : top + BAND] = _band(image, top, min(top + BAND, image.height))
    return rgb


def _band(image: Any, top: int, bottom: int) -> RgbImage:
    from PIL import Image

    band = image.crop((0, top, image.width, bottom))
    if band.has_transparency_data:
        layer = band.convert("RGBA")
        band = Image.new("RGB", layer.size, "white")
        band.paste(layer, mask=layer)
    return np.asarray(band.convert("RGB"))


def _png_header(file: BinaryIO, data: bytes) -> tuple[int, int, int, int | None]:
    """Width, height, samples a pixel and the significant bits that its sBIT states."""
    width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
    stated = None
    for name, at, length in _chunks(file):
        if name in (b"IDAT", b"PLTE"):
            break
        if name == b"sBIT":
            stated = max(data[at : at + min(length, 1 if colour in (0, 4) else 3)], default=0)
    return width, height, {0: 1, 2: 3, 4: 2, 6: 4}.get(colour, 1), stated if stated and 8 <= stated < 16 else None


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and position of the segments of a JPEG up to its first scan."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        yield marker, at
        if marker in (0xDA, 0xD9):
            return
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _frame(data: bytes) -> tuple[int, int]:
    """The marker that tells a JPEG's coding, and its bits a sample; zeros where there is none."""
    for marker, at in _segments(data):
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return (marker, data[at + 4]) if at + 5 <= len(data) else (0, 0)
    return 0, 0


def _jpeg_header(data: bytes) -> tuple[int, int, int, int | None]:
    marker = _frame(data)[0]
    at = next(at for found, at in _segments(data) if found == marker)
    bits, height, width, samples = struct.unpack_from(">BHHB", data, at + 4)
    return width, height, samples, bits if bits < 16 else None
