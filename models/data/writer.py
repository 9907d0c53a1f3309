"""Labelled images written as a data folder, as `models.data.folder` reads it."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class DataFolderWriter:
    """Writes images one after the other; a context manager, at whose end the folder is complete.

    Args:
        out: the folder, which is made: images/NAME.png, masks/CLASS/NAME.png (0/255), classes.txt and labels.csv.
        classes: each usable as a folder's name.
    """

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        (out / "images").mkdir(parents=True, exist_ok=True)
        (out / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        self._out, self._classes = out, classes
        self._file = (out / "labels.csv").open("w", newline="", encoding="utf-8")
        self._labels = csv.writer(self._file)
        self._labels.writerow(["name", *classes])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(
        self,
        name: str,
        image: NDArray[np.uint8] | Path,
        masks: Mapping[str, NDArray[np.bool_]],
        presence: Mapping[str, bool | None],
    ) -> None:
        """Add a labelled image.

        Args:
            name: of its files, without ending; each once.
            image: shape (H, W, 3), uint8, RGB; or a file, which is linked to.
            masks: class -> mask of shape (H, W), bool, not empty.
            presence: class -> whether it is on the image, None for unknown, of every class.
        """
        if isinstance(image, Path):
            (self._out / "images" / f"{name}{image.suffix.lower()}").symlink_to(image.resolve())
        else:
            # The quickest compression: the folder lives as long as one training.
            Image.fromarray(image).save(self._out / "images" / f"{name}.png", compress_level=1)
        for label, mask in masks.items():
            (self._out / "masks" / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask.astype(np.uint8) * 255).save(self._out / "masks" / label / f"{name}.png")
        cells = [presence[label] for label in self._classes]
        self._labels.writerow([name, *("" if cell is None else int(cell) for cell in cells)])
