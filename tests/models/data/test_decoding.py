"""For every format, colours and orientation of a picture, the array is what a browser shows."""

import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from models.data.decoding import decode_image, open_pages
from tests.models.data.hostile_images import MAX_PIXELS, corpus

ROOT = Path(__file__).parents[3]

MANY = 1_000_000


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_every_format_and_mode_becomes_rgb(kind: str, mode: str) -> None:
    if kind in ("JPEG", "WEBP", "PPM") and mode == "P":
        mode = "RGB"
    decoded = decode_image(saved(Image.new("RGB", (5, 3), "white").convert(mode), kind), MANY)
    assert decoded.shape == (3, 5, 3)
    assert decoded.dtype == np.uint8
    assert decoded.min() >= 254


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    """The bright corner of the stored picture goes where the browser shows it."""
    stored = np.zeros((40, 60, 3), dtype=np.uint8)
    stored[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(saved(Image.fromarray(stored), "JPEG", exif=exif, quality=100), MANY)
    assert decoded.shape[:2] == ((60, 40) if orientation >= 5 else (40, 60))
    corners = decoded[2, 2, 0], decoded[2, -3, 0], decoded[-3, -3, 0], decoded[-3, 2, 0]  # clockwise from top left
    assert int(np.argmax(corners)) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}[orientation]


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    deep = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert decode_image(saved(Image.fromarray(deep)), MANY)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_thirty_two_bits_that_hold_sixteen_are_scaled_as_sixteen() -> None:
    deep = Image.fromarray(np.array([[0, 25700, 65535]], dtype=np.int32))
    assert decode_image(saved(deep, "TIFF"), MANY)[0, :, 1].tolist() == [0, 100, 255]


def test_floats_are_scaled_by_what_they_hold() -> None:
    values = Image.fromarray(np.array([[-1.0, 0.0, 3.0, np.nan]], dtype=np.float32))
    assert decode_image(saved(values, "TIFF"), MANY)[0, :, 2].tolist() == [0, 64, 255, 0]
    flat = Image.fromarray(np.full((2, 2), 7.5, dtype=np.float32))
    assert not decode_image(saved(flat, "TIFF"), MANY).any()


def test_transparency_is_white_as_in_the_editor() -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (255, 0, 0, 255))
    assert decode_image(saved(clear), MANY)[0].tolist() == [[255, 255, 255], [255, 0, 0]]
    palette = Image.new("P", (1, 1), 3)
    palette.putpalette([0] * 12)
    assert decode_image(saved(palette, transparency=3), MANY)[0, 0].tolist() == [255, 255, 255]


def test_printers_colours_become_screen_colours() -> None:
    decoded = decode_image(saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG", quality=100), MANY)
    assert decoded[0, 0, 0] > 240
    assert decoded[0, 0, 1:].max() < 15


def test_the_array_may_be_written_to() -> None:
    assert decode_image(saved(Image.new("RGB", (2, 2))), MANY).flags.writeable


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    """A few bytes that announce 60000 x 60000 pixels."""
    chunks = (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(9)))
    bomb = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        bomb += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    with pytest.raises(ValueError, match=r"too large|60000 x 60000"):
        decode_image(bomb, MANY)
    with pytest.raises(ValueError, match=r"100 x 100 pixels, at most 9999"):
        decode_image(saved(Image.new("L", (100, 100))), 9999)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"random", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"<!DOCTYPE html><html>Log in</html>", "a web page"),
        (saved(Image.new("RGB", (50, 50)))[:60], "damaged"),
        (saved(Image.effect_noise((50, 50), 90), "JPEG")[:400], "damaged"),
    ],
)
def test_what_is_not_a_whole_picture_is_refused_with_the_reason(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_image(data, MANY)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about the damage
def test_every_hostile_file_is_read_right_or_refused_with_the_reason() -> None:
    wrong = []
    for name, (data, expected) in corpus().items():
        try:
            outcome: Any = decode_image(data, MAX_PIXELS).shape[:2]
        except ValueError as error:
            outcome = str(error)
        as_expected = expected in outcome if isinstance(expected, str) else outcome == expected
        wrong += [] if as_expected else [f"{name}: {outcome}, expected {expected}"]
    assert wrong == []


def test_no_hostile_file_takes_much_memory_or_crashes() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.models.data.hostile_images"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert (ran.returncode, ran.stdout.strip()) == (0, str(len(corpus()))), ran.stderr


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000"]),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), min_size=1, max_size=6),
)
def test_a_file_with_bytes_changed_anywhere_is_an_image_or_a_value_error(
    kind: str, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(saved(Image.linear_gradient("L").resize((20, 14)), kind))
    for at, change in changes:
        data[at % len(data) : at % len(data) + len(change)] = change
    try:
        decoded = decode_image(bytes(data), 10_000)
    except ValueError:
        return
    assert (decoded.ndim, decoded.shape[2]) == (3, 3)
    assert decoded.dtype == np.uint8
    assert 0 < decoded.size <= 30_000


RAMP = np.tile(np.linspace(0, 1, 64), (32, 1))  # (32, 64), dark on the left


def deep_png(samples: Any, stated: bytes = b"") -> bytes:
    """A PNG of 16 bits; `stated` is the contents of sBIT."""
    data = bytes(imagecodecs.png_encode(samples.astype(np.uint16)))
    chunk = b"sBIT" + stated
    made = struct.pack(">I", len(stated)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:33] + made + data[33:] if stated else data


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_deep_png_is_scaled_by_what_it_holds(bits: int) -> None:
    grey = (RAMP * ((1 << bits) - 1)).round()
    alpha = np.full_like(grey, 65535)
    for samples in (grey, np.stack([grey, alpha], 2), np.stack([grey] * 3, 2), np.stack([grey] * 3 + [alpha], 2)):
        image = decode_image(deep_png(samples), MANY)
        assert np.abs(image - (RAMP * 255)[:, :, None]).max() <= 1


def test_the_significant_bits_of_a_png_are_its_depth() -> None:
    dark = (RAMP * 900).round()
    assert decode_image(deep_png(dark), MANY).max() == round(900 * 255 / 1023)
    assert decode_image(deep_png(dark, b"\x0c"), MANY).max() == round(900 * 255 / 4095)
    assert decode_image(deep_png(RAMP * 65535, b"\x0c"), MANY).max() == 255


def test_deep_transparency_is_white() -> None:
    layer = np.zeros((2, 2, 4), np.uint16)
    layer[0, :, 3] = 65535
    assert decode_image(deep_png(layer), MANY)[:, 0, 0].tolist() == [0, 255]


def test_deep_jpegs() -> None:
    twelve = (RAMP * 4095).round().astype(np.uint16)
    for data, tolerance in (
        (imagecodecs.jpeg8_encode(twelve, level=95, bitspersample=12), 4),
        (imagecodecs.jpeg8_encode(twelve, lossless=True, bitspersample=12), 1),
        (imagecodecs.jpeg8_encode((RAMP * 255).astype(np.uint8), lossless=True), 1),
        (imagecodecs.jpegls_encode(twelve), 1),
        (imagecodecs.jpegls_encode((RAMP * 255).round().astype(np.uint8)), 1),
    ):
        assert np.abs(decode_image(bytes(data), MANY)[:, :, 0] - RAMP * 255).max() <= tolerance


def test_formats_that_state_their_depth_are_scaled_by_it() -> None:
    twelve = (RAMP * 4095).round().astype(np.uint16)
    dark = b"P5 64 32 4095\n" + (twelve // 8).astype(">u2").tobytes()
    assert abs(int(decode_image(dark, MANY).max()) - 32) <= 1
    assert decode_image(b"P5 64 32 4095\n" + twelve.astype(">u2").tobytes(), MANY).max() == 255
    file = bytes(imagecodecs.jpeg2k_encode(twelve, level=0, reversible=True, bitspersample=12))
    assert np.abs(decode_image(file, MANY)[:, :, 0] - RAMP * 255).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_every_frame_of_an_animation_is_a_page(kind: str) -> None:
    frames = [Image.new("RGB", (9, 7), (value, value, value)) for value in (10, 90, 170, 250)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with open_pages(data, MANY) as pages:
        assert (len(pages), list(pages.sizes)) == (4, [(7, 9)] * 4)
        assert [int(pages.read(page)[3, 4, 0]) for page in (3, 0, 2, 1)] == [250, 10, 170, 90]
    assert decode_image(data, MANY, page=2)[0, 0, 0] == 170
    with pytest.raises(ValueError, match="it has 4 pages, page 5 is asked for"):
        decode_image(data, MANY, page=4)


def test_a_path_is_opened_like_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(Image.new("RGB", (9, 7), "white")))
    with open_pages(tmp_path / "a.png", MANY) as pages:
        assert pages.read(0).min() == 255
    with pytest.raises(FileNotFoundError):
        open_pages(tmp_path / "b.png", MANY)


def test_an_orientation_behind_the_pixels_of_a_png_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.new("L", (9, 7)), exif=exif)
    assert decode_image(data, MANY).shape == (9, 7, 3)
    at = data.index(b"eXIf") - 4
    length = struct.unpack(">I", data[at : at + 4])[0] + 12
    moved = data[:at] + data[at + length : -12] + data[at : at + length] + data[-12:]
    assert decode_image(moved, MANY).shape == (9, 7, 3)
    with open_pages(moved, MANY) as pages:
        assert pages.sizes[0] == (9, 7)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\0\0\0\x18ftypheic", "HEIF family"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"v/1\x01", "an OpenEXR file"),
        (b"SIMPLE  =                    T", "a FITS file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"NRRD0004\n", "an NRRD file"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (bytes(344) + b"n+1\0", "a NIfTI file"),
    ],
)
def test_whole_files_of_other_kinds_are_named_and_not_called_damaged(start: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        decode_image(start + bytes(500), MANY)
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("container", ["jp2", "j2k"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_white_stays_white_in_deep_jpeg_2000(bits: int, container: str, channels: int) -> None:
    """Pillow rounds samples up beyond 255, which are black then."""
    top = (1 << bits) - 1
    ramp = np.linspace(0, top, 64).round().astype(np.uint8 if bits == 8 else np.uint16)
    samples = np.tile(ramp[:, None], (8, 1, channels)) if channels > 1 else np.tile(ramp, (8, 1))
    if channels == 4:
        samples[:, :, 3] = top
    data = imagecodecs.jpeg2k_encode(samples, level=0, codecformat=container, bitspersample=bits)
    image = decode_image(data, MANY)
    assert np.abs(image[:, :, 0] - np.linspace(0, 255, 64)).max() < 2


def test_a_bitmap_whose_fourth_byte_is_not_used_is_opaque() -> None:
    """All of it was transparent, and so white."""
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[:, :, 2] = 200
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 124, 6, 4, 1, 32, 3, pixels.size, 0, 0, 0, 0) + masks + bytes(68)
    data = b"BM" + struct.pack("<IHHI", 138 + pixels.size, 0, 0, 138) + header + pixels.tobytes()
    assert decode_image(data, MANY).reshape(-1, 3).tolist() == [[200, 0, 0]] * 24


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_grey_of_few_bits_is_white(bits: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = bytes([0, 1 << 8 - 2 * bits])  # samples 0 and 1
    header = struct.pack(">IIBBBBB", 2, 1, bits, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", b"\0\1"), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    image = decode_image(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks), MANY)
    assert image[0].tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_avif_is_read_upright_and_frame_by_frame() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(saved(Image.new("RGB", (16, 8)), "AVIF", exif=exif), MANY).shape == (16, 8, 3)
    frames = [Image.new("RGB", (16, 8), colour) for colour in ("red", "blue")]
    with open_pages(saved(frames[0], "AVIF", quality=100, save_all=True, append_images=frames[1:]), MANY) as pages:
        assert pages.sizes == [(8, 16)] * 2
        assert [int(pages.read(page)[..., channel].min()) > 240 for page, channel in ((0, 0), (1, 2))] == [True, True]


def test_of_a_camera_file_of_several_views_the_first_is_shown_and_the_others_told() -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    file = BytesIO()
    first.save(file, "MPO", save_all=True, append_images=[second])
    with open_pages(file.getvalue(), 100) as pages:
        assert pages.read(0)[0, 0, 0] > 200
        assert pages.notes == ("it has 2 views, of which the first is shown",)


def test_a_file_whose_first_bytes_cannot_be_read_is_told_so():
    with pytest.raises(ValueError, match="cannot be read"):
        open_pages(Path("/proc/self/mem"), max_pixels=1000)  # no address of any process
