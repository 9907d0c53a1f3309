"""Label Studio's run-length encoding of brush masks.

The format is that of the npm package @thi.ng/rle-pack, most significant bits first. The header holds the number of
values (32 bits), the width of a word less 1 (5 bits) and four possible widths of a length less 1 (4 bits each). A run
holds a flag, 2 bits that choose the width of its length, the length less 1, and one word to repeat (flag 1) or as many
words as the length says (flag 0). The values are the RGBA bytes of the image, row after row; alpha alone is the mask.
Zeros fill the last byte.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The editor draws with alpha 0..255; it is the opacity, not a confidence, so half of it decides what is painted.
PAINTED = 128
CHANNELS = 4
# Label Studio's own choice: words of a byte, and lengths up to 8, 16, 256 and 65,536.
WORD_WIDTH = 8
LENGTH_WIDTHS = (3, 4, 8, 16)
HEADER_BITS = 32 + 5 + 4 * 4
REPEATED = 4  # the flag among the first three bits of a run
# Runs that begin in so many bytes are decoded together, which bounds the memory for any length.
CHUNK = 1 << 15

Mask = NDArray[np.bool_]
Positions = NDArray[np.int64]


def encode_rle(mask: Mask) -> list[int]:
    """Encode a mask as Label Studio's brush RLE, byte for byte as label-studio-sdk does.

    Args:
        mask: shape (H, W), bool.

    >>> encode_rle(np.array([[False, True]]))
    [0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128]
    """
    flat = mask.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = np.concatenate([[0], edges])
    lengths = CHANNELS * np.diff(starts, append=flat.size)
    kinds = np.searchsorted(np.left_shift(1, LENGTH_WIDTHS[:-1]), lengths)  # the narrowest width that holds a length
    # A length that not even the widest holds becomes several runs.
    longest = 1 << LENGTH_WIDTHS[-1]
    pieces = -(-lengths // longest)
    last = np.cumsum(pieces) - 1
    rest = lengths - (pieces - 1) * longest
    # 0/1 would be drawn with an opacity of 1/255, that is, invisibly.
    words = np.repeat(flat[starts] * np.int64(255), pieces)
    kinds = np.repeat(kinds, pieces)
    lengths = np.full(len(kinds), longest)
    lengths[last] = rest
    widths = np.array(LENGTH_WIDTHS)[kinds]
    codes = (((REPEATED + kinds) << widths | lengths - 1) << WORD_WIDTH) | words
    packed = _pack(codes, 3 + widths + WORD_WIDTH, _header(CHANNELS * flat.size))
    return list(packed)


def decode_rle(rle: list[int], shape: tuple[int, int]) -> Mask:
    """Decode Label Studio's brush RLE, with any widths in its header.

    Args:
        rle: bytes as a list of integers.
        shape: (H, W) of the image it was painted on.

    Returns:
        Mask of that shape, bool: painted with an opacity of at least PAINTED.

    Raises:
        ValueError: `rle` is no list of bytes, ends early, or holds an image of another size.

    >>> decode_rle([0, 0, 0, 8, 57, 27, 252, 96, 17, 255, 128], (1, 2))
    array([[False,  True]])
    """
    height, width = shape
    data = _bytes(rle)
    size = int.from_bytes(data[:4], "big")
    # The length it announces is compared before anything of that length is allocated.
    if size != height * width * CHANNELS:
        raise ValueError(f"it holds {size / CHANNELS:g} pixels, expected {height} x {width} = {height * width}")
    header = int.from_bytes(data[:7], "big") >> 56 - HEADER_BITS
    word_width = (header >> 16 & 31) + 1
    length_widths = np.array([(header >> shift & 15) + 1 for shift in (12, 8, 4, 0)])
    mask = np.empty(height * width, dtype=bool)
    position, done = HEADER_BITS, 0  # bits read, values decoded
    while done < size:
        if position >= 8 * len(data):
            raise ValueError(f"it ends early, after {done} of {size} values")
        starts, position = _runs(data, position, word_width, length_widths.tolist())
        done = _fill(mask, done, data, starts, word_width, length_widths)
    return mask.reshape(shape)


def _bytes(rle: Any) -> bytes:
    try:
        data = bytes(rle) if isinstance(rle, list) else None
    except (TypeError, ValueError, OverflowError):
        data = None
    if data is None:
        raise ValueError("it is not a list of whole numbers from 0 to 255")
    if len(data) * 8 < HEADER_BITS:
        raise ValueError(f"it has {len(data)} bytes, less than its header needs")
    return data


def _header(size: int) -> tuple[int, int]:
    """The header for a number of values, and its width in bits."""
    bits = size << 5 | WORD_WIDTH - 1
    for width in LENGTH_WIDTHS:
        bits = bits << 4 | width - 1
    return bits, HEADER_BITS


def _pack(codes: Positions, widths: Positions, header: tuple[int, int]) -> bytes:
    """A header of 32 to 64 bits and codes of at most 32 bits, one after the other.

    A full last byte is followed by one of zeros, as label-studio-sdk has it.
    """
    bits, header_width = header
    ends = header_width + np.cumsum(widths)
    starts = ends - widths
    # Each code lies in one 32-bit word or in two that follow each other; no two codes share a bit, so a sum joins them.
    placed = codes.astype(np.uint64) << (64 - starts % 32 - widths).astype(np.uint64)
    first = starts // 32
    count = int(ends[-1]) // 32 + 2
    packed = np.bincount(first, placed >> np.uint64(32), minlength=count)
    packed += np.bincount(first + 1, placed & np.uint64(0xFFFFFFFF), minlength=count)
    head = bits << 64 - header_width
    packed[0] += head >> 32
    packed[1] += head & 0xFFFFFFFF
    return packed.astype(">u4").tobytes()[: int(ends[-1]) // 8 + 1]


def _runs(data: bytes, position: int, word_width: int, length_widths: list[int]) -> tuple[Positions, int]:
    """Where the runs lie that begin within the next CHUNK bytes.

    Args:
        data: the whole encoding.
        position: of the first run, in bits.
        word_width: bits of a word.
        length_widths: bits of a length, by the index in a run.

    Returns:
        The bit that each run begins at, and the bit after the last one, which may lie behind the end of `data`.
    """
    offset = position // 8 * 8
    # A run that begins in the last byte reaches into the one behind it.
    chunk = data[offset // 8 : offset // 8 + CHUNK + 1].ljust(min(CHUNK, len(data) - offset // 8) + 1, b"\0")
    bits = np.unpackbits(np.frombuffer(chunk, np.uint8))
    kinds = (bits[:-8] << 2 | bits[1:-7] << 1 | bits[2:-6]).tobytes()  # of the run that would begin at each bit
    steps = [3 + length_widths[kind % REPEATED] + word_width for kind in range(2 * REPEATED)]
    starts: list[int] = []
    at, end = position - offset, len(kinds)
    while at < end:
        starts.append(at)
        kind = kinds[at]
        at += steps[kind]
        if kind < REPEATED:
            length_width, first = length_widths[kind], offset + starts[-1] + 3
            window = int.from_bytes(data[first // 8 : first // 8 + 4].ljust(4, b"\0"), "big")
            at += word_width * (window >> 32 - first % 8 - length_width & (1 << length_width) - 1)
    return np.array(starts, dtype=np.int64) + offset, at + offset


def _fill(
    mask: Mask, done: int, data: bytes, starts: Positions, word_width: int, length_widths: NDArray[np.int64]
) -> int:
    """Paint the runs that begin at `starts`.

    Args:
        mask: pixels, shape (H * W,), written from value `done` on.
        done: values decoded so far.
        data: the whole encoding.
        starts: bit that each run begins at.
        word_width: bits of a word.
        length_widths: bits of a length, by the index in a run.

    Returns:
        Values decoded in all, at most those of `mask`.

    Raises:
        ValueError: a run that is needed lies behind the end of `data`.
    """
    first = int(starts[0]) // 8
    # All that is read here lies between the first run and 65,536 words behind the last one.
    last = int(starts[-1]) // 8 + 8 + ((1 << 16) * word_width + 7) // 8
    window = np.frombuffer(data[first:last] + bytes(8), np.uint8)
    starts = starts - 8 * first
    kinds = _read(window, starts, 3)
    widths = length_widths[kinds % REPEATED]
    lengths = _read(window, starts + 3, widths) + 1
    ends = done + np.cumsum(lengths)
    size = CHANNELS * mask.size
    # Runs behind the last pixel are padding.
    needed = int(np.searchsorted(ends, size)) + 1
    kinds, widths, starts, ends = kinds[:needed], widths[:needed], starts[:needed], ends[:needed]
    begins = np.concatenate([[done], ends[:-1]])
    ends = np.minimum(ends, size)
    words = starts + 3 + widths  # where the first word of each run lies
    repeated = kinds >= REPEATED
    final = words + word_width * np.where(repeated, 1, ends - begins)
    if (final > 8 * (len(data) - first)).any():
        raise ValueError(f"it ends early, before {int(ends[-1])} of {size} values")
    # Of a pixel's four values alpha is the last: one per run whose end passes it.
    pixels = ends // CHANNELS - begins // CHANNELS
    # Runs of several words lead on from alpha to alpha, runs of one word stand still.
    strides = np.where(repeated, 0, CHANNELS * word_width)
    alphas = words + np.where(repeated, 0, (begins // CHANNELS * CHANNELS + CHANNELS - 1 - begins) * word_width)
    start, stop = done // CHANNELS, int(ends[-1]) // CHANNELS
    if repeated.all():
        mask[start:stop] = np.repeat(_read(window, alphas, word_width) >= PAINTED, pixels)
    else:
        which = np.repeat(np.arange(len(pixels)), np.where(repeated, np.minimum(pixels, 1), pixels))
        order = np.arange(len(which)) - np.searchsorted(which, which)
        painted = _read(window, alphas[which] + order * strides[which], word_width) >= PAINTED
        mask[start:stop] = np.repeat(painted, np.where(repeated, pixels, 1)[which])
    return int(ends[-1])


def _read(data: NDArray[np.uint8], positions: Positions, widths: Positions | int) -> Positions:
    """Numbers of at most 32 bits that begin at some bits of `data`, which has 5 bytes to spare behind them."""
    first = positions >> 3
    window = np.zeros(len(positions), dtype=np.int64)
    for byte in range(5):
        window = window << 8 | data[first + byte]
    return window >> 40 - (positions & 7) - widths & (1 << np.asarray(widths)) - 1
