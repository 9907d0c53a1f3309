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
from models.data.png import write_png


class DataFolderWriter:
    """Writes images one after the other; a context manager, at whose end the folder is complete.

    The folder gets images/, masks/CLASS/NAME.png (0/255) and classes.txt; labels.csv where the presence of classes is
    given; groups.json where a group is given, in which images without one are grouped in blocks of neighbours.

    Args:
        out: the folder, which is made.
        classes: each usable as a folder's name.
    """

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        (out / "images").mkdir(parents=True, exist_ok=True)
        (out / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        self._out, self._classes = out, classes
        self._rows: list[list[str]] = []
        self._groups: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            return
        if self._rows:
            with (self._out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["name", *self._classes], *self._rows])
        if any(group is not None for group in self._groups.values()):
            text = json.dumps(completed(self._groups), indent=0, ensure_ascii=False)
            (self._out / "groups.json").write_text(text, encoding="utf-8")

    def add(
        self,
        name: str,
        image: NDArray[np.uint8] | Path,
        masks: Mapping[str, NDArray[np.bool_] | Path],
        presence: Mapping[str, bool | None] | None,
        group: str | None = None,
    ) -> None:
        """Add a labelled image.

        Args:
            name: of its files, without ending; each once.
            image: shape (H, W, 3), uint8, RGB; or a file, which is linked to.
            masks: class -> mask of shape (H, W), bool, not empty; or a PNG file, which is linked to.
            presence: class -> whether it is on the image, None for unknown; a class that is not named is unknown. None
                instead of a mapping: the masks tell all, a class without one is absent.
            group: images of one patient, study or series have the same; None for unknown.

        Raises:
            OSError: a file cannot be written.
        """
        if isinstance(image, Path):
            (self._out / "images" / f"{name}{image.suffix.lower()}").symlink_to(image.resolve())
        else:
            write_png(self._out / "images" / f"{name}.png", _without_colour(image))
        if presence is None:
            (self._out / "masks").mkdir(exist_ok=True)  # without it nothing would say that masks tell all
        for label, mask in masks.items():
            path = self._out / "masks" / label / f"{name}.png"
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
        """Write split.json: split ("train", "val") -> names of images."""
        text = json.dumps({split: list(names) for split, names in splits.items()}, indent=0, ensure_ascii=False)
        (self._out / "split.json").write_text(text, encoding="utf-8")


def _without_colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One channel of an RGB image of shape (H, W, 3) whose channels are equal: a third of the work; else the image."""
    return image[..., 0] if (image == image[..., :1]).all() else image
