"""CVAT's "Segmentation mask 1.1": colours are labels, lists are the split, black is no class."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.sources.segmentation_mask import is_label_map, voc_colour
from backend.sources.source import open_source
from models.errors import DataError
from tests.backend.sources.exports import HEIGHT, WIDTH, block, picture, read

MAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nscratch:250,50,83::\ndent:0,0,12::\n"
RED, BLUE, VOID = (250, 50, 83), (0, 0, 12), (224, 224, 192)
SCRATCH, DENT = block(5, 10, 13, 22), block(20, 30, 25, 34)


def painted(*parts: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    colours = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for mask, colour in parts:
        colours[mask] = colour
    return colours


def save(path: Path, pixels: np.ndarray, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.quantize(16) if mode == "P" else image.convert(mode)).save(path)


def export(
    folder: Path, masks: dict[str, np.ndarray], label_map: str = MAP, mode: str = "RGB", **lists: list[str]
) -> Path:
    """As CVAT writes it with images; `lists` are those of ImageSets/Segmentation."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labelmap.txt").write_text(label_map, encoding="utf-8")
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    lists = lists or {"default": [*masks]}
    for subset, names in lists.items():
        text = "".join(f"{name}\n" for name in names)
        (folder / "ImageSets" / "Segmentation" / f"{subset}.txt").write_text(text, encoding="utf-8")
        for name in names:
            picture(folder / "JPEGImages" / f"{name}.png")
    for name, pixels in masks.items():
        save(folder / "SegmentationClass" / f"{name}.png", pixels, mode)
        save(folder / "SegmentationObject" / f"{name}.png", pixels, mode)
    return folder


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
@pytest.mark.parametrize("alone", [False, True])
def test_colours_become_masks(tmp_path: Path, mode: str, alone: bool) -> None:
    masks = {"a": painted((SCRATCH, RED), (DENT, BLUE)), "sub/b": painted((DENT, VOID), (block(21, 31, 24, 33), BLUE))}
    folder = export(tmp_path / "export", masks, mode=mode)
    with open_source(folder / "labelmap.txt" if alone else folder) as source:
        data, found = read(source.folder)
        assert not source.unread  # the masks themselves are no images that the export forgot
    assert data.classes == ("scratch", "dent")
    assert np.array_equal(found["a"]["scratch"], SCRATCH)
    assert np.array_equal(found["a"]["dent"], DENT)
    assert np.array_equal(found["b"]["dent"], block(21, 31, 24, 33))
    assert data.samples["b"].presence == {"scratch": False, "dent": True}


@pytest.mark.parametrize("label_map", [MAP, "background\nscratch\ndent\n".replace("\n", ":::\n")])
def test_grey_numbers_are_rows_of_the_label_map(tmp_path: Path, label_map: str) -> None:
    numbers = SCRATCH * 1 + DENT * 2 + block(0, 0, 1, 1) * 255
    folder = export(tmp_path / "export", {"a": painted()}, label_map)
    save(folder / "SegmentationClass" / "a.png", numbers.astype(np.uint8), "L")
    with open_source(folder) as source:
        masks = read(source.folder)[1]["a"]
    assert np.array_equal(masks["scratch"], SCRATCH)
    assert np.array_equal(masks["dent"], DENT)


@pytest.mark.parametrize("rows", [[1, 2], [1, 0, 2]])
def test_grey_numbers_without_a_background_in_the_first_row_are_refused(tmp_path: Path, rows: list[int]) -> None:
    """The whole background was learnt as the first label."""
    lines = MAP.splitlines()[1:]
    folder = export(tmp_path / "export", {"a": painted()}, "\n".join(lines[row] for row in rows))
    save(folder / "SegmentationClass" / "a.png", SCRATCH.astype(np.uint8), "L")
    said = r"a\.png in SegmentationClass has grey numbers, .* must be background"
    with pytest.raises(DataError, match=said), open_source(folder):
        pass


def with_alpha(colours: np.ndarray, opaque: np.ndarray) -> np.ndarray:
    return np.dstack([colours, opaque.astype(np.uint8) * 255])


def test_what_is_transparent_is_background(tmp_path: Path) -> None:
    colours = painted((~SCRATCH, (255, 255, 255)), (SCRATCH, RED))
    folder = export(tmp_path / "export", {"a": with_alpha(colours, SCRATCH)}, mode="RGBA")
    with open_source(folder) as source:
        assert np.array_equal(read(source.folder)[1]["a"]["scratch"], SCRATCH)


@pytest.mark.parametrize(
    ("pixels", "mode", "said"),
    [
        (
            with_alpha(painted((SCRATCH, RED), (DENT, BLUE)), SCRATCH),
            "RGBA",
            "has the colour of 'dent' where it is tran",
        ),
        (SCRATCH.astype(np.uint16) * 300, "I;16", "cannot be read: it has 16 bits a pixel"),
    ],
)
def test_a_mask_that_may_mean_several_things_is_refused(
    tmp_path: Path, pixels: np.ndarray, mode: str, said: str
) -> None:
    folder = export(tmp_path / "export", {"a": pixels}, mode=mode)
    with pytest.raises(DataError, match=rf"a\.png in SegmentationClass {said}"), open_source(folder):
        pass


@pytest.mark.parametrize("mode", ["L", "1"])
def test_a_white_object_is_no_border(tmp_path: Path, mode: str) -> None:
    """Of a mask of black and white alone nothing tells the label; 255 is a border only beside row numbers."""
    folder = export(tmp_path / "export", {"a": painted(), "b": painted((DENT, BLUE))})
    save(folder / "SegmentationClass" / "a.png", (SCRATCH * 255).astype(np.uint8), mode)
    with open_source(folder, skip_bad=True) as source:
        data, masks = read(source.folder)
    assert "the colour 255,255,255, which labelmap.txt does not list" in data.skipped["a"]
    assert masks.keys() == {"b"}


def test_a_mask_may_have_an_upper_case_ending(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", {"a": painted((SCRATCH, RED)), "b": painted((DENT, BLUE))})
    (folder / "SegmentationClass" / "a.png").rename(folder / "SegmentationClass" / "a.PNG")
    with open_source(folder) as source:
        assert np.array_equal(read(source.folder)[1]["a"]["scratch"], SCRATCH)


def test_a_mask_of_another_kind_leaves_its_image_out_by_name(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", {"b": painted((DENT, BLUE))}, default=["a", "b"])
    save(folder / "SegmentationClass" / "a.bmp", painted((SCRATCH, RED)))
    with open_source(folder, skip_bad=True) as source:
        data, masks = read(source.folder)
    assert "a.bmp in SegmentationClass cannot be read: it is no PNG" in data.skipped["a"]
    assert masks.keys() == {"b"}


def test_labels_without_a_colour_have_those_of_pascal_voc(tmp_path: Path) -> None:
    assert [f"{voc_colour(index):06x}" for index in (1, 2, 3, 8, 255)] == [
        *("800000", "008000", "808000", "400000", "e0e0c0"),
    ]
    pixels = painted((SCRATCH, (128, 0, 0)), (DENT, (0, 128, 0)))
    with open_source(export(tmp_path / "export", {"a": pixels}, "background:::\nscratch:::\ndent:::\n")) as source:
        assert np.array_equal(read(source.folder)[1]["a"]["dent"], DENT)


def test_lists_are_the_split_and_say_which_images_there_are(tmp_path: Path) -> None:
    """CVAT writes no mask for an image on which nothing was drawn; that it was taken so is said."""
    masks = {"a": painted((SCRATCH, RED)), "b": painted((DENT, BLUE))}
    lists: dict[str, Any] = {"Train": ["a"], "Validation": ["b", "c"], "trainval": ["a", "b", "c"]}
    with open_source(export(tmp_path / "export", masks, **lists)) as source:
        data = read(source.folder)[0]
        assert any("without a file in SegmentationClass" in note and "1 (c)" in note for note in source.notes)
    assert data.splits["train"] == ("a",)
    assert data.splits["val"] == ("b", "c")
    assert data.samples["c"].presence == {"scratch": False, "dent": False}


@pytest.mark.parametrize(
    ("damage", "what", "why"),
    [
        (lambda f: save(f / "SegmentationClass/a.png", painted((SCRATCH, (9, 9, 9)))), "a", "the colour 9,9,9, which"),
        (lambda f: (f / "SegmentationClass/a.png").write_bytes(b"x"), "a", "cannot be read"),
        (lambda f: (f / "SegmentationClass/a.png").unlink(), "a", "missing in SegmentationClass, but not in"),
        (lambda f: (f / "JPEGImages/a.png").unlink(), "a", "its image is not there"),
        (lambda f: picture(f / "more" / "a.png"), "a", "its image may be any of"),
        (lambda f: picture(f / "JPEGImages" / "a.png", width=41), "a", "41x30"),
    ],
)
def test_a_mask_that_does_not_fit_leaves_its_image_out_by_name(
    tmp_path: Path, damage: object, what: str, why: str
) -> None:
    folder = export(tmp_path / "export", {"a": painted((SCRATCH, RED)), "b": painted((DENT, BLUE))})
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError, match=why), open_source(folder):
        pass
    with open_source(folder, skip_bad=True) as source:
        data, masks = read(source.folder)
    assert any(what in row for row in data.skipped)
    assert np.array_equal(masks["b"]["dent"], DENT)


@pytest.mark.parametrize(
    ("label_map", "said"),
    [
        ("background:0,0,0::\na:1,2,3::\nb:1,2,3::\n", r"gives 'a' and 'b' one colour, 1,2,3"),
        ("background:0,0,0::\n", "label"),
        ("scratch:::\ndent:::\n", r"labelmap\.txt gives 'scratch' black, which is the background's"),
        ("background:1,1,1::\nscratch:0,0,0::\n", r"labelmap\.txt gives 'scratch' black"),
    ],
)
def test_a_label_map_that_cannot_be_used_is_refused(tmp_path: Path, label_map: str, said: str) -> None:
    with pytest.raises(DataError, match=said), open_source(export(tmp_path / "e", {"a": painted()}, label_map)):
        pass


def test_labels_without_masks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(MAP)
    with pytest.raises(DataError, match="SegmentationClass holds no masks"), open_source(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "# nothing\n", "some text\n", "a:1,2:x\nb", "a: 1,2,3,4::", 7, None, {}])
def test_other_texts_are_no_label_map(text: object) -> None:
    assert not is_label_map(text)


def test_labels_with_blanks_and_windows_line_ends_are_read() -> None:
    assert is_label_map("background:0,0,0::\r\nlesion, old:1, 2, 3:part:act\r\nÄ b:4,5,6\r\n")
