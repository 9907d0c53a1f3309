"""Broken and hostile files, and what must come of each: a picture of a certain size, or a refusal in certain words.

Run as a script it decodes every one of them within bounded memory and prints how many it went through.
"""

import resource
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from models.data.decoding import decode_image

MAX_PIXELS = 4_000_000
DAMAGED = "damaged"
# Above what Python, numpy and Pillow take: the largest picture of MAX_PIXELS several times over.
MEMORY = 400 << 20


def corpus() -> dict[str, tuple[bytes, str | tuple[int, int]]]:
    """Name -> the file, and the height and width it has, or a word of the reason why it is refused."""
    return dict([*_truncated(), *_damaged(), *_bombs(), *_other_files(), *_odd_but_whole()])


def _picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _header(width: int, height: int, depth: int = 8, colour: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def _tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """A little-endian TIFF of one directory: (tag, type, count, value) each."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + directory + struct.pack("<I", following)


def _truncated() -> Iterator[tuple[str, tuple[bytes, str]]]:
    """Every format, broken off in its header, in the middle and shortly before its end."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("PNG", {}),
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("BMP", {}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("PPM", {}),
        ("JPEG2000", {}),
    ]
    for kind, options in kinds:
        data = _saved(_picture(), kind, **options)
        for share in (0.01, 0.4, 0.9):
            name = "-".join([kind, *map(str, options.values())])
            yield f"{name} cut at {share:.0%}", (data[: int(len(data) * share)], DAMAGED)


def _damaged() -> Iterator[tuple[str, tuple[bytes, str]]]:
    png, jpeg, gif = (_saved(_picture(), kind) for kind in ("PNG", "JPEG", "GIF"))
    size = [(256, 4, 1, 60), (257, 4, 1, 40), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    yield "JPEG with PNG's signature", (png[:8] + jpeg[8:], DAMAGED)
    yield "PNG with a wrong checksum in its header", (png[:29] + b"\0\0\0\0" + png[33:], DAMAGED)
    yield "PNG with noise for pixels", (_png(_header(60, 40), (b"IDAT", b"noise" * 9), (b"IEND", b"")), DAMAGED)
    yield "PNG without pixels", (_png(_header(60, 40), (b"IEND", b"")), DAMAGED)
    yield "PNG of no width", (_png(_header(0, 40), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")), DAMAGED)
    yield "PNG of an unknown depth", (_png(_header(6, 4, depth=3), (b"IEND", b"")), DAMAGED)
    yield "JPEG without tables", (jpeg[:2] + jpeg[jpeg.find(b"\xff\xc0") :], DAMAGED)
    yield "JPEG of no height", (jpeg.replace(b"\x08\x00\x28\x00\x3c", b"\x08\x00\x00\x00\x3c"), DAMAGED)
    yield "GIF without a frame", (gif[:13] + b";", DAMAGED)
    yield "TIFF whose strips lie behind its end", (_tiff(*size, (273, 4, 1, 9999), (279, 4, 1, 2400)), DAMAGED)
    yield "TIFF whose directory follows itself", (_tiff(*size, following=8), DAMAGED)
    yield "TIFF without a size", (_tiff((258, 3, 1, 8)), DAMAGED)
    yield "TIFF of 60000 samples a pixel", (_tiff(*size[:4], (277, 3, 1, 60000)), DAMAGED)
    yield "BMP of an unknown compression", (b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, 6, 4, 1, 24, 99), DAMAGED)
    yield "PPM with words for numbers", (b"P6 wide high 255\n" + bytes(99), DAMAGED)
    yield "WebP with noise inside", (b"RIFF\x40\0\0\0WEBPVP8L" + bytes(range(64)), DAMAGED)
    yield "JPEG 2000 with noise inside", (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(range(64)), DAMAGED)


def _bombs() -> Iterator[tuple[str, tuple[bytes, str]]]:
    """Small files that would take much memory or time."""
    jpeg = _saved(Image.new("L", (1000, 1000)), "JPEG", progressive=True)
    last = jpeg.rfind(b"\xff\xda")
    text = zlib.compress(bytes(8 << 20))
    rows = zlib.compress(bytes(5001 * 5000), 1)
    huge = (1 << 31) - 1
    yield "TIFF of a strip for each byte", (strip_a_byte(400_000), "claims 400000 strips")
    yield "TIFF of 100 MB of numbers", (_tiff((256, 4, 1, 4), (257, 4, 1, 4), (50000, 4, 25 << 20, 8)), "claims")
    yield "PNG that announces 60000 x 60000", (_png(_header(60000, 60000), (b"IDAT", b"")), "too large")
    yield "PNG that announces 2147483647 x 1", (_png(_header(huge, 1), (b"IDAT", b"")), "too large")
    yield "PNG of 5000 x 5000 in 110 kB", (_png(_header(5000, 5000), (b"IDAT", rows), (b"IEND", b"")), "5000 x 5000")
    yield "PNG with 8 MB of text", (_png(_header(6, 4), (b"zTXt", b"a\0\0" + text), (b"IEND", b"")), DAMAGED)
    yield "PNG with 8 MB of profile", (_png(_header(6, 4), (b"iCCP", b"a\0\0" + text), (b"IEND", b"")), DAMAGED)
    yield "JPEG of 20000 scans", (jpeg[:-2] + jpeg[last:-2] * 20_000 + jpeg[-2:], "scans")
    yield "JPEG that announces 65500 x 65500", (_announced(jpeg, 65500, 65500), "too large")
    yield "GIF that announces 65535 x 65535", (b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0), DAMAGED)
    yield "WebP of 2500 x 2000", (_saved(Image.new("L", (2500, 2000)), "WEBP", lossless=True, method=0), "2500 x 2000")
    yield (
        "TIFF that announces 2000000 x 2000000",
        (_tiff((256, 4, 1, 2_000_000), (257, 4, 1, 2_000_000)), "2000000 x 2000000"),
    )
    yield "BMP that announces 60000 x 60000", (b"BM" + struct.pack("<IIIIiiHHI", 0, 0, 54, 40, 60000, 60000, 1, 24, 0)
                                               + bytes(20), "too large")  # fmt: skip
    yield "PPM that announces 999999 x 999999", (b"P6 999999 999999 255\n", "too large")
    yield "JPEG 2000 of 2500 x 2000", (_saved(Image.new("L", (2500, 2000)), "JPEG2000"), "2500 x 2000")


def strip_a_byte(strips: int) -> bytes:
    """A TIFF of 4 x 4 pixels that claims so many strips: 8 bytes of offsets and counts for each."""
    tables = 122  # behind the directory of nine entries
    size = ((256, 4, 1, 4), (257, 4, 1, 4), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1))
    offsets, counts = (273, 4, strips, tables), (279, 4, strips, tables + 4 * strips)
    head = _tiff(*size, offsets, (277, 3, 1, 1), (278, 4, 1, 1), counts)
    return head.ljust(tables, b"\0") + b"\x08\0\0\0" * strips + b"\1\0\0\0" * strips


def slow_picture() -> bytes:
    """A whole JPEG whose decoding takes some seconds: 90 scans of nothing."""
    jpeg = _saved(Image.new("L", (6000, 6000)), "JPEG", progressive=True)
    last = jpeg.rfind(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * 90 + jpeg[-2:]


def _announced(jpeg: bytes, width: int, height: int) -> bytes:
    start = jpeg.find(b"\xff\xc2") + 5
    return jpeg[:start] + struct.pack(">HH", height, width) + jpeg[start + 4 :]


def _other_files() -> Iterator[tuple[str, tuple[bytes, str]]]:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("scan.png", _saved(_picture(), "PNG"))
    yield "nothing", (b"", "empty")
    yield "zeros", (bytes(1 << 20), "not an image")
    yield "noise", (np.random.default_rng(1).bytes(5000), "not an image")
    yield "a login page", (b"\n<!DOCTYPE html><title>Log in</title>", "web page")
    yield "an SVG", (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "SVG")
    yield "an SVG of a billion entities", (f"<?xml version='1.0'?><!DOCTYPE svg [{entities}]>".encode(), "SVG")
    yield "a ZIP named .png", (archive.getvalue(), "ZIP")
    yield "a PDF", (b"%PDF-1.7\n", "PDF")
    yield "PostScript that would run", (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript")
    yield "DICOM", (bytes(128) + b"DICM" + bytes(99), "DICOM")
    yield "a Git LFS pointer", (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS")
    yield "a Windows icon", (_saved(_picture(), "ICO"), "Windows icon")
    yield "JSON", (b'{"detail": "Not found."}', "not an image")


def _odd_but_whole() -> Iterator[tuple[str, tuple[bytes, tuple[int, int]]]]:
    small, frames = _picture(), [Image.new("P", (7, 5), colour) for colour in (1, 2, 3)]
    nan = np.full((4, 6), np.nan, np.float32)
    nan[0, 0], nan[0, 1] = 3e38, -3e38
    exif = Image.Exif()
    exif[0x0112] = 99
    png = _saved(small, "PNG")
    yield "PNG with a chunk that claims to be longer", (png[:33] + b"\xff\xff\xff\xff" + png[37:], (40, 60))
    yield "a single pixel", (_saved(Image.new("L", (1, 1)), "PNG"), (1, 1))
    yield "one row", (_saved(Image.new("L", (9000, 1)), "PNG"), (1, 9000))
    yield "one column", (_saved(Image.new("L", (1, 9000)), "PNG"), (9000, 1))
    yield "TIFF of NaN and huge floats", (_saved(Image.fromarray(nan), "TIFF"), (4, 6))
    yield "TIFF of nothing but infinity", (_saved(Image.fromarray(np.full((4, 6), np.inf, np.float32)), "TIFF"), (4, 6))
    yield "JPEG with a broken EXIF", (_saved(small, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), (40, 60))
    yield "JPEG of an orientation that does not exist", (_saved(small, "JPEG", exif=exif), (40, 60))
    yield "JPEG with a page behind its end", (_saved(small, "JPEG") + b"<html>" * 1000, (40, 60))
    yield "animated GIF", (_saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), (5, 7))
    yield "animated WebP", (_saved(small, "WEBP", save_all=True, append_images=[small.rotate(9)]), (40, 60))
    yield "animated PNG", (_saved(small, "PNG", save_all=True, append_images=[small.rotate(9)]), (40, 60))
    yield (
        "TIFF of three pages",
        (_saved(small, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))]), (40, 60)),
    )
    yield "TIFF in Lab colours", (_saved(Image.new("LAB", (6, 4)), "TIFF"), (4, 6))
    yield "grey with alpha", (_saved(small.convert("LA"), "PNG"), (40, 60))
    yield "TIFF in printers' colours", (_saved(small.convert("CMYK"), "TIFF"), (40, 60))


def main() -> None:
    """Decode every file with little more memory than the largest allowed picture needs; for a process of its own."""
    files = corpus()
    with open("/proc/self/statm", encoding="ascii") as statm:
        address_space = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address_space + MEMORY, address_space + MEMORY))
    for name, (data, _) in files.items():
        try:
            decode_image(data, MAX_PIXELS)
        except ValueError as error:
            if isinstance(error.__cause__, MemoryError):
                sys.exit(f"{name} took more than {MEMORY >> 20} MiB")
    print(len(files))


if __name__ == "__main__":
    main()
