"""DICOM files as pages: every frame as a viewer shows it."""

import logging
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.data.depth import Scale, measured_scale, scale_of_bits
from models.data.pages import (
    MAX_PAGE_BYTES,
    BadImage,
    Pages,
    RgbImage,
    UnsupportedImage,
    check_count,
    check_size,
    numbered,
)

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # SOP classes: binary, of labels
OVERLAYS = range(0x6000, 0x6020, 2)  # groups, whose element 0x0102 names the bit of the samples that they lie in
DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax
MAX_META_BYTES, CHUNK = 1 << 16, 1 << 20
FILMS = tuple(f"1.2.840.10008.1.2.4.10{number}" for number in range(9))  # MPEG-2, MPEG-4 and HEVC, also in fragments

Tone = Callable[[int, NDArray[Any]], NDArray[np.uint8]]  # index of a frame and its samples -> what is shown of them


@dataclass(frozen=True)
class Sigmoid:
    """The window function of that name: smooth, never clipped."""

    centre: float
    width: float

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Scale values of any shape to 0..255."""
        steep = np.clip(-4 * (values.astype(np.float64) - self.centre) / self.width, -700, 700)
        return np.round(255 / (1 + np.exp(steep))).astype(np.uint8)


def is_dicom(head: bytes) -> bool:
    """Whether a file of these first 132 bytes is DICOM; files without the preamble begin with group 2 or 8."""
    if head[128:132] == b"DICM":
        return True
    big = head[:1] == b"\0"
    group, element = (int.from_bytes(head[at : at + 2], "big" if big else "little") for at in (0, 2))
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return len(head) > 8 and group in (2, 8) and element < 0x100 and (explicit or head[6:8] == b"\0\0")


def check_deflated(file: BinaryIO) -> None:
    """Refuse a deflated file that unpacks to more than MAX_PAGE_BYTES: pydicom unpacks it as a whole.

    Args:
        file: at any position; its position is changed.

    Raises:
        BadImage: it is such a one.
    """
    file.seek(128)
    head = file.read(16)  # the magic, and the element with the length of the others of its group
    if not head.startswith(b"DICM\x02\0\0\0UL") or len(head) < 16:
        return
    meta = file.read(min(int.from_bytes(head[12:16], "little"), MAX_META_BYTES))
    if DEFLATED not in meta:
        return
    unpacker, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while not unpacker.eof and (data := unpacker.unconsumed_tail or file.read(CHUNK)):
        try:
            size += len(unpacker.decompress(data, CHUNK))
        except zlib.error:
            return  # pydicom says what is wrong
        if size > MAX_PAGE_BYTES:
            raise BadImage(f"it is a deflated DICOM file that unpacks to more than {MAX_PAGE_BYTES >> 20} MB")


class DicomPages(Pages):
    """The frames of a DICOM file.

    Grey values become what a viewer shows: Modality LUT or Rescale Slope and Intercept, then the file's first window
    (VOI LUT Sequence, else Window Center and Width), for all frames the same. Without a window, or with one in which
    nothing of the picture lies, Bits Stored tells the range; where it is 16 or more, or samples are signed or floats,
    their values do (see `models.data.depth`).
    Pixels that pad a picture to a rectangle (Pixel Padding Value) are black and do not count.

    Attributes:
        bits: allocated for a sample.
        scale: taken instead of what the values of this file alone give; see `series_scale`.
    """

    def __init__(self, file: BinaryIO, max_pixels: int) -> None:
        """Raises ValueError from the header alone, and pydicom's errors where it is damaged."""
        from pydicom import config, dcmread

        config.settings.reading_validation_mode = config.IGNORE
        logging.getLogger("pydicom").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
        self._file = file
        check_deflated(file)
        file.seek(0)
        self._set = data = dcmread(file, force=True)
        if not any(name in data for name in PIXELS):
            kind = getattr(data.get("SOPClassUID"), "name", None) or "of no stated kind"
            raise UnsupportedImage(f"it is a DICOM file without pixels ({kind})")
        if data.get("SOPClassUID") in SEGMENTATIONS or data.get("Modality") == "SEG":
            raise UnsupportedImage("it is a DICOM Segmentation, masks of other files, and no picture")
        if not data.get("PhotometricInterpretation"):
            data.PhotometricInterpretation = "RGB" if data.get("SamplesPerPixel") == 3 else GREY[1]
        self._colours = str(data.PhotometricInterpretation).strip().upper()
        if self._colours not in (*GREY, *COLOURS, PALETTE):
            raise UnsupportedImage(f"it is a DICOM file in {self._colours} colours, which is not supported")
        if not (data.get("Rows") and data.get("Columns")):
            raise BadImage("it is a damaged DICOM file: it does not state its size (Rows and Columns)")
        height, width = int(data.Rows), int(data.Columns)
        self.bits = int(data.get("BitsAllocated", 8))
        check_size(width, height, max_pixels, max(1, self.bits // 8) * int(data.get("SamplesPerPixel", 1)))
        self._film: Pages | None = None
        self._syntax = self._transfer_syntax()
        if str(self._syntax).startswith(FILMS):
            self._film = self._opened_film(max_pixels)
            self.sizes = self._film.sizes
        else:
            self._plugin = self._checked_plugin()
            if not self._has_frames():
                raise BadImage("it is a DICOM file without a frame: its pixel data is empty")
            frames = self._frame_count(width * height * int(data.get("SamplesPerPixel", 1)) * self.bits // 8)
            check_count(frames)
            self.sizes = [(height, width)] * frames
        self.names = numbered(len(self.sizes), "frame")
        self._padding = _padding(data) if self._colours in GREY else None
        self.scale: Scale | None = None
        self._tone: Tone | None = None

    def read(self, index: int) -> RgbImage:
        """As the base class says."""
        if self._film is not None:
            return self._film.read(index)
        if self._colours == PALETTE:
            from pydicom.pixels.processing import apply_color_lut

            colours = apply_color_lut(self._samples(index), self._set)
            narrow = colours.dtype == np.uint16 and colours.max() <= 255 and self._palette_is_narrow()
            return np.ascontiguousarray(scale_of_bits(8 if narrow or colours.dtype == np.uint8 else 16).apply(colours))
        if self._tone is None:
            self._tone = self._new_tone()
        samples = self._samples(index)
        eight = self._tone(index, samples)
        if self._colours == GREY[0]:
            eight = 255 - eight
        if self._padding is not None:
            eight = np.where(self._is_padding(samples), np.uint8(0), eight)
        return np.repeat(eight[:, :, None], 3, axis=2) if eight.ndim == 2 else np.array(eight)

    def measured(self) -> Scale | None:
        """The scale that the values of this file give; None where it states a window or table, or is not grey."""
        if self._film is not None or self._colours not in GREY:
            return None
        self._tone = self._new_tone()
        return self.scale

    def rescale(self) -> tuple[float, float]:
        """Slope and intercept of the first frame."""
        return self._rescale(0)

    def close(self) -> None:
        """As the base class says."""
        if self._film is not None:
            self._film.close()
        self._file.close()

    def _transfer_syntax(self) -> Any:
        """As the file states it; a file that does not is uncompressed."""
        from pydicom import uid
        from pydicom.dataset import FileMetaDataset

        meta = getattr(self._set, "file_meta", None)
        if meta is not None and meta.get("TransferSyntaxUID"):
            return meta.TransferSyntaxUID
        implicit, little = self._set.original_encoding
        known = {(True, True): uid.ImplicitVRLittleEndian, (False, False): uid.ExplicitVRBigEndian}
        if meta is None:
            self._set.file_meta = meta = FileMetaDataset()
        meta.TransferSyntaxUID = known.get((bool(implicit), bool(little)), uid.ExplicitVRLittleEndian)
        return meta.TransferSyntaxUID

    def _has_frames(self) -> bool:
        """Whether there are pixels. Compressed data without any holds a table of its frames, which is empty."""
        from pydicom.encaps import generate_fragments

        values = [self._set[name].value for name in PIXELS if name in self._set]
        if self._syntax.is_encapsulated and values[0]:
            return any(islice(generate_fragments(values[0]), 1, None))
        return any(values)

    def _frame_count(self, size: int) -> int:
        """Frames that the file states; of one that does not, as many as it has bytes for, `size` a frame."""
        data = self._set
        if not data.get("NumberOfFrames") and not self._syntax.is_encapsulated and self._colours != "YBR_FULL_422":
            value = next(data[name].value for name in PIXELS if name in data)
            data.NumberOfFrames = max(len(value) // max(size, 1), 1)
        return max(int(data.get("NumberOfFrames") or 1), 1)

    def _opened_film(self, max_pixels: int) -> Pages:
        from pydicom.encaps import generate_fragments

        from models.data.video import VideoPages, container

        film = b"".join(generate_fragments(self._set.PixelData))
        streams = {b"\x47": "mpegts", b"\0\0\1\xb3": "mpegvideo"}
        bare = "hevc" if str(self._syntax).endswith((".107", ".108")) else "h264"
        found = next((name for start, name in streams.items() if film.startswith(start)), bare)
        return VideoPages(BytesIO(film), max_pixels, container(film[:16]) or found)

    def _checked_plugin(self) -> str:
        from pydicom.pixels.decoders.base import get_decoder

        from models.data.dicom_codecs import plugin_for

        try:
            plugin = plugin_for(self._syntax)
            if get_decoder(self._syntax).is_available:
                return plugin
        except NotImplementedError:
            pass
        name = getattr(self._syntax, "name", self._syntax)
        raise UnsupportedImage(f"it is a DICOM file compressed by {name}, which is not supported")

    def _samples(self, index: int) -> NDArray[Any]:
        """Stored samples of a frame, (H, W), or (H, W, 3) in RGB."""
        from pydicom.pixels.decoders.base import get_decoder

        decoder, low = get_decoder(self._syntax), self._low_bit()
        options: dict[str, Any] = {"bits_stored": low + int(self._set.BitsStored)} if low else {}
        whole = not low and self._plugin in ("", "pydicom") and self._colours in GREY
        if whole:
            options["correct_unused_bits"] = False
        samples, _ = decoder.as_array(self._set, index=index, decoding_plugin=self._plugin, **options)
        return self._without_unused_bits(samples) if whole else np.asarray(samples >> low if low else samples)

    def _without_unused_bits(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Samples without what lies above Bits Stored, unless they go on there: then it is stated too small."""
        stored = int(self._set.get("BitsStored") or self.bits)
        if samples.dtype.kind == "f" or stored >= 8 * samples.dtype.itemsize:
            return samples
        signed = samples.dtype.kind == "i"
        upper = samples >> (stored - signed)
        low, high = int(upper.min()), int(upper.max())
        if high <= 0 and low >= -int(signed):
            return samples
        # Padding and overlays leave most of the range above empty, and a missing sign all of it but one.
        count = len(np.unique(upper))
        goes_on = count > 1 and 2 * count > high - low + 1 and not (signed and (low, high) == (0, 1))
        overlaid = any(self._set.get((group, 0x0102)) and self._set[group, 0x0102].value for group in OVERLAYS)
        unused = 8 * samples.dtype.itemsize - stored
        return samples if goes_on and not overlaid else np.asarray(samples << unused >> unused)

    def _low_bit(self) -> int:
        """Bits below the samples, which some programs put at the upper end of their words; pydicom takes none."""
        stored = int(self._set.get("BitsStored") or self.bits)
        high = int(self._set.get("HighBit", stored - 1))
        return high + 1 - stored if self._plugin in ("", "pydicom") and stored <= high < self.bits else 0

    def _is_padding(self, samples: NDArray[Any]) -> NDArray[np.bool_]:
        low, high = self._padding or (1, 0)
        return np.asarray((samples >= low) & (samples <= high))

    def _palette_is_narrow(self) -> bool:
        """Whether a palette that states 16 bits holds 8, as some programs write it."""
        return all(
            int(np.frombuffer(self._set[f"{colour}PaletteColorLookupTableData"].value, np.uint16).max()) <= 255
            for colour in ("Red", "Green", "Blue")
            if f"{colour}PaletteColorLookupTableData" in self._set
        )

    def _group(self, sequence: str, index: int) -> Any:
        """Where a frame's attributes of a kind are: its functional group, the shared one, or the file itself."""
        for name, at in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
            groups = self._set.get(name) or []
            if at < len(groups) and groups[at].get(sequence):
                return groups[at].get(sequence)[0]
        return self._set

    def _rescale(self, index: int) -> tuple[float, float]:
        group = self._group("PixelValueTransformationSequence", index)
        return float(group.get("RescaleSlope") or 1), float(group.get("RescaleIntercept") or 0)

    def _counted(self, values: Callable[[int, NDArray[Any]], NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """What `values` gives for the samples of each frame, without padding."""
        for index in range(len(self)):
            samples = self._samples(index)
            found = values(index, samples)
            yield found if self._padding is None else found[~self._is_padding(samples)]

    def _values(self, index: int, samples: NDArray[Any]) -> NDArray[Any]:
        """Values of a frame in the unit of its device."""
        if self._set.get("ModalityLUTSequence"):
            return _looked_up(self._set.ModalityLUTSequence[0], samples)
        slope, intercept = self._rescale(index)
        if (slope, intercept) == (1, 0):
            return samples
        values: NDArray[Any] = samples.astype(np.float32 if samples.dtype.itemsize <= 2 else np.float64)
        values *= slope
        values += intercept
        return values

    def _new_tone(self) -> Tone:
        """How samples of all frames become 0..255."""
        if self._colours not in GREY:
            scale = self._scale_of_samples()
            return lambda _, samples: scale.apply(samples)
        views = self._group("FrameVOILUTSequence", 0)
        if views.get("VOILUTSequence"):
            return self._table_tone(views)
        window = _first_window(views)
        if window is not None and self._is_within(window):
            return lambda index, samples: window.apply(self._values(index, samples))
        rescales = {self._rescale(index) for index in range(len(self))}
        if self._set.get("ModalityLUTSequence") or len(rescales) > 1:
            measured = self.scale = self.scale or measured_scale(self._counted(self._values), len(self))
            return lambda index, samples: measured.apply(self._values(index, samples))
        stored = self.scale = self.scale or self._scale_of_samples()
        falling = next(iter(rescales))[0] < 0
        return lambda _, samples: stored.apply(samples) ^ np.uint8(255 if falling else 0)

    def _is_within(self, window: Scale | Sigmoid) -> bool:
        """Whether a window shows something, as far as there is something to show."""
        varied = False
        for values in self._counted(self._values):
            if values.size and values.min() < values.max():
                varied = True
                shown = window.apply(values)
                if shown.min() < shown.max():
                    return True
        return not varied

    def _table_tone(self, views: Any) -> Tone:
        table = views.VOILUTSequence[0]
        scale = measured_scale([_entries(table)], 1, int(table.LUTDescriptor[2]))
        return lambda index, samples: scale.apply(_looked_up(table, self._values(index, samples)))

    def _scale_of_samples(self) -> Scale:
        bits = int(self._set.get("BitsStored", self._set.get("BitsAllocated", 8)))
        stated = (
            bits if self._set.get("PixelRepresentation", 0) == 0 and bits < 16 and "PixelData" in self._set else None
        )
        return measured_scale(self._counted(lambda _, samples: samples), len(self), stated)


def series_scale(paths: Iterable[Path], max_pixels: int) -> Scale | None:
    """One scale for the files of a series, so that their frames stay comparable.

    Args:
        paths: DICOM files; those that cannot be read do not count.
        max_pixels: as for `DicomPages`.

    Returns:
        The range that holds those of all files; None where a file has no need of it (a window, eight bits, colours), or
        where the files' values have different units.
    """
    low, high, rescales = np.inf, -np.inf, set()
    for path in paths:
        with suppress(Exception), DicomPages(path.open("rb"), max_pixels) as pages:
            scale = pages.measured()
            if scale is None or pages.bits <= 8:
                return None
            low, high = min(low, scale.low), max(high, scale.high)
            rescales.add(pages.rescale())
    return Scale(low, high) if len(rescales) == 1 else None


def _padding(data: Any) -> tuple[int, int] | None:
    """The lowest and the highest sample that pads a picture; None where the file names none.

    Without a sign in the file, where samples have one, or the other way round, the bits count.
    """
    ends = [data.get("PixelPaddingValue"), data.get("PixelPaddingRangeLimit")]
    try:
        found = [int(end) for end in ends if end not in (None, "")]
    except (TypeError, ValueError):
        return None
    if not found or ends[0] in (None, ""):
        return None
    bits, signed = int(data.get("BitsAllocated", 16)), bool(data.get("PixelRepresentation", 0))
    wrapped = [value % (1 << bits) for value in found]
    if signed:
        wrapped = [value - (1 << bits) if value >> bits - 1 else value for value in wrapped]
    return min(wrapped), max(wrapped)


def _entries(table: Any) -> NDArray[np.uint16]:
    """The entries of a look-up table, which are bytes or numbers by the file's encoding."""
    data = table.LUTData
    if not isinstance(data, bytes):
        return np.asarray(data, np.uint16).reshape(-1)
    count = int(table.LUTDescriptor[0]) or 65536
    return np.frombuffer(data, np.uint8 if len(data) < 2 * count else np.uint16)[:count].astype(np.uint16)


def _looked_up(table: Any, values: NDArray[Any]) -> NDArray[np.uint16]:
    """Values as a look-up table has them; those outside it are its ends."""
    entries, first = _entries(table), int(table.LUTDescriptor[1])
    if first >= 32768 and values.size and values.min() < 0:
        first -= 65536  # it is signed as the samples are
    found = entries[np.clip(np.round(values) - first, 0, len(entries) - 1).astype(np.int64)]
    return np.asarray(found)


def _first_window(views: Any) -> Scale | Sigmoid | None:
    """The first window of the attributes, as DICOM PS3.3 C.11.2.1.2 defines its ends; None without a usable one."""

    def first(name: str) -> float | None:
        value = views.get(name)
        value = value[0] if isinstance(value, list | tuple) or hasattr(value, "insert") else value
        return None if value in (None, "") else float(value)

    try:
        centre, width = first("WindowCenter"), first("WindowWidth")
    except (IndexError, ValueError):
        return None
    function = str(views.get("VOILUTFunction") or "LINEAR").strip().upper()
    linear = function not in ("SIGMOID", "LINEAR_EXACT")
    if centre is None or width is None or not (width >= 1 if linear else width > 0):
        return None
    if function == "SIGMOID":
        return Sigmoid(centre, width)
    if function == "LINEAR_EXACT":
        return Scale(centre - width / 2, centre + width / 2)
    low = centre - 0.5 - (width - 1) / 2
    # Of width 1 it is a threshold: whatever lies above is white.
    return Scale(low, max(centre - 0.5 + (width - 1) / 2, float(np.nextafter(low, np.inf))))
