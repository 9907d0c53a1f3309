"""TIFF files as pages: stacks, BigTIFF, OME, ImageJ, any depth, any compression that imagecodecs reads."""

import logging
import math
import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.data.depth import Scale, measured_scale, scale_of_bits
from models.data.pages import BadImage, Pages, RgbImage, UnsupportedImage, check_count, check_size, numbered, upright
from models.data.pictures import grey_or_rgb, on_white, rgb_array
from models.data.tiff_header import check_tiff

REDUCED, TRANSPARENCY = 1, 4  # bits of NewSubfileType
ORIENTATION, PAGE_NAME, MAX_SAMPLE, SMAX_SAMPLE, INK_SET, NO_DATA = 274, 285, 281, 341, 332, 42113
OME_BITS = re.compile(r'SignificantBits="(\d{1,2})"')
ASSOCIATED, UNASSOCIATED = 1, 2  # kinds of alpha


class TiffPages(Pages):
    """The pages of a TIFF; previews, transparency masks and reduced copies of a page are left out.

    Of a page of several unnamed channels the first counts, of exactly three they are red, green and blue. Where a file
    of more than 8 bits states a value that stands for no data, as maps do, it is black and does not count.
    """

    def __init__(self, file: BinaryIO, max_pixels: int) -> None:
        """Raises ValueError from the header alone: damaged, too large, of an unsupported kind."""
        import tifffile

        check_tiff(file, max_pixels)
        file.seek(0)
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is raised, too
        self._bytes = file
        # OME's XML may name other files to be opened, so it is passed over here.
        self._file = tifffile.TiffFile(file, is_ome=False)
        pages: list[Any] = [self._file.pages[index] for index in range(len(self._file.pages))]
        whole = [page for page in pages if not int(page.subfiletype) & (REDUCED | TRANSPARENCY)]
        whole = [page for page in whole if page is whole[0] or not _is_level(page, whole[0])]
        self._pages = whole or pages
        self._planes = self._contiguous_planes()
        first = self._pages[0]
        notes = []
        if len(whole) not in (0, len(pages)):
            notes.append(f"{len(pages) - len(whole)} previews or masks in it are left out")
        for page in self._pages:
            self._check(page)
            check_size(page.imagewidth, page.imagelength, max_pixels, page.dtype.itemsize * page.samplesperpixel)
        unshown = _channels(first) - len(_taken(first)) - bool(_alpha(first))
        if unshown:
            first_three = "the first three are shown as red, green and blue"
            shown = first_three if len(_taken(first)) > 1 else "the first is shown"
            notes.append(f"it has {_channels(first)} channels, of which {shown}")
        self.notes = tuple(notes)
        if self._planes:
            self.sizes = [_size(first)] * self._planes
        elif any(page.imagedepth > 1 for page in self._pages):
            raise UnsupportedImage("it is a TIFF whose pages are volumes (ImageDepth), which is not supported")
        else:
            self.sizes = [_size(page) for page in self._pages]
        check_count(len(self.sizes))
        self.names = self._names()
        self._scales: dict[Any, Scale] = {}

    def read(self, index: int) -> RgbImage:
        """As the base class says."""
        page = self._pages[0 if self._planes else index]
        try:
            samples = self._samples(index)
        except NotImplementedError:
            return self._read_by_pillow(page)
        image = _coloured(page, samples, self._scale(page))
        return upright(image, _tag(page, ORIENTATION, 1))

    def close(self) -> None:
        """As the base class says."""
        self._file.close()
        self._bytes.close()

    def _contiguous_planes(self) -> int:
        """Planes of a stack that has one directory only, as ImageJ writes large ones; 0 of any other file."""
        page = self._pages[0]
        if len(self._pages) > 1 or not page.is_contiguous or page.dtype is None:
            return 0
        planes = 0
        if self._file.is_imagej:
            planes = int((self._file.imagej_metadata or {}).get("images", 1))
        elif self._file.is_shaped:
            shape = (self._file.shaped_metadata or [{}])[0].get("shape", ())
            planes = math.prod(shape) // math.prod(page.shape)
        room = (self._file.filehandle.size - page.dataoffsets[0]) // max(page.nbytes, 1)
        return planes if 1 < planes <= room else 0

    def _names(self) -> list[str]:
        names = numbered(len(self.sizes))
        labels = (self._file.imagej_metadata or {}).get("Labels", []) if self._file.is_imagej else []
        for index in range(len(names)):
            own = labels[index] if index < len(labels) else None
            if not self._planes:
                own = own or _tag(self._pages[index], PAGE_NAME, None)
            if isinstance(own, str) and own.strip():
                names[index] = own.strip()
        return names

    def _check(self, page: Any) -> None:
        import tifffile

        kind = page.photometric
        if page.dtype is None or page.dtype.kind == "c" or page.sampleformat in (5, 6):
            bits = page.bitspersample
            numbers = {5: "complex integers", 6: "complex numbers"}.get(int(page.sampleformat), "numbers")
            raise UnsupportedImage(f"it is a TIFF of {bits}-bit {numbers}, which is not supported")
        known = tifffile.PHOTOMETRIC
        if kind in (known.CFA, known.LINEAR_RAW):
            raise UnsupportedImage("it is a camera's raw picture, which is to be exported first")
        if kind in (known.LOGL, known.LOGLUV):
            raise UnsupportedImage("it is a TIFF in LogLuv colours, which is not supported")
        if kind in (known.CIELAB, known.ICCLAB, known.ITULAB) and page.bitspersample != 8:
            raise UnsupportedImage(f"it is a TIFF in Lab colours of {page.bitspersample} bits, which is not supported")
        if kind == known.SEPARATED and (_tag(page, INK_SET, 1) != 1 or page.samplesperpixel < 4):
            raise UnsupportedImage("it is a TIFF in inks other than cyan, magenta, yellow and black")

    def _samples(self, index: int) -> NDArray[Any]:
        """Samples of a page, shape (H, W, S)."""
        page = self._pages[0 if self._planes else index]
        if self._planes:
            offset = page.dataoffsets[0] + index * page.nbytes
            dtype = page.dtype.newbyteorder(self._file.byteorder)
            samples = self._file.filehandle.read_array(dtype, math.prod(page.shape), offset).reshape(page.shape)
        else:
            try:
                samples = page.asarray(maxworkers=1)
            except (ValueError, KeyError) as error:
                if "requires" in str(error) or "not supported" in str(error):
                    raise UnsupportedImage(
                        f"it is a TIFF compressed by {getattr(page.compression, 'name', page.compression)}, "
                        f"which is not supported: {error}"
                    ) from error
                raise
        if samples.ndim == 2:
            samples = samples[:, :, None]
        elif page.planarconfig == 2:
            samples = np.moveaxis(samples, 0, 2)
        if samples.shape != (page.imagelength, page.imagewidth, page.samplesperpixel):
            raise BadImage(f"a page has samples of shape {samples.shape}")
        native: NDArray[Any] = samples.astype(samples.dtype.newbyteorder("="), copy=False)
        return native

    def _scale(self, page: Any) -> Scale:
        """The scale of all pages of the dtype and depth of this one."""
        kind = (page.dtype, page.bitspersample)
        if kind not in self._scales:
            self._scales[kind] = self._new_scale(page, kind)
        return self._scales[kind]

    def _new_scale(self, page: Any, kind: Any) -> Scale:
        if _palette(page):
            return scale_of_bits(16)
        same = [
            index
            for index in range(len(self.sizes))
            if self._planes or (self._pages[index].dtype, self._pages[index].bitspersample) == kind
        ]
        arrays = (_with_data(page, self._samples(index)[:, :, _taken(page)]) for index in same)
        return measured_scale(arrays, len(same), self._stated_bits(page))

    def _stated_bits(self, page: Any) -> int | None:
        """Bits that count, as a tag states them; None where that is all that the numbers hold."""
        if page.dtype.kind not in "uib":
            return None
        if page.bitspersample not in (8, 16, 32, 64):
            return int(page.bitspersample)
        if page.dtype.kind == "i" or page.bitspersample == 8:
            return None
        description = self._pages[0].description[:100_000]
        ome = OME_BITS.search(description) if "OME" in description else None
        bits = int(ome[1]) if ome else 0
        for tag in (SMAX_SAMPLE, MAX_SAMPLE):
            value = _tag(page, tag, 0)
            value = max(value) if isinstance(value, tuple) and value else value
            if not bits and isinstance(value, int | float) and 255 < value < 65535:
                bits = int(value).bit_length()
        return bits if 8 <= bits < 16 else None

    def _read_by_pillow(self, page: Any) -> RgbImage:
        """A page that tifffile does not unpack: colours of lower resolution than brightness, without JPEG."""
        from PIL import Image

        self._bytes.seek(0)
        with Image.open(self._bytes, formats=("TIFF",)) as image:
            image.seek(page.index)
            return rgb_array(image)


def _tag(page: Any, code: int, default: Any) -> Any:
    tag = page.tags.get(code)
    return default if tag is None else tag.value


def _is_level(page: Any, first: Any) -> bool:
    """Whether a page is the first again, smaller, in a pyramid that does not say so, as microscopes write them."""
    if not (first.is_tiled or first.is_svs or first.is_ndpi) or page.imagewidth >= first.imagewidth:
        return False
    factor = first.imagewidth / page.imagewidth
    return bool(
        abs(first.imagelength / factor - page.imagelength) <= 1 and page.samplesperpixel == first.samplesperpixel
    )


def _no_data(page: Any) -> float | None:
    """The value that stands for no data; None where there is none, and for 8 bits, which are shown as they are."""
    try:
        value = float(str(_tag(page, NO_DATA, "")).strip("\0 "))
    except ValueError:
        return None
    return None if page.dtype == np.uint8 or np.isnan(value) else value


def _is_empty(samples: NDArray[Any], value: float) -> NDArray[np.bool_]:
    """Where all samples (H, W, S) of a pixel are a value, which may be written in more digits than they have."""
    if samples.dtype.kind == "f":
        value = float(samples.dtype.type(np.clip(value, np.finfo(samples.dtype).min, np.finfo(samples.dtype).max)))
    return np.asarray((samples == value).all(axis=2))


def _with_data(page: Any, samples: NDArray[Any]) -> NDArray[Any]:
    value = _no_data(page)
    return samples if value is None else samples[~_is_empty(samples, value)]


def _size(page: Any) -> tuple[int, int]:
    height, width = int(page.imagelength), int(page.imagewidth)
    return (width, height) if _tag(page, ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)


def _palette(page: Any) -> bool:
    return int(page.photometric) == 3 and page.colormap is not None


def _channels(page: Any) -> int:
    return int(page.samplesperpixel)


def _alpha(page: Any) -> int:
    """The kind of alpha that follows the colours: 0 for none."""
    extras = tuple(int(extra) for extra in page.extrasamples)
    colours = _channels(page) - len(extras)
    return extras[0] if extras and extras[0] in (ASSOCIATED, UNASSOCIATED) and colours in (1, 3) else 0


def _taken(page: Any) -> list[int]:
    """Samples that make the picture, without alpha."""
    count = _channels(page)
    kind = int(page.photometric)
    if kind == 5:  # four inks
        return [0, 1, 2, 3]
    if kind in (2, 6, 8, 9) or (kind in (0, 1) and count == 3 and not _alpha(page)):
        return [0, 1, 2] if count >= 3 else [0]
    return [0]


def _coloured(page: Any, samples: NDArray[Any], scale: Scale) -> RgbImage:
    """Samples (H, W, S) of a page as (H, W, 3) uint8 RGB, not yet turned."""
    from PIL import Image

    kind = int(page.photometric)
    if _palette(page):
        colours = np.asarray(page.colormap)  # (3, 2**bits)
        table = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
        indices = samples[:, :, 0]
        if int(indices.max()) >= table.shape[1]:
            raise BadImage("it is a damaged TIFF: a pixel has a colour that its palette does not hold")
        return np.ascontiguousarray(table.T[indices])
    shown = samples[:, :, _taken(page)]
    eight = scale.apply(shown)
    if kind == 0:
        eight = 255 - eight
    elif kind == 5:
        return np.array(Image.fromarray(np.ascontiguousarray(eight), "CMYK").convert("RGB"))
    elif kind in (8, 9) and eight.shape[2] == 3:
        # Pillow's bytes are the CIE's, with signed a and b; those of ICC are offset by 128.
        lab = eight if kind == 8 else eight ^ np.array([0, 128, 128], np.uint8)
        return np.array(Image.frombytes("LAB", (lab.shape[1], lab.shape[0]), lab.tobytes()).convert("RGB"))
    elif kind == 6 and eight.shape[2] == 3 and int(page.compression) not in (6, 7):
        return np.array(Image.fromarray(np.ascontiguousarray(eight), "YCbCr").convert("RGB"))
    eight = grey_or_rgb(eight)
    nothing = _no_data(page)
    if nothing is not None:
        eight = np.where(_is_empty(shown, nothing)[:, :, None], np.uint8(0), eight)
    alpha = _alpha(page)
    if alpha:
        opaque = samples[:, :, len(_taken(page))]
        if opaque.dtype.kind == "f":
            share = np.nan_to_num(opaque.astype(np.float32)).clip(0, 1)
        else:
            bits = page.bitspersample - (opaque.dtype.kind == "i")
            share = (opaque.astype(np.float32) / ((1 << bits) - 1)).clip(0, 1)
        if alpha == UNASSOCIATED:
            eight = on_white(eight, share)
        else:
            eight = np.round(eight + 255 * (1 - share[:, :, None])).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(eight)
