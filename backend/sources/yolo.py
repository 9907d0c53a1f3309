"""YOLO's segmentation format, as Ultralytics, Roboflow, CVAT and Label Studio write it: a text file for each image."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from backend.sources.conversion import Conversion, Exported, LeftOut, Mask, Region, convert, offering
from backend.sources.documents import read_text
from backend.sources.drawing import NO_NUMBERS, draw_box, draw_polygons
from backend.sources.finding import ImageFiles, Tail, agreeing, files_below, readings, subset_of
from models.data.files import IMAGE_SUFFIXES
from models.data.names import composed
from models.data.tables import SUBSETS
from models.data.text import decode_text
from models.errors import DataError

IMAGES, LABELS = "images", "labels"  # in any case, as on Windows
ANY_CASE = "".join(f"[{letter}{letter.upper()}]" for letter in LABELS)
NAMES = "classes.txt"  # a label a line, of tools that write no data.yaml
MAX_LABELS_BYTES = 64 << 20
BEYOND = 0.1  # of the image's size: a box that reaches farther was not drawn beyond an edge by accident


def has_texts(folder: Path) -> bool:
    """Whether a folder has YOLO's folder of texts, has folders with one each, or has texts beside images."""
    if any(inside.is_dir() for pattern in (ANY_CASE, f"*/{ANY_CASE}") for inside in folder.glob(pattern)):
        return True
    texts = {path.stem for path in folder.glob("*.txt") if path.name.lower() != NAMES}
    return bool(texts) and any(
        path.stem in texts and path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()
    )


def is_label_list(file: Path) -> bool:
    """Whether a file is the classes.txt of YOLO data, which lies beside the folders of texts or in one."""
    return file.name.lower() == NAMES and (file.parent.name.lower() == LABELS or has_texts(file.parent))


def read_label_list(file: Path) -> dict[str, Any]:
    """What a classes.txt says, as notes.json says it. Raises DataError where it is damaged or not short."""
    labels = read_text(file).split("\n")
    return {"categories": [{"id": index, "name": label.strip()} for index, label in enumerate(labels) if label.strip()]}


def is_yolo(content: Any) -> bool:
    """Whether a file names the labels of YOLO data: data.yaml, notes.json of Label Studio's export, classes.txt."""
    return _names(content) is not None


def _names(content: Any) -> list[Any] | dict[Any, Any] | None:
    """The labels, listed or by number; None for content of another kind."""
    if isinstance(content, dict):
        rows = content.get("categories")
        if not isinstance(rows, list) or {*content} - {"categories", "info"}:
            return None
        return {str(row.get("id")): row.get("name") for row in rows if isinstance(row, dict)}
    names = _settings(content).get("names") if isinstance(content, str) else None
    return names if isinstance(names, list | dict) else None


class _TextLoader(yaml.SafeLoader):
    """Takes plain words as text: otherwise a label "no" is False, and "010" the number 8. Nothing is still None."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the base class has it
        start: [row for row in rows if row[0].endswith(":null")]
        for start, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _settings(text: str) -> dict[Any, Any]:
    """The content of data.yaml, all of it as text."""
    try:
        settings = yaml.load(text, Loader=_TextLoader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def convert_yolo(files: Mapping[Path, Any], images: ImageFiles, out: Path) -> Conversion:
    """Write YOLO data as a data folder; see `convert`. The split is that of data.yaml, else read from names of folders.

    A line is a polygon, or a box, which is filled. An image without a text file has nothing on it: so YOLO's own tools
    read it. It must lie in a folder of images, or among others that have a text file: previews and masks are no images.
    Of a text that may be that of several images neither is read.

    Raises:
        DataError: a file names no labels, or is for keypoints; two of one folder differ; lines count labels from 1, or
            boxes seem to be corners.
    """
    classes: dict[str, None] = {}
    unlabelled: list[str] = []
    roots: dict[Path, list[str]] = {}
    parts: dict[Path, _Split] = {}
    for path, content in files.items():
        if is_label_list(path) and any(path.is_relative_to(other.parent) for other in files if other.name != path.name):
            continue  # repeats the other
        root = path.parent.parent if path.parent.name.lower() == LABELS else path.parent
        if isinstance(content, str) and "kpt_shape" in _settings(content):
            raise DataError(f"{path.name} is for keypoints, which have no area; export polygons")
        names = _names(content) or []
        rows = names if isinstance(names, list) else [names.get(str(index)) for index in range(len(names))]
        if not rows or not all(isinstance(name, str | int | float) and str(name).strip() for name in rows):
            raise DataError(f"{path.name} must name its labels as a list, or by numbers from 0")
        labels = [str(name) for name in rows]
        if roots.setdefault(root, labels) != labels:
            raise DataError(f"{path.name} names other labels than another file beside it; leave one of them")
        parts[root] = _Split(root, _settings(content) if isinstance(content, str) else {})
        classes |= dict.fromkeys(roots[root])
    # What lies below a folder with labels of its own is not that of the folder around it.
    inner = {root: [other for other in roots if root in other.parents and has_texts(other)] for root in roots}
    exported = (
        row
        for root, labels in roots.items()
        if has_texts(root) or not any(other in root.parents for other in roots)
        for row in offering(_exported(root, labels, images, parts[root], unlabelled, inner[root]), labels)
    )
    result = convert(exported, tuple(classes), images, out)
    if unlabelled and len(unlabelled) == result.used:
        raise DataError(f"none of {result.used} images has a text file, in a folder {LABELS} beside that of the images")
    if unlabelled:
        first = ", ".join(unlabelled[:3]) + (" ..." if len(unlabelled) > 3 else "")
        result.notes.append(f"without a text file, taken as images on which nothing is: {len(unlabelled)} ({first})")
    return result


class _Split:
    """Which part of the data an image belongs to, as data.yaml says it: folders, or lists of images.

    Args:
        root: folder of data.yaml.
        settings: what it holds.
    """

    def __init__(self, root: Path, settings: Mapping[Any, Any]) -> None:
        self._folders: list[tuple[Tail, str]] = []
        self._listed: dict[str, list[tuple[Tail, str]]] = defaultdict(list)  # name of a file -> paths with their subset
        for subset in SUBSETS:
            value = settings.get(subset)
            for entry in value if isinstance(value, list) else [value]:
                if not isinstance(entry, str) or not entry.strip():
                    continue
                if not entry.lower().endswith(".txt"):
                    self._folders.append((_tail(entry), SUBSETS[subset]))
                    continue
                bases = (root, root / str(settings.get("path") or ""), root / PurePosixPath(entry).parent.name)
                for line in _lines(path) if (path := _first(bases, entry)) else ():
                    if tail := _tail(line):
                        self._listed[tail[-1]].append((tail, SUBSETS[subset]))

    def of(self, path: Path) -> str:
        """The subset of an image, by its path below the folder; "" where nothing or more than one is said."""
        if named := self._listed.get(path.name):
            fits = [(agreeing(path.parts, tail), subset) for tail, subset in named]
        else:
            folders = [folder.parts for folder in path.parents]
            fits = [(max(_fit(folder, tail) for folder in folders), subset) for tail, subset in self._folders]
        best = max(fits, default=(0, ""))[0]
        found = {subset for fit, subset in fits if fit == best}
        return found.pop() if best and len(found) == 1 else ""


def _tail(path: str) -> Tail:
    return next(iter(readings(path)), ())


def _fit(path: Tail, tail: Tail) -> int:
    """How many parts of two paths agree from the end, if all of one do; else 0."""
    agreed = agreeing(path, tail)
    return agreed if agreed == min(len(path), len(tail)) else 0


def _first(folders: Iterable[Path], entry: str) -> Path | None:
    """The first file of a path in folders: the path itself, or its name alone."""
    found = (folder / name for name in (entry, PurePosixPath(entry).name) for folder in folders)
    return next((path for path in found if path.is_file()), None)


def _exported(
    root: Path,
    labels: Sequence[str],
    images: ImageFiles,
    split: _Split,
    unlabelled: list[str],
    inner: Collection[Path] = (),
) -> Iterator[Exported | LeftOut]:
    """The images below the folder of data.yaml, or from elsewhere, with the lines of their text files.

    What lies in the folders of `inner` is passed over.
    """
    below = [path for path in files_below(root) if not any(path.is_relative_to(folder) for folder in inner)]
    here = root.is_relative_to(images.root)
    base = images.root if here else root
    texts = {
        _key(path.relative_to(base), LABELS): path
        for path in below
        if path.suffix.lower() == ".txt" and _lies_in(path.relative_to(base), LABELS) and not is_label_list(path)
    }
    # The folders of images that are elsewhere may be others: there a name that only one text has decides.
    stems = Counter(key.name for key in texts) if not here else Counter()
    named = {key.name: path for key, path in texts.items() if stems[key.name] == 1}
    # YOLO's own tools look for the text beside an image that is in no folder of that name.
    beside = {path.with_suffix(""): path for path in below if path.suffix.lower() == ".txt"}
    # Of data.yaml alone nothing is said of the files beside it: its images are those in its folders.
    files = images.files or (path for path in below if _lies_in(path, IMAGES) or path.with_suffix("") in beside)
    found: list[tuple[Path, Path | None]] = []
    for image in files:
        if image.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if here and image.is_relative_to(images.root) and not image.is_relative_to(root):
            continue
        if any(image.is_relative_to(folder) for folder in inner):
            continue
        key = _key(Path(images.name(image)), IMAGES)
        text = texts.get(key) or named.get(key.name)
        if text is None and not _lies_in(Path(images.name(image)), IMAGES):
            text = beside.get(image.with_suffix(""))
        found.append((image, text))
    used = {text for _, text in found}
    # On the systems of many people, a.txt is the text of A.png, in either Unicode form.
    free: dict[str, list[Path]] = defaultdict(list)
    for key, text in texts.items():
        free[_folded(key)] += [text] if text not in used else []
    without = {image: _folded(_key(Path(images.name(image)), IMAGES)) for image, text in found if text is None}
    bare = Counter(without.values())
    alike = {image: free[key][0] for image, key in without.items() if len(free[key]) == bare[key] == 1}
    found = [(image, text or alike.get(image)) for image, text in found]
    labelled = {image.parent for image, text in found if text is not None}
    used = {text for _, text in found}
    shared: dict[Path | None, list[Path]] = defaultdict(list)
    for image, text in found:
        shared[text].append(image)
    strays = {path.stem: path for path in below if path.suffix.lower() == ".txt" and path not in used}
    met = _Met()
    for image, text in found:
        name = images.name(image)
        if text is None and image.parent not in labelled and not _lies_in(Path(name), IMAGES):
            continue
        subset = split.of(Path(name)) or subset_of(*reversed(_key(Path(name), IMAGES).parts[:-1]))
        if text is None and image.stem in strays:
            place = strays[image.stem].relative_to(base)
            yield LeftOut(name, f"its text seems to be {place}, which is not read there; put it into a folder {LABELS}")
            continue
        if text is None:
            unlabelled.append(name)
            yield Exported(name, (), subset=subset, file=image)
            continue
        if others := [images.name(other) for other in shared[text] if other != image]:
            yield LeftOut(name, f"its text {text.name} may be that of {others[0]} too; keep one of them, or rename one")
            continue
        try:
            yield Exported(name, _regions(text, labels, met), subset=subset, file=image)
        except DataError as error:
            yield LeftOut(name, str(error))
    if len(labels) in met.numbers and 0 not in met.numbers:
        raise DataError(
            f"the lines of {root.name} name labels up to {len(labels)}, never 0: they seem to count from 1, and each "
            "would be of the label after its own; count from 0"
        )
    if met.corners and met.beyond:
        raise DataError(
            f"the boxes of {root.name} lie within their images only if they are left, top, right, bottom; write centre "
            "x, centre y, width, height"
        )
    for text in texts.values():
        if text not in used:
            yield LeftOut(str(text.relative_to(base)), f"there is no image of it in {IMAGES}; export with images")


def _lies_in(path: Path, folder: str) -> bool:
    return folder in (part.lower() for part in path.parts[:-1])


def _key(path: Path, folder: str) -> Path:
    """What a text file and its image have in common: the path without an ending and without that folder."""
    parts = [part for part in path.parts[:-1] if part.lower() != folder]
    return Path(*parts, path.stem)


def _folded(key: Path) -> str:
    return composed(str(key)).casefold()


@dataclass
class _Met:
    """What the lines of all texts have in common.

    Attributes:
        numbers: of labels.
        corners: whether each box may be left, top, right, bottom.
        beyond: whether some box, as centre and size, reaches far beyond the image.
    """

    numbers: set[int] = field(default_factory=set)
    corners: bool = True
    beyond: bool = False

    def add_shape(self, fields: Sequence[str]) -> None:
        """Take what a line has behind its label."""
        try:
            x, y, width, height = (float(number) for number in fields)
        except ValueError:  # a polygon
            return
        self.corners = self.corners and x < width <= 1 and y < height <= 1
        ends = x - width / 2, y - height / 2, 1 - x - width / 2, 1 - y - height / 2
        self.beyond = self.beyond or min(ends) < -BEYOND


def _regions(path: Path, labels: Sequence[str], met: _Met) -> list[Region]:
    """What the lines of a text file draw; adds them to what was met.

    Raises:
        DataError: a line does not say its label.
    """
    regions = []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split()
        if not fields:
            continue
        index = _index(fields[0])
        met.numbers.add(index)
        if not 0 <= index < len(labels):
            raise DataError(
                f"line {number} of {path.name} is of label {fields[0]!r:.20}, of {len(labels)} that are named"
            )
        met.add_shape(fields[1:])
        regions.append(Region(labels[index], partial(_draw, fields[1:])))
    return regions


def _index(field: str) -> int:
    """The number of a label, which some tools write as 1.0; -1 for anything else."""
    try:
        value = float(field)
    except ValueError:
        return -1
    return int(value) if value.is_integer() else -1


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > MAX_LABELS_BYTES:
            raise DataError(f"{path.name} has more than {MAX_LABELS_BYTES >> 20} MB")
        return decode_text(path.read_bytes()).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path.name} cannot be read: {error}") from error


def _draw(fields: Sequence[str], shape: tuple[int, int]) -> Mask:
    """A polygon x y x y ..., or a box centre x, centre y, width, height; all in parts of the image's size."""
    try:
        values = np.array(fields, dtype=np.float64)
    except NO_NUMBERS as error:
        raise DataError(f"its line must hold numbers: {error}") from error
    if not np.isfinite(values).all():
        raise DataError("its line must hold numbers, one is infinite or none")
    if len(values) < 4 or len(values) % 2:
        raise DataError(f"its line must be a polygon x y x y ... or a box of four numbers, it has {len(values)}")
    if np.abs(values).max() > 2:
        raise DataError(f"its numbers must be parts of the image's size, from 0 to 1, one is {np.abs(values).max():g}")
    points = values.reshape(-1, 2) * (shape[1], shape[0])
    if len(points) > 2:
        return draw_polygons([points.ravel().tolist()], shape)
    centre, size = points
    return draw_box([*(centre - size / 2), *size], shape)
