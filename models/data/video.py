"""Films as pages: AVI, MP4, MOV and Matroska, each frame a page."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from models.data.depth import scale_of_bits
from models.data.pages import BadImage, Pages, RgbImage, UnsupportedImage, check_count, check_size, numbered

# The container is chosen by the file's beginning and never guessed: FFmpeg also knows playlists, which open files.
CONTAINERS = {"avi": "an AVI film", "mov": "an MP4 film", "matroska": "a Matroska film", "mpeg": "an MPEG film"}
# Pictures that are stored as MP4 films are.
PICTURES = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"jp2 ", b"jpx ", b"crx ")


def container(head: bytes) -> str | None:
    """FFmpeg's name of the container that a file of these first bytes has; None for no film."""
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[4:8] == b"ftyp" and head[8:12] not in PICTURES:
        return "mov"
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return "mov"
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    return "mpeg" if head[:4] == b"\0\0\1\xba" else None


class VideoPages(Pages):
    """The frames of a film's first picture track, in the order in which they are shown.

    They are decoded one after the other: reading forwards is cheap, reading backwards begins again.
    """

    def __init__(self, file: BinaryIO, max_pixels: int, container: str) -> None:
        """`container` as `container` names it. Raises ValueError: not read, or too large."""
        self._file, self._container = file, container
        self._open: Any = None
        self._next = 0
        self._start()
        stream = self._stream
        check_size(stream.width, stream.height, max_pixels, 4)
        count = 0
        opened: Any = self._open
        for packet in opened.demux(stream):
            count += bool(packet.size) and not packet.is_discard
            check_count(count)
        self._start()
        first = next(self._frames, None)
        if first is None or not count:
            raise BadImage(f"it is {_named(container)} without a frame that can be decoded")
        height, width = _turned(first).shape[:2]
        check_size(width, height, max_pixels)
        self._start()
        self.sizes = [(height, width)] * count
        self.names = numbered(count, "frame")

    def read(self, index: int) -> RgbImage:
        """As the base class says."""
        if index < self._next:
            self._start()
        for frame in self._frames:
            self._next += 1
            if self._next == index + 1:
                image = _turned(frame)
                if image.shape[:2] != self.sizes[index]:
                    raise BadImage(f"frame {index + 1} of the film has another size than the first")
                return image
        raise BadImage(f"the film ends after {self._next} frames, before frame {index + 1}; it is cut off or damaged")

    def close(self) -> None:
        """As the base class says."""
        if self._open is not None:
            self._open.close()
        self._file.close()

    def _start(self) -> None:
        import av

        if self._open is not None:
            self._open.close()
        self._file.seek(0)
        self._open = av.open(self._file, format=self._container)
        streams = self._open.streams.video
        if not streams:
            raise BadImage(f"it is {_named(self._container)} without a picture track")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            raise UnsupportedImage(f"it is {_named(self._container)} of a codec that is not supported")
        self._stream.thread_type = "NONE"
        self._stream.codec_context.thread_count = 1
        self._frames: Iterator[Any] = iter(self._open.decode(self._stream))
        self._next = 0


def _named(container: str) -> str:
    return CONTAINERS.get(container, "a film")


def _turned(frame: Any) -> RgbImage:
    """A frame as RGB, turned as its display matrix says."""
    if frame.format.name.startswith("gray") and frame.format.components[0].bits > 8:
        deep: NDArray[Any] = frame.to_ndarray()
        grey = scale_of_bits(frame.format.components[0].bits).apply(deep)
        image = np.repeat(grey[:, :, None], 3, axis=2)
    else:
        image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(getattr(frame, "rotation", 0) / 90)))
