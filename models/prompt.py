"""An annotator's prompt for one object of one class, and the model's answer to it."""

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


@dataclass(frozen=True, eq=False)
class Answer:
    """The object that a prompt means.

    Attributes:
        label: its class.
        mask: shape (H, W), bool; may be empty.
        score: how sharply it is drawn, in [0, 1].
        improves: index of the existing mask that it takes the place of, None for a new object.
        uncertainty: of its outline, in bits, as in `Segment`.
    """

    label: str
    mask: Mask
    score: float
    improves: int | None = None
    uncertainty: float = 0.0
