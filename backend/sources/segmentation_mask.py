"""CVAT's "Segmentation mask 1.1", Pascal VOC's layout: labelmap.txt and a coloured PNG for each image."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from itertools import chain, filterfalse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.sources.conversion import Conversion, Exported, LeftOut, Mask, Region, convert, offering
from backend.sources.cvat_shapes import is_background
from backend.sources.finding import ImageFiles, files_below, subset_of
from models.data.files import IMAGE_SUFFIXES, MAX_PIXELS
from models.data.names import is_junk
from models.data.pictures import DEEP_MODES
from models.data.text import decode_text
from models.errors import DataError

IMAGES = "JPEGImages"
MASKS, LISTS, OBJECTS = "SegmentationClass", "ImageSets/Segmentation", "SegmentationObject"
# Pixels of this colour are on the border of an object and belong to no class.
VOID = 0xE0E0C0
ROW = re.compile(r"([^#:][^:]*):\s*(?:(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3}))?\s*(?::.*)?")


def is_label_map(content: Any) -> bool:
    """Whether a text file is labelmap.txt: "name:red,green,blue:parts:actions" in each line."""
    return isinstance(content, str) and bool(_rows(content)) and all(match for _, match in _rows(content))


def _rows(text: str) -> list[tuple[str, re.Match[str] | None]]:
    lines = [line.strip() for line in text.splitlines()]
    return [(line, ROW.fullmatch(line)) for line in lines if line and not line.startswith("#")]


def convert_masks(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write exports of coloured masks as a data folder; see `convert`.

    The lists in ImageSets/Segmentation say which images there are, and their names the split. Of a listed image
    without a mask file nothing was drawn: CVAT writes none for such an image. The background is no class.

    Raises:
        DataError: two labels have one colour, one is black, or there are no masks.
    """
    folders = {path.parent: _colours(path.name, content) for path, content in files.items()}
    labels = {root: [*filterfalse(is_background, colours.values())] for root, colours in folders.items()}
    unmasked: list[str] = []
    exported = (
        row
        for root, colours in folders.items()
        for row in offering(_exported(root, colours, images, unmasked), labels[root])
    )
    masks = [path for path in images.files if _is_mask(path)]
    result = convert(exported, tuple(dict.fromkeys(chain(*labels.values()))), images, out, other_files=masks)
    if unmasked:
        first = ", ".join(unmasked[:3]) + (" ..." if len(unmasked) > 3 else "")
        result.notes.append(
            f"without a file in {MASKS}, taken as images on which nothing is: {len(unmasked)} ({first})"
        )
    return result


def _colours(name: str, text: str) -> dict[int, str]:
    """Colour, 0xRRGGBB -> label. A label without a colour has that of Pascal VOC for its row."""
    colours: dict[int, str] = {}
    for index, (_, match) in enumerate(_rows(text)):
        assert match is not None  # is_label_map
        label, *levels = match.groups()
        colour = int.from_bytes(min(int(level), 255) for level in levels) if levels[0] else voc_colour(index)
        if colour == VOID:
            continue
        if not colour and not is_background(label):
            raise DataError(
                f"{name} gives {label.strip()!r} black, which is the background's; the first row must be that"
            )
        if colour in colours:
            raise DataError(f"{name} gives {colours[colour]!r} and {label.strip()!r} one colour, {_text(colour)}")
        colours[colour] = label.strip()
    return colours


def voc_colour(index: int) -> int:
    """The colour 0xRRGGBB of a row of Pascal VOC's label map.

    >>> [f"{voc_colour(index):06x}" for index in range(4)]
    ['000000', '800000', '008000', '808000']
    """
    red = green = blue = 0
    for bit in range(8):
        for_bit = index >> 3 * bit
        red |= (for_bit & 1) << 7 - bit
        green |= (for_bit >> 1 & 1) << 7 - bit
        blue |= (for_bit >> 2 & 1) << 7 - bit
    return red << 16 | green << 8 | blue


def _exported(
    root: Path, colours: Mapping[int, str], images: ImageFiles, unmasked: list[str]
) -> Iterator[Exported | LeftOut]:
    """The listed images, and those with a mask that no list has.

    Args:
        root: folder of labelmap.txt.
        colours: as `_colours` gives them.
        images: all files of the export.
        unmasked: gets the names of listed images without a mask file.
    """
    # Those that are no PNG are refused by name: without them the image would count as one on which nothing is.
    masks = {
        path.relative_to(root / MASKS).with_suffix("").as_posix(): path
        for path in sorted((root / MASKS).rglob("*"), key=lambda path: path.suffix.lower() == ".png")
        if path.suffix.lower() in IMAGE_SUFFIXES and not is_junk(Path(path.name))
    }
    if not masks:
        raise DataError(f"{MASKS} holds no masks beside labelmap.txt; export it again")
    subsets = _subsets(root / LISTS)
    pictures: dict[str, list[Path]] = defaultdict(list)
    # Of labelmap.txt alone nothing is known of the files beside it: its images have their own folder.
    for picture in images.files or files_below(root / IMAGES):
        if picture.suffix.lower() in IMAGE_SUFFIXES and not _is_mask(picture):
            pictures[picture.stem].append(picture)
    for name in dict.fromkeys([*subsets, *sorted(masks)]):
        subset, path = subsets.get(name, ""), masks.get(name)
        found = [picture for picture in pictures[name.rpartition("/")[2]] if _is_of(picture, name)]
        if len(found) != 1:
            places = ", ".join(map(str, found)) or "not there; export with images, or name their folder with --images"
            yield LeftOut(name, f"its image is {places}" if not found else f"its image may be any of {places}")
            continue
        if path is None:
            if (root / OBJECTS / f"{name}.png").exists():
                yield LeftOut(name, f"it is missing in {MASKS}, but not in {OBJECTS}")
                continue
            unmasked.append(name)
            yield Exported(name, (), subset=subset, file=found[0])
            continue
        try:
            labels, shape = _labels(path, colours)
        except DataError as error:
            yield LeftOut(name, str(error))
            continue
        regions = [Region(label, partial(_draw, path, values)) for label, values in labels.items()]
        yield Exported(name, regions, shape, subset=subset, file=found[0])


def _is_mask(path: Path) -> bool:
    return bool({MASKS, OBJECTS} & {*path.parts})


def _is_of(picture: Path, name: str) -> bool:
    """Whether a file is the image of a name, which may have folders and has no ending."""
    return f"/{picture.with_suffix('').as_posix()}".endswith(f"/{name}")


def _subsets(folder: Path) -> dict[str, str]:
    """Image -> subset, from the lists. A list of all images, such as trainval.txt, says of none where it belongs."""
    subsets: dict[str, str] = {}
    for path in sorted(folder.glob("*.txt")):
        words = {word for word in ("train", "val", "test") if word in path.stem.lower()}
        for line in decode_text(path.read_bytes(), "replace").splitlines():
            name = line.strip().strip('"')
            if name:
                subsets[name] = subset_of(path.stem) if len(words) == 1 else subsets.get(name, "")
    return subsets


def _labels(path: Path, colours: Mapping[int, str]) -> tuple[dict[str, list[int]], tuple[int, int]]:
    """The labels on a mask with their colours, and its (H, W). Raises DataError where it has other colours."""
    levels, grey, hidden = _pixels(path)
    if unclear := [label for colour, label in colours.items() if colour in hidden and not is_background(label)]:
        raise DataError(f"{path.name} in {MASKS} has the colour of {unclear[0]!r} where it is transparent")
    found = [int(colour) for colour in np.unique(levels)]
    named, void = dict(colours), {VOID, 0}
    if grey and not {*found} <= {*named, *void}:
        # A grey picture of row numbers, 255 on the border of objects.
        if not is_background(next(iter(colours.values()))):
            raise DataError(
                f"{path.name} in {MASKS} has grey numbers, and whether 0 is the background is not known: the first row "
                "of labelmap.txt must be background"
            )
        named = {row * 0x010101: label for row, label in enumerate(colours.values())}
        void = {0xFFFFFF} if {*found} & ({*named} - {0}) else set()
    if others := [colour for colour in found if colour not in named and colour not in void]:
        raise DataError(f"{path.name} in {MASKS} has the colour {_text(others[0])}, which labelmap.txt does not list")
    labels: dict[str, list[int]] = defaultdict(list)
    for colour in found:
        if colour in named and not is_background(named[colour]):
            labels[named[colour]].append(colour)
    return labels, levels.shape


def _draw(path: Path, colours: list[int], shape: tuple[int, int]) -> Mask:
    levels, _, _ = _pixels(path)
    if levels.shape != shape:
        raise DataError(f"its mask is {levels.shape[1]}x{levels.shape[0]}, the image is {shape[1]}x{shape[0]}")
    return np.isin(levels, colours)


@lru_cache(maxsize=1)  # the labels of an image are drawn one after the other
def _pixels(path: Path) -> tuple[NDArray[np.uint32], bool, frozenset[int]]:
    """The colours 0xRRGGBB of a PNG, shape (H, W), 0 where it is transparent; whether it is grey; what is transparent.

    Raises:
        DataError: names the file.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG",)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"it has {width} x {height} pixels, at most {MAX_PIXELS} are taken")
            grey = image.mode in ("1", "L")
            if image.mode in DEEP_MODES:
                raise ValueError("it has 16 bits a pixel, and its colours 8")
            layers = np.asarray(image.convert("RGBA"))  # (H, W, 4)
    except UnidentifiedImageError as error:
        raise DataError(f"{path.name} in {MASKS} cannot be read: it is no PNG; export it again") from error
    except Exception as error:
        raise DataError(f"{path.name} in {MASKS} cannot be read: {error}; export it again") from error
    levels = np.zeros(layers.shape[:2], np.uint32)
    for channel in range(3):
        levels = levels << 8 | layers[..., channel]
    unseen = layers[..., 3] == 0
    hidden = frozenset(np.unique(levels[unseen]).tolist())
    levels[unseen] = 0
    return levels, grey, hidden


def _text(colour: int) -> str:
    return ",".join(map(str, colour.to_bytes(3, "big")))
