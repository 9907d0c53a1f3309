"""One labelled image of a data folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.decoding import RgbImage
from models.data.files import read_image, read_mask


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    Attributes:
        name: of the image, for people: its file's name without ending, or its original in names.json.
        image: its file.
        masks: class -> mask file, for the classes drawn on it; a file without a white pixel is left out.
        presence: class -> whether it is on the image; a class that is not named is unknown.
        has_masks: the masks tell all of the image: each class is drawn or known to be absent.
        coverage: class -> fraction of the image that its mask covers, for the classes drawn on it.
        group: images of one patient, study or series have the same; None where the folder has no groups.json.
        source: where the image comes from: its file, a path in an export, the address in a task.
        page: of that source, from 0.
        file_page: of `image`, from 0.
    """

    name: str
    image: Path
    masks: Mapping[str, Path]
    presence: Mapping[str, bool]
    has_masks: bool
    coverage: Mapping[str, float] = field(default_factory=dict)
    group: str | None = None
    source: str = ""
    page: int = 0
    file_page: int = 0

    def read_image(self) -> RgbImage:
        """Shape (H, W, 3), uint8 RGB, as a browser shows it. Raises DataError naming the file if it cannot be read."""
        return read_image(self.image, self.file_page)

    def read_mask(self, label: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask of a class, of the image's shape (H, W), bool; all False where the class has no file.

        Raises:
            DataError: the file cannot be read as a mask or its size is not the image's.
        """
        return read_mask(self.masks[label], shape) if label in self.masks else np.zeros(shape, dtype=bool)
