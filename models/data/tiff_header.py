"""Limits on a TIFF file's directories, checked before a library reads them.

A directory may hold a million offsets of strips for a picture of 16 pixels, or lead to itself; libraries build objects
of all that before they look at the size. This walk reads twelve bytes an entry and none of the values behind them.
"""

import struct
from typing import BinaryIO

from models.data.pages import MAX_PAGES, BadImage, check_count, check_size

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BITS, SAMPLES, STRIP_ROWS, TILE_WIDTH, TILE_HEIGHT = 256, 257, 258, 277, 278, 322, 323
TABLES = {273: "strips", 279: "strips", 324: "tiles", 325: "tiles"}
DEPTH = 32997
MAX_ENTRIES = 512  # tags of a page; the standard knows about 90
MAX_TABLE = 300_000  # strips or tiles of a page
MAX_VALUES = 1 << 20  # numbers in any other tag
BYTES = (1, 2, 6, 7)  # types whose values are read as one string
TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}


def check_tiff(file: BinaryIO, max_pixels: int) -> None:
    """Walk through the directories of a TIFF or BigTIFF.

    Args:
        file: at any position; its position is changed.
        max_pixels: the largest page.

    Raises:
        ValueError: a page is too large, there are too many, or a directory claims what no writer writes; or it is
            damaged.
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    entry, counter, offset = (order + kind for kind in (("HHQ8s", "Q", "Q") if big else ("HHI4s", "H", "I")))
    try:
        (at,) = struct.unpack_from(offset, head, 8 if big else 4)
        seen: set[int] = set()
        while at:
            if at in seen:
                raise BadImage("it is a damaged TIFF whose pages follow each other in a circle")
            seen.add(at)
            if len(seen) > MAX_PAGES:
                check_count(len(seen))
            file.seek(at)
            (entries,) = struct.unpack(counter, file.read(struct.calcsize(counter)))
            if entries > MAX_ENTRIES:
                raise BadImage(f"it is a damaged TIFF: page {len(seen)} claims {entries} tags")
            body = file.read(entries * struct.calcsize(entry))
            _check_page(list(struct.iter_unpack(entry, body)), order, max_pixels)
            (at,) = struct.unpack(offset, file.read(struct.calcsize(offset)))
    except struct.error as error:
        if len(seen) < 2:
            raise BadImage("it is a damaged TIFF, cut off in its header") from error
        # The pages before the cut can be read.


def _check_page(entries: list[tuple[int, int, int, bytes]], order: str, max_pixels: int) -> None:
    def number(tag: int, default: int) -> int:
        for code, kind, count, value in entries:
            if code == tag and kind in TYPES and count:
                first: int = struct.unpack_from(order + TYPES[kind], value)[0] if _inline(kind, 1, value) else default
                return first
        return default

    width, height = number(WIDTH, 0), number(HEIGHT, 0)
    samples = number(SAMPLES, 1)
    bits = next((count for code, _, count, _ in entries if code == BITS), 1)
    if not width or not height:
        raise BadImage("it is a damaged TIFF: a page has no size")
    # Bits per sample lie behind the entry where there are several; they are counted as two bytes each then.
    deep = number(BITS, 16) if bits <= (4 if len(entries[0][3]) == 8 else 2) else 16
    check_size(width, height, max_pixels, max(1, samples * -(-deep // 8)))
    rows = min(number(STRIP_ROWS, height) or height, height)
    tile_width, tile_height = number(TILE_WIDTH, 0), number(TILE_HEIGHT, 0)
    strips = -(-height // rows)
    tiles = -(-width // tile_width) * -(-height // tile_height) if tile_width and tile_height else strips
    for code, kind, count, _ in entries:
        if code in TABLES:
            most = max(strips, tiles) * samples * max(number(DEPTH, 1), 1)
            # Some writers count a strip too many, or leave the rows of a strip out.
            if count > MAX_TABLE or count > max(most, height * samples) + 16:
                raise BadImage(
                    f"it is a TIFF of {width} x {height} pixels that claims {count} {TABLES[code]}, "
                    "which no program writes; save it again"
                )
        elif kind not in BYTES and count > MAX_VALUES:
            raise BadImage(f"it is a damaged TIFF: tag {code} claims {count} numbers")


def _inline(kind: int, count: int, value: bytes) -> bool:
    return struct.calcsize("=" + TYPES[kind]) * count <= len(value)
