"""The pages of an image file: frames of a stack, a film or an animation, each decoded when it is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

RgbImage = NDArray[np.uint8]

# Decoded pages above this are refused from the header alone, however many pixels are allowed.
MAX_PAGE_BYTES = 1 << 30
MAX_PAGES = 20_000


class BadImage(ValueError):
    """A file that is not read; the message begins with "it" and says why, in our words."""


class UnsupportedImage(BadImage):
    """A file that may be whole, of a kind that is not read; the message names the kind."""


class Pages(ABC):
    """The pages of one open file. Use it as a context manager; not safe to share between threads.

    Attributes:
        sizes: height and width of each page as it is shown, known without decoding.
        names: a name of each page for people: the file's own, else "page 2".
        notes: sentences on what of the file is not shown, for people.
    """

    sizes: Sequence[tuple[int, int]]
    names: Sequence[str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many pages there are, at least 1."""
        return len(self.sizes)

    @abstractmethod
    def read(self, index: int) -> RgbImage:
        """Decode one page.

        Args:
            index: 0 .. len - 1.

        Returns:
            Array of shape (H, W, 3), uint8, RGB, as a browser shows it; the caller may write to it.

        Raises:
            ValueError: the page is damaged, or of a kind that cannot be read.
        """

    def close(self) -> None:  # noqa: B027 - a file in memory has nothing to close
        """Close the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def check_size(width: int, height: int, max_pixels: int, sample_bytes: int = 1) -> None:
    """Refuse a page by its header.

    Args:
        width: in pixels.
        height: in pixels.
        max_pixels: the largest product of both.
        sample_bytes: bytes of one decoded pixel, all samples together.

    Raises:
        BadImage: no pixels, or too many, or too many bytes.
    """
    if width <= 0 or height <= 0:
        raise BadImage("it has no pixels")
    if width * height > max_pixels:
        raise BadImage(f"it has {width} x {height} pixels, at most {max_pixels} are taken; make it smaller")
    if width * height * sample_bytes > MAX_PAGE_BYTES:
        raise BadImage(
            f"it has {width} x {height} pixels of {sample_bytes} bytes, at most {MAX_PAGE_BYTES >> 20} MB are taken; "
            "make it smaller"
        )


def check_count(pages: int) -> None:
    """Raise BadImage where a file has more pages than are taken."""
    if pages > MAX_PAGES:
        raise BadImage(f"it has {pages} pages, at most {MAX_PAGES} are taken; divide it")


def numbered(count: int, word: str = "page") -> list[str]:
    """Names of pages that have none of their own: "page 1", "page 2" ..."""
    return [f"{word} {number}" for number in range(1, count + 1)]


def upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array (H, W, ...) as the EXIF or TIFF orientation 1..8 says; other values change nothing."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
