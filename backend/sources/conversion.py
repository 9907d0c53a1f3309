"""The parts that all exports share: images that must be found, shapes to draw, a data folder to write."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.files import IMAGE_SUFFIXES, image_shape
from models.data.writer import DataFolderWriter
from models.errors import DataError

Mask = NDArray[np.bool_]
# Video frames are exported under names without an ending, to files with one.
ENDINGS = ("", ".png", ".PNG", ".jpg", ".jpeg")
TRAIN, VAL = ("train", "training"), ("val", "valid", "validation")


@dataclass(frozen=True)
class Exported:
    """One image of an export.

    Attributes:
        name: path of its file, as the export has it.
        shape: (H, W) that the shapes are drawn on.
        regions: label, and what draws its mask of shape (H, W); None says that the class is there, but not where.
        subset: part of the data that it belongs to, such as "train"; "" for none.
        group: its patient, study or series; None if the export does not say.
    """

    name: str
    shape: tuple[int, int]
    regions: Sequence[tuple[str, Callable[[tuple[int, int]], Mask] | None]]
    subset: str = ""
    group: str | None = None


@dataclass
class Conversion:
    """How much of an export was written, and how it was read.

    Attributes:
        used: images written.
        notes: sentences about parts that were read in another way than they were meant.
        skipped: image -> why it was left out.
    """

    used: int = 0
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


class ImageFiles:
    """The files among which an export's images are looked for.

    Args:
        folders: in order of preference.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(dict.fromkeys(folders))

    def find(self, *names: str) -> Path:
        """The first file of one of these names, relative to a folder.

        Raises:
            DataError: there is none; the text says where it was looked for.
        """
        for folder in self.folders:
            for name in names:
                for ending in ENDINGS:
                    path = Path(os.path.normpath(folder / (name + ending)))
                    if path.is_relative_to(os.path.normpath(folder)) and path.is_file():
                        return path
        looked = ", ".join(map(str, self.folders))
        raise DataError(f"{names[-1]} is not in {looked}; export with images, or name their folder with --images")


def convert(exported: Iterable[Exported], classes: Sequence[str], images: ImageFiles, out: Path) -> Conversion:
    """Write the images of an export as a data folder.

    Shapes of one class are united. A class of which an image has no shape is absent from it; one that is only said to
    be there, or that has a shape without an area, is present with an unknown mask. Images of one group stay on one side
    of a split: the export's own split is left out if it does otherwise.

    Raises:
        DataError: a class cannot be a folder's name.
    """
    check_names(classes)
    result = Conversion()
    without_area: Counter[str] = Counter()
    splits: dict[str, list[str]] = {"train": [], "val": []}
    groups: dict[str, str] = {}
    names: set[str] = set()
    paths: set[Path] = set()
    with DataFolderWriter(out, classes) as folder:
        for image in exported:
            try:
                path = _file_of(image, images, paths)
                masks, presence = _truth(image, classes, without_area)
            except DataError as error:
                result.skipped[f"{image.subset}/{image.name}".strip("/")] = str(error)
                continue
            name = _unused(image.name, names)
            folder.add(name, path, masks, presence, image.group)
            groups |= {} if image.group is None else {name: image.group}
            for split, aliases in (("train", TRAIN), ("val", VAL)):
                if image.subset.lower() in aliases:
                    splits[split].append(name)
            result.used += 1
        shared = {groups.get(name) for name in splits["train"]} & {groups.get(name) for name in splits["val"]} - {None}
        if all(splits.values()) and not shared:
            folder.write_split(splits)
    if groups:
        result.notes.append(f"Groups that are kept together: {len({*groups.values()})}")
    if shared:
        named = ", ".join(sorted(map(repr, shared))[:3])
        result.notes.append(f"the export's split is not used: {len(shared)} groups are on both sides ({named} ...)")
    result.notes += [
        f"{label}: {count} without an area (tags, points, lines ...), which say that it is there, but not where"
        for label, count in without_area.items()
    ]
    return result


def _file_of(image: Exported, images: ImageFiles, paths: set[Path]) -> Path:
    """The file of an exported image, unlike all others; adds it to `paths`.

    Raises:
        DataError: there is none that fits.
    """
    path = images.find(f"{image.subset}/{image.name}", image.name)
    if path in paths:
        raise DataError(f"{path} is annotated twice; of its annotations only the first are used")
    paths.add(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise DataError(f"{path} is not one of {', '.join(IMAGE_SUFFIXES)}; convert it")
    shape = image_shape(path)
    if shape != image.shape:
        raise DataError(
            f"{path} is {shape[1]}x{shape[0]} as it is shown, but was annotated at "
            f"{image.shape[1]}x{image.shape[0]}; put the annotated image there"
        )
    return path


def check_names(classes: Sequence[str]) -> None:
    """Raises DataError unless there are classes, and each can be a folder of masks and a column of labels.csv."""
    if not classes:
        raise DataError("the export names no label to learn; export it again with its labels")
    for name in classes:
        if name in ("", ".", "..", "name") or name != name.strip() or any(sign in name for sign in "/\\\0\n"):
            raise DataError(f"label {name!r} cannot be the name of a folder of masks; rename it and export again")


def number(fields: Mapping[str, Any], *names: str) -> list[float]:
    """Fields of a shape as finite numbers. Raises DataError naming the one that is none."""
    values = []
    for name in names:
        try:
            values.append(float(fields[name]))
        except (KeyError, TypeError, ValueError):
            values.append(np.nan)
        if not np.isfinite(values[-1]):
            raise DataError(f"{name} must be a number, it is {fields.get(name)!r}")
    return values


def runs(lengths: Sequence[int], shape: tuple[int, int]) -> Mask:
    """Alternating runs, the first one outside of the object, as a mask of shape (H, W), row after row.

    Raises:
        DataError: the runs do not fill the mask.
    """
    if any(length < 0 for length in lengths) or sum(lengths) != shape[0] * shape[1]:
        raise DataError(f"its run lengths must add up to {shape[1]}x{shape[0]}, they add up to {sum(lengths)}")
    values = np.arange(len(lengths)) % 2 == 1
    return np.asarray(np.repeat(values, lengths).reshape(shape))


def _truth(
    image: Exported, classes: Sequence[str], without_area: Counter[str]
) -> tuple[dict[str, Mask], dict[str, bool]]:
    masks: dict[str, Mask] = {}
    vague: set[str] = set()
    for label, draw in image.regions:
        if label not in classes:
            raise DataError(f"{image.name}: its label {label!r} is not among the export's ({', '.join(classes)})")
        if draw is None:
            vague.add(label)
            without_area[label] += 1
            continue
        try:
            mask = draw(image.shape)
        except DataError as error:
            raise DataError(f"{image.name}: a shape of {label} cannot be read: {error}") from error
        masks[label] = masks[label] | mask if label in masks else mask
    presence = {label: label in vague or label in masks for label in classes}
    return {label: mask for label, mask in masks.items() if label not in vague and mask.any()}, presence


def _unused(name: str, names: set[str]) -> str:
    """A file name without ending for an image of any path, unlike all others; adds it to `names`."""
    stem = os.path.splitext(name.replace("\\", "/").strip("/"))[0].replace("/", "-")
    candidates: Iterator[str] = (f"{stem}-{i}" if i else stem for i in range(len(names) + 1))
    unused = next(candidate for candidate in candidates if candidate not in names)
    names.add(unused)
    return unused
