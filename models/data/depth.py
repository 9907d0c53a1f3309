"""Samples of any depth as 0..255: one rule for a whole file, so that the frames of a stack stay comparable.

The rule, in this order:

1. Unsigned samples of 8 bits are never changed.
2. Where the file gives a window of values, or states its depth (BitsPerSample 12 of TIFF, BitsStored of DICOM, sBIT of
   PNG, SMaxSampleValue of TIFF, SignificantBits of OME), that range becomes 0..255. Samples of 1, 2 or 4 bits are of
   this kind. A statement is not believed where the samples exceed it, or, above 8 bits, where they leave its upper
   three bits empty in all pages.
3. Otherwise, unsigned samples of 16 or 32 bits, and signed ones without a negative value, are taken for the smallest
   of 8, 10, 12, 14 and 16 bits that holds the brightest sample of all pages. Sensors of these depths are stored in 16
   bits everywhere. A full-range file is thus divided by 257, one of 12 bits by 4095 / 255, and one that holds nothing
   above 255 is an 8-bit image in a larger container and keeps its values. The price: an underexposed 16-bit file
   becomes brighter, never darker, by a power of four. The other choice would show 12 bits as black.
   Samples that are all multiples of 257 are 8-bit samples that were widened, and become those again.
4. Signed samples with negatives, integers above 65535 and floats have no range of their own: the 0.1 and 99.9
   percentiles of all pages become 0 and 255. Where these are equal, the smallest and largest finite samples do. NaN
   and minus infinity are black, plus infinity is white.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = (8, 10, 12, 14, 16)
PERCENTILES = (0.1, 99.9)
EMPTY = 3  # upper bits of a stated depth that may be empty, but one
SAMPLE = 1 << 20  # samples of a file that percentiles are taken of, evenly from all pages
ROWS = 256  # rows scaled at a time, so that a large image of floats is never copied as a whole
LOWEST = float(np.finfo(np.float32).min)
LARGE = 1e300  # above it, differences of two floats may overflow


@dataclass(frozen=True)
class Scale:
    """A range of samples that becomes 0..255; samples outside it are clipped.

    Attributes:
        low: becomes 0.
        high: becomes 255. Where it is not above `low`, everything is black.
    """

    low: float
    high: float

    def apply(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        """Scale an array of any shape and real dtype; the result has its shape."""
        if samples.dtype == np.uint8 and (self.low, self.high) == (0, 255):
            return samples
        if samples.dtype == np.bool_:
            samples = samples.view(np.uint8)
        if samples.dtype.kind in "ui" and samples.dtype.itemsize <= 2:
            every = np.arange(1 << (8 * samples.dtype.itemsize)).astype(f"u{samples.dtype.itemsize}")
            table = self._scaled(every.view(samples.dtype.newbyteorder("=")))
            return np.asarray(table[samples.view(samples.dtype.str.replace("i", "u"))])
        eight = np.empty(samples.shape, np.uint8)
        for start in range(0, len(samples), ROWS):
            eight[start : start + ROWS] = self._scaled(samples[start : start + ROWS])
        return eight

    def _scaled(self, samples: NDArray[Any]) -> NDArray[np.uint8]:
        if not self.high > self.low:
            return np.zeros(samples.shape, np.uint8)
        factor = 1e-10 if max(abs(self.low), abs(self.high)) > LARGE else 1.0
        low, high = self.low * factor, self.high * factor
        share = (samples.astype(np.float64) * factor - low) / (high - low)
        return np.round(np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).astype(np.uint8)


def scale_of_bits(bits: int) -> Scale:
    """The range of unsigned integers of so many bits."""
    return Scale(0.0, float((1 << bits) - 1))


def measured_scale(pages: Iterable[NDArray[Any]], count: int, stated: int | None = None) -> Scale:
    """The scale of a file by what its pages hold: the rules above, but for windows.

    Args:
        pages: the samples of each page that count, all of one real dtype and any shape; they are looked at one by one,
            and no further than is needed.
        count: how many pages there are.
        stated: the depth that the file states, in bits, where that is not the whole container.

    Returns:
        The scale of all pages.
    """
    smallest, largest, multiples = np.inf, -np.inf, True
    kept: list[NDArray[np.float64]] = []
    dtype: np.dtype[Any] = np.dtype(np.uint8)
    for page in pages:
        dtype = page.dtype
        if stated is not None and stated <= 8 and dtype.itemsize == 1 and page.size:
            return scale_of_bits(stated if int(page.max()) < 1 << stated else 8)
        if dtype in (np.uint8, np.bool_):
            return scale_of_bits(8 if dtype == np.uint8 else 1)
        if not page.size:
            continue
        if dtype.kind in "ui":
            smallest, largest = min(smallest, int(page.min())), max(largest, int(page.max()))
            # Nothing that follows can change the answer.
            if stated is None and dtype == np.uint16 and largest >= 1 << BITS[-2]:
                return scale_of_bits(16)
            multiples = multiples and dtype.itemsize > 1 and not (page % 257).any()
        kept.append(_some(page, max(SAMPLE // count, 256)))
    if np.isfinite(largest) and smallest >= 0 and largest <= 65535:
        return _scale_of_integers(int(largest), multiples, dtype, stated)
    values = np.concatenate(kept) if kept else np.zeros(0)
    if not values.size:
        return Scale(0.0, 0.0)
    low, high = (float(value) for value in np.percentile(values, PERCENTILES, method="nearest"))
    return Scale(low, high) if high > low else Scale(float(values.min()), float(values.max()))


def _scale_of_integers(largest: int, multiples: bool, dtype: np.dtype[Any], stated: int | None) -> Scale:
    if stated is not None and largest < 1 << stated and (stated <= 8 or largest >= 1 << stated >> EMPTY):
        return scale_of_bits(stated)
    if multiples and largest:
        return scale_of_bits(16)
    bits = next(bits for bits in BITS if largest < 1 << bits)
    return scale_of_bits(15 if bits == 16 and dtype == np.int16 else bits)


def _some(page: NDArray[Any], most: int) -> NDArray[np.float64]:
    """Finite samples of a page, evenly from all of it and the same ones each time; its extremes are among them.

    The lowest number that floats have is none of them: programs write it where there is nothing.
    """
    flat = page.reshape(-1)
    finite = flat if page.dtype.kind in "ui" else flat[np.isfinite(flat) & ~_is_lowest(flat)]
    if not finite.size:
        return np.zeros(0)
    some = finite[:: -(-finite.size // most) | 1].astype(np.float64)
    return some if some.size == finite.size else np.append(some, [float(finite.min()), float(finite.max())])


def _is_lowest(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where floats are the lowest of 32 bits, perhaps rounded, or of their own."""
    if values.dtype.itemsize < 4:
        return np.asarray(values == np.finfo(values.dtype).min)
    return np.asarray((values == np.finfo(values.dtype).min) | (np.abs(values / LOWEST - 1) < 1e-3))
