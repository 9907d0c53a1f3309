"""A mask is what is white, however it is stored; what is no image or mask is refused by name, with the remedy."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from models.data.files import image_shape, read_image, read_mask
from models.errors import DataError


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("lunch at noon")
    with pytest.raises(DataError, match=r"notes\.png cannot be read as an image: it is not an image"):
        read_image(tmp_path / "notes.png")


OBJECT = np.zeros((6, 8), dtype=bool)
OBJECT[2:5, 3:7] = True
NUMBERS = np.zeros((20, 30), dtype=np.uint8)  # of two objects
NUMBERS[2:12, 3:9], NUMBERS[2:12, 15:20] = 1, 2


def layers(*values: Any) -> Image.Image:
    """A picture with these channels, each an array of bools, or one number for all pixels."""
    return Image.fromarray(np.stack([np.broadcast_to(np.uint8(255) * v, OBJECT.shape) for v in values], axis=-1))


def palette_mask() -> Image.Image:
    picture = Image.fromarray(OBJECT.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    return picture


MASKS = {
    "0 and 255": Image.fromarray(OBJECT.astype(np.uint8) * 255),
    "one bit": Image.fromarray(OBJECT),
    "sixteen bits": Image.fromarray(OBJECT.astype(np.uint16) * 65535),
    "0 and 255 in sixteen bits": Image.fromarray(OBJECT.astype(np.uint16) * 255),
    "a palette of black and white": palette_mask(),
    "grey as red, green and blue": layers(OBJECT, OBJECT, OBJECT),
    "opaque alpha": layers(OBJECT, OBJECT, OBJECT, 1),
    "white and transparent": layers(1, 1, 1, OBJECT),
    "soft edges": Image.fromarray(np.where(OBJECT, np.uint8(200), np.uint8(90))),
}


@pytest.mark.parametrize("kind", MASKS)
def test_white_is_the_object_however_it_is_stored(kind: str, tmp_path: Path) -> None:
    MASKS[kind].save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png", OBJECT.shape), OBJECT)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.fromarray(OBJECT.astype(np.uint8)), r"values up to 1 .*multiply them by 255"),
        (Image.fromarray(OBJECT * np.uint8(5)), r"values up to 5 .*numbers of classes"),
        (Image.fromarray(OBJECT.astype(np.uint16) * 4095), r"values up to 4095 .*65535 inside"),
        (Image.fromarray(NUMBERS.astype(np.uint16) * 300), r"values up to 600 .*numbers of classes or objects"),
        (Image.fromarray(NUMBERS * np.uint8(127)), r"areas of 127 .*255 inside"),
        (Image.fromarray(NUMBERS.astype(np.uint16) * 30000), r"areas of 30000 .*65535 inside"),
        (Image.fromarray(np.where(OBJECT, np.uint8(255), np.uint8(200))), r"values from 200 to 255 .*0 outside"),
        (layers(OBJECT, 0, 0), "is coloured"),
        (layers(OBJECT, 0, 0, 1), "is coloured"),
        (layers(0, 0, 0, OBJECT), "by transparency alone"),
        (layers(OBJECT, OBJECT, OBJECT, 0), "is transparent throughout"),
        (Image.new("L", (6, 8)), r"is 6x8, but its image is 8x6"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_remedy(picture: Image.Image, said: str, tmp_path: Path) -> None:
    picture.save(tmp_path / "m.png")
    with pytest.raises(DataError, match=rf"m\.png .*{said}"):
        read_mask(tmp_path / "m.png", picture.size[::-1] if picture.size != (6, 8) else OBJECT.shape)


def test_a_mask_of_several_pages_is_refused(tmp_path: Path) -> None:
    page = Image.fromarray(OBJECT)
    page.save(tmp_path / "m.png", format="TIFF", save_all=True, append_images=[page])
    with pytest.raises(DataError, match=r"m\.png has 2 pages, and a mask has one"):
        read_mask(tmp_path / "m.png", OBJECT.shape)


def test_a_mask_of_one_transparent_colour_is_empty(tmp_path: Path) -> None:
    layers(1, 1, 1, OBJECT & False).save(tmp_path / "m.png")
    assert not read_mask(tmp_path / "m.png", OBJECT.shape).any()


@pytest.mark.parametrize("content", [b"", b"\xff", b"no image"])
def test_what_is_no_image_is_refused_without_words_of_a_library(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.png").write_bytes(content)
    with pytest.raises(DataError, match=r"m\.png cannot be read as a mask: it is no image; export it again"):
        read_mask(tmp_path / "m.png", OBJECT.shape)


def test_edges_of_any_softness_are_no_areas(tmp_path: Path) -> None:
    """A blurred disc, and one that a JPEG has passed through."""
    rows, columns = np.mgrid[:90, :120]
    disc = np.hypot(rows - 45, columns - 60) < 30
    for radius in (1, 3, 8, 20):
        blurred = Image.fromarray(disc.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(radius))
        blurred.save(tmp_path / "m.png")
        assert np.array_equal(read_mask(tmp_path / "m.png", disc.shape), np.asarray(blurred) > 127)
    for quality in (5, 30, 75):
        Image.fromarray(disc.astype(np.uint8) * 255).save(tmp_path / "m.jpg", quality=quality)
        Image.open(tmp_path / "m.jpg").save(tmp_path / "m.png")
        assert (read_mask(tmp_path / "m.png", disc.shape) != disc).mean() < 0.03


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    MASKS["soft edges"].save(tmp_path / "m.png")
    (tmp_path / "m.png").write_bytes((tmp_path / "m.png").read_bytes()[:50])
    with pytest.raises(DataError, match=r"m\.png cannot be read as a mask"):
        read_mask(tmp_path / "m.png", OBJECT.shape)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_shape_is_told_without_decoding(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert image_shape(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[:2]


def test_what_has_no_shape_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("lunch at noon")
    with pytest.raises(DataError, match=r"notes\.png cannot be read as an image"):
        image_shape(tmp_path / "notes.png")


@pytest.mark.timeout(60)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image: it is a pipe"):
        read_image(tmp_path / "a.png")
