"""What an annotator points at to get one object of one class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Click:
    """A point of the image, x and y in pixels: on the object, or not on it."""

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, eq=False)
class Prompt:
    """Everything that was pointed at so far.

    Attributes:
        clicks: points.
        boxes: masks of shape (H, W), bool; each encloses an object and touches it on every side.
        outlines: masks of shape (H, W), bool; each is an object roughly, to be drawn exactly.
    """

    clicks: tuple[Click, ...] = ()
    boxes: tuple[Mask, ...] = ()
    outlines: tuple[Mask, ...] = ()
