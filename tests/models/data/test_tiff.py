"""A TIFF of any depth, layout, compression and colours shows its ramp from dark to bright; what cannot is named."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from models.data.decoding import decode_image, open_pages

MANY = 1_000_000
RAMP = np.tile(np.linspace(0, 1, 64), (32, 1))  # (32, 64), dark on the left
SAMPLES = Path(__file__).parents[4] / "shared" / "cases"


def ramp(top: float, dtype: Any, low: float = 0) -> NDArray[Any]:
    return (low + RAMP * (top - low)).round(6).astype(dtype)


def written(array: NDArray[Any], **options: Any) -> bytes:
    file = BytesIO()
    options.setdefault("photometric", "minisblack")
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def assert_shows_the_ramp(data: bytes, tolerance: float = 0.995) -> NDArray[np.uint8]:
    image = decode_image(data, MANY)
    assert (image.shape, image.dtype) == ((32, 64, 3), np.dtype(np.uint8))
    assert image.flags.writeable
    for channel in range(3):
        assert np.corrcoef(image[:, :, channel].ravel(), RAMP.ravel())[0, 1] > tolerance
    assert image.max() >= 240
    assert image.min() <= 15
    return image


DEPTHS: list[tuple[float, Any, float]] = [
    (255, np.uint8, 0),
    (255, np.uint16, 0),
    (1023, np.uint16, 0),
    (4095, np.uint16, 0),
    (16383, np.uint16, 0),
    (65535, np.uint16, 0),
    (4095, ">u2", 0),
    (4095, np.int16, 0),
    (3000, np.int16, -1000),
    (100, np.int8, -100),
    (4095, np.uint32, 0),
    (4e9, np.uint32, 0),
    (1e6, np.int32, -1e6),
    (1e12, np.uint64, 0),
    (1, np.float16, 0),
    (1, np.float32, 0),
    (1e-5, np.float64, -1e-5),
    (1e200, np.float64, 0),
]


@pytest.mark.parametrize(("top", "dtype", "low"), DEPTHS)
@pytest.mark.parametrize("bigtiff", [False, True])
def test_every_depth_uses_the_whole_range(top: float, dtype: Any, low: float, bigtiff: bool) -> None:
    array = low + RAMP * (top - low) if dtype is np.float64 else ramp(top, dtype, low)
    assert_shows_the_ramp(written(array, bigtiff=bigtiff))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_bits_are_scaled_by_the_tag(bits: int) -> None:
    """tifffile writes no packed samples, so the rows are packed here."""
    values = (RAMP * ((1 << bits) - 1)).round().astype(np.uint16)
    planes = ((values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8)
    pixels = np.packbits(planes.reshape(32, -1), axis=1).tobytes()
    assert_shows_the_ramp(bare_tiff(bits, pixels))


def bare_tiff(bits: int, pixels: bytes, *more: tuple[int, int, int, int]) -> bytes:
    entries = [
        *((256, 3, 1, 64), (257, 3, 1, 32), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 32), (279, 4, 1, len(pixels))),
        *more,
    ]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    pixels += bytes(len(pixels) % 2)
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_scaled_by_the_tag(bits: int) -> None:
    values = (RAMP * ((1 << bits) - 1)).round().astype(np.uint8)
    planes = (values[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    image = decode_image(bare_tiff(bits, np.packbits(planes.reshape(32, -1), axis=1).tobytes()), MANY)
    assert image[:, :, 0].tolist() == (values * np.uint8(255 // ((1 << bits) - 1))).tolist()


@pytest.mark.parametrize("tag", [281, 341])
def test_a_largest_sample_value_that_is_stated_counts(tag: int) -> None:
    dark = ramp(900, np.uint16)
    assert decode_image(written(dark), MANY).max() == round(900 * 255 / 1023)
    assert decode_image(written(dark, extratags=[(tag, 3, 1, 4095, True)]), MANY).max() == round(900 * 255 / 4095)


def test_the_bits_that_ome_states_count() -> None:
    file = BytesIO()
    tifffile.imwrite(file, ramp(900, np.uint16), ome=True, metadata={"axes": "YX", "SignificantBits": 12})
    assert decode_image(file.getvalue(), MANY).max() == round(900 * 255 / 4095)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_white_may_be_the_smallest_value(dtype: Any) -> None:
    top = {np.uint8: 255, np.uint16: 4095, np.float32: 1}[dtype]
    assert_shows_the_ramp(written(top - ramp(top, dtype), photometric="miniswhite"))


@pytest.mark.parametrize("layout", ["contig", "separate"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_colours_may_be_interleaved_or_in_planes(layout: str, dtype: Any) -> None:
    top = {np.uint8: 255, np.uint16: 4095, np.float32: 1}[dtype]
    colour = np.stack([ramp(top, dtype), np.zeros((32, 64), dtype), ramp(top, dtype)[:, ::-1]], axis=2)
    array = colour if layout == "contig" else np.ascontiguousarray(np.moveaxis(colour, 2, 0))
    image = decode_image(written(array, photometric="rgb", planarconfig=layout), MANY)
    assert image[:, -1, 0].min() > 250
    assert not image[:, :, 1].any()
    assert image[:, 0, 2].min() > 250


@pytest.mark.parametrize(
    ("compression", "dtype"),
    [
        *((name, dtype) for name in ("lzw", "deflate", "zstd", "packbits", "lzma") for dtype in (np.uint8, np.uint16)),
        *(
            ("jpeg", np.uint8),
            ("jpeg2000", np.uint8),
            ("jpeg2000", np.uint16),
            ("webp", np.uint8),
            ("jpegxl", np.uint8),
        ),
        *(("lerc", np.float32), ("png", np.uint16)),
    ],
)
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_every_compression_in_strips_and_tiles(compression: str, dtype: Any, tile: Any) -> None:
    top = {np.uint8: 255, np.uint16: 4095, np.float32: 1}[dtype]
    array, kind = ramp(top, dtype), "minisblack"
    if compression == "webp":
        array, kind = np.repeat(array[:, :, None], 3, axis=2), "rgb"
    rows = None if tile else 8
    assert_shows_the_ramp(written(array, compression=compression, tile=tile, photometric=kind, rowsperstrip=rows))


def test_differences_between_neighbours_are_added_up() -> None:
    for dtype, top, predictor in ((np.uint16, 4095, 2), (np.float32, 1, 3)):
        assert_shows_the_ramp(written(ramp(top, dtype), compression="deflate", predictor=predictor))


def test_jpeg_colours_become_screen_colours() -> None:
    red = np.zeros((32, 64, 3), np.uint8)
    red[..., 0] = 250
    by_pillow = BytesIO()
    Image.fromarray(red).save(by_pillow, "TIFF", compression="jpeg", quality=95)
    converted = np.array(Image.fromarray(red).convert("YCbCr"))
    for data in (
        by_pillow.getvalue(),
        written(red, compression="jpeg", photometric="rgb"),
        written(converted, compression="jpeg", photometric="ycbcr"),
    ):
        image = decode_image(data, MANY)
        assert image[..., 0].min() > 240
        assert image[..., 1:].max() < 12


def test_brightness_and_colour_without_jpeg() -> None:
    """Pillow's own library unpacks colours of lower resolution, which tifffile does not."""
    file = BytesIO()
    Image.new("YCbCr", (64, 32), (200, 128, 128)).save(file, "TIFF")
    assert abs(decode_image(file.getvalue(), MANY).astype(int) - 200).max() <= 2


def test_palettes_inks_and_alpha() -> None:
    palette = np.zeros((3, 256), np.uint16)
    palette[0] = np.arange(256) * 257
    image = decode_image(written(ramp(255, np.uint8), photometric="palette", colormap=palette), MANY)
    assert image[0, -1].tolist() == [255, 0, 0]
    image = decode_image(written(ramp(255, np.uint8), photometric="palette", colormap=palette // 257), MANY)
    assert image[0, -1].tolist() == [255, 0, 0]
    inks = np.zeros((32, 64, 4), np.uint8)
    inks[..., 1:3] = 255
    assert decode_image(written(inks, photometric="separated"), MANY)[0, 0].tolist() == [255, 0, 0]
    for dtype, top in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
        layer = np.zeros((32, 64, 4), dtype)
        layer[:, 32:, 0] = layer[:, 32:, 3] = top
        for kind in ("unassalpha", "assocalpha"):
            image = decode_image(written(layer, photometric="rgb", extrasamples=[kind]), MANY)
            assert image[0, [0, -1]].tolist() == [[255, 255, 255], [255, 0, 0]], (dtype, kind)


def test_a_page_of_many_channels_shows_the_first_and_says_so() -> None:
    channels = np.stack([ramp(4095, np.uint16), *[np.zeros((32, 64), np.uint16)] * 4])
    for layout, array in (("separate", channels), ("contig", np.ascontiguousarray(np.moveaxis(channels, 0, 2)))):
        data = written(array, planarconfig=layout)
        assert_shows_the_ramp(data)
        with open_pages(data, MANY) as pages:
            assert pages.notes == ("it has 5 channels, of which the first is shown",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_orientation_is_applied(orientation: int, dtype: Any) -> None:
    array = np.zeros((32, 64), dtype)
    array[:8, :8] = np.iinfo(dtype).max
    with open_pages(written(array, extratags=[(274, 3, 1, orientation, True)]), MANY) as pages:
        image = pages.read(0)
        assert pages.sizes[0] == image.shape[:2] == ((64, 32) if orientation >= 5 else (32, 64))
    corners = image[2, 2, 0], image[2, -3, 0], image[-3, -3, 0], image[-3, 2, 0]  # clockwise from top left
    assert int(np.argmax(corners)) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 0, 6: 1, 7: 2, 8: 3}[orientation]


STACK = np.stack([ramp(4095, np.uint16) // (page + 1) for page in range(5)])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"imagej": True},
        {"imagej": True, "truncate": True},
        {"ome": True},
        {"truncate": True},
        {"compression": "zlib"},
        {"bigtiff": True},
        {"metadata": None},
    ],
    ids=str,
)
def test_every_page_of_a_stack_is_a_frame_and_all_are_scaled_alike(options: dict[str, Any]) -> None:
    with open_pages(written(STACK, **options), MANY) as pages:
        assert (len(pages), list(pages.sizes)) == (5, [(32, 64)] * 5)
        assert [int(pages.read(page).max()) for page in (4, 0, 1, 2, 3)] == [51, 255, 127, 85, 64]
        with pytest.raises(IndexError):
            pages.read(5)


def test_labels_of_a_stack_are_the_names_of_its_pages() -> None:
    data = written(STACK, imagej=True, metadata={"Labels": [f"patient A, {n} s" for n in range(5)]})
    with open_pages(data, MANY) as pages:
        assert pages.names[3] == "patient A, 3 s"
    with open_pages(written(STACK), MANY) as pages:
        assert list(pages.names) == [f"page {n}" for n in range(1, 6)]


def test_previews_are_left_out_and_counted() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(ramp(255, np.uint8), photometric="minisblack")
        writer.write(ramp(255, np.uint8)[::2, ::2], photometric="minisblack", subfiletype=1)
        writer.write(ramp(255, np.uint8), photometric="minisblack")
    with open_pages(file.getvalue(), MANY) as pages:
        assert len(pages) == 2
        assert pages.notes == ("1 previews or masks in it are left out",)


@pytest.mark.parametrize("described", ["Aperio Image Library v10\n64x32", "any program"])
def test_levels_of_a_pyramid_that_does_not_say_so_are_no_pages(described: str) -> None:
    """Microscopes write them, and a small picture between them, as if they were pages."""
    colours = np.repeat((RAMP * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    file = BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        for step, tile in ((1, (16, 16)), (4, None), (2, (16, 16))):
            level = colours[::step, ::step]
            tiff.write(level, photometric="rgb", metadata=None, description=described, tile=tile)
    with open_pages(file.getvalue(), MANY) as pages:
        assert pages.sizes == [(32, 64)]
        assert pages.notes == ("2 previews or masks in it are left out",)


@pytest.mark.parametrize(
    ("dtype", "top", "nothing"),
    [
        (np.float32, 1, "-9999"),
        (np.float32, 1, "-3.4028234663852886e+38"),
        (np.float32, 1, "nan"),
        (np.float64, 1, "1e+30"),
        (np.int16, 1000, "-32768"),
        (np.uint16, 1000, "65535"),
    ],
)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_a_value_for_no_data_is_black_and_does_not_count(
    dtype: Any, top: float, nothing: str, photometric: str
) -> None:
    samples = ramp(top, dtype)
    samples[:8] = np.float64(nothing)
    if photometric == "miniswhite":
        samples = samples[:, ::-1]
    image = decode_image(written(samples, photometric=photometric, extratags=[(42113, "s", 0, nothing, True)]), MANY)
    assert not image[:8].any() or nothing == "nan"
    assert np.corrcoef(image[8:, :, 1].ravel(), RAMP[8:].ravel())[0, 1] > 0.99
    assert image[8:].max() >= 240
    assert image[8:].min() <= 15


def test_pages_of_several_sizes_and_depths() -> None:
    file = BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(ramp(255, np.uint8), photometric="minisblack", metadata=None)
        writer.write(ramp(4095, np.uint16)[:10, :20], photometric="minisblack", metadata=None)
    with open_pages(file.getvalue(), MANY) as pages:
        assert list(pages.sizes) == [(32, 64), (10, 20)]
        assert [pages.read(page).shape[:2] for page in (0, 1)] == [(32, 64), (10, 20)]


def test_what_is_not_supported_is_named() -> None:
    for dtype, said in ((np.complex64, "64-bit complex numbers"), (np.complex128, "128-bit complex numbers")):
        with pytest.raises(ValueError, match=f"TIFF of {said}") as caught:
            decode_image(written(ramp(1, np.float32).astype(dtype)), MANY)
        assert "damaged" not in str(caught.value)
    file = bytearray(bare_tiff(8, bytes(2048)))
    at = file.rindex(struct.pack("<HHI", 259, 3, 1))
    file[at + 8 : at + 10] = struct.pack("<H", 34676)
    with pytest.raises(ValueError, match="compressed by SGILOG, which is not supported"):
        decode_image(bytes(file), MANY)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_that_is_cut_off_is_damaged(share: float) -> None:
    for options in ({}, {"compression": "lzw"}, {"compression": "zstd", "tile": (16, 16)}):
        data = written(np.random.default_rng(0).integers(0, 4096, (32, 64)).astype(np.uint16), **options)
        with pytest.raises(ValueError, match="damaged"):
            decode_image(data[: int(len(data) * share)], MANY)


def test_samples_of_the_public_reports() -> None:
    if not SAMPLES.is_dir():
        pytest.skip(f"needs the files in {SAMPLES}")
    for name in ("gray12in16.png", "gray12in16.tif"):
        assert decode_image((SAMPLES / "depth12" / name).read_bytes(), MANY).max() >= 240
    with open_pages(SAMPLES / "multipage" / "stack3.tif", MANY) as pages:
        assert len(pages) == 3
