"""Labelled images written as a data folder, as `models.data.reader` reads it."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from models.data.groups import completed
from models.data.names import Names, Original
from models.data.png import write_png


class DataFolderWriter:
    """Writes images one after the other; a context manager, at whose end the folder is complete.

    The folder gets images/, masks/CLASS/NAME.png (0/255) and classes.txt; labels.csv where the presence of classes is
    given; groups.json where a group is given, in which images without one are grouped in blocks of neighbours;
    skipped.json where something was left out. Files have running names, and names.json the originals.

    Args:
        out: the folder, which is made.
        classes: labels of any text, each once.
        plain: the names and labels given are those of the files and folders, and there is no names.json.
    """

    def __init__(self, out: Path, classes: Sequence[str], *, plain: bool = False) -> None:
        self._out, self._plain = out, plain
        self._classes = {label: label if plain else f"class-{number}" for number, label in enumerate(classes, 1)}
        self._names: dict[str, str] = {}  # name -> name of its files
        self._originals: dict[str, Original] = {}
        self._rows: list[list[str]] = []
        self._groups: dict[str, str | None] = {}
        self._left_out: dict[str, str] = {}
        (out / "images").mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}\n" for name in self._classes.values())
        (out / "classes.txt").write_text(lines, encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        if not self._plain:
            Names({name: label for label, name in self._classes.items()}, self._originals).write(self._out)
        if self._rows:
            with (self._out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["name", *self._classes.values()], *self._rows])
        if self._left_out:
            (self._out / "skipped.json").write_text(json.dumps(self._left_out, indent=0), encoding="utf-8")
        if any(group is not None for group in self._groups.values()):
            text = json.dumps(completed(self._groups), indent=0)
            (self._out / "groups.json").write_text(text, encoding="utf-8")

    def add(
        self,
        name: str,
        image: NDArray[np.uint8] | Path,
        masks: Mapping[str, NDArray[np.bool_] | Path],
        presence: Mapping[str, bool | None] | None,
        group: str | None = None,
        *,
        source: str = "",
        page: int = 0,
    ) -> None:
        """Add a labelled image.

        Args:
            name: for people; each once. Of its files too, without ending, if the folder is plain.
            image: shape (H, W, 3), uint8, RGB; or a file, which is linked to.
            masks: class -> mask of shape (H, W), bool, not empty; or a PNG file, which is linked to.
            presence: class -> whether it is on the image, None for unknown; a class that is not named is unknown. None
                instead of a mapping: the masks tell all, a class without one is absent.
            group: images of one patient, study or series have the same; None for unknown.
            source: where the image comes from, for people.
            page: of that source, and of `image` where that is a file, from 0.

        Raises:
            OSError: a file cannot be written.
            ValueError: there is an image of this name already.
        """
        if name in self._names:
            raise ValueError(f"there is an image {name!r} already")
        original = Original(name, source, page, page if isinstance(image, Path) else 0)
        self._names[name] = name if self._plain else f"image-{len(self._names) + 1:06d}"
        name = self._names[name]
        self._originals[name] = original
        if isinstance(image, Path):
            (self._out / "images" / f"{name}{image.suffix.lower()}").symlink_to(image.resolve())
        else:
            write_png(self._out / "images" / f"{name}.png", _without_colour(image))
        if presence is None:
            (self._out / "masks").mkdir(exist_ok=True)  # without it nothing would say that masks tell all
        for label, mask in masks.items():
            path = self._out / "masks" / self._classes[label] / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(mask, Path):
                path.symlink_to(mask.resolve())
            else:
                write_png(path, mask)
        if presence is not None:
            cells = [presence.get(label) for label in self._classes]
            self._rows.append([name, *("" if cell is None else str(int(cell)) for cell in cells)])
        self._groups[name] = group

    def write_split(self, splits: Mapping[str, Sequence[str]]) -> None:
        """Write split.json: split ("train", "val", "test") -> names of images, as they were added."""
        files = {split: [self._names[name] for name in names] for split, names in splits.items()}
        text = json.dumps(files, indent=0)
        (self._out / "split.json").write_text(text, encoding="utf-8")

    def leave_out(self, what: str, why: str) -> None:
        """Keep a sentence about an image, a task or a row that is not in the folder."""
        self._left_out[what] = f"{self._left_out[what]}; {why}" if what in self._left_out else why


def _without_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One channel of an RGB image of shape (H, W, 3) whose channels are equal: a third of the work; else the image."""
    return image[..., 0] if (image == image[..., :1]).all() else image
