"""Families of models: what every model offers, and how the model of a checkpoint is loaded.

Serving, smart tools, CVAT and evaluation know no more of a model than `Model`. A checkpoint's card names its family; to
add one, write its module and list its loader in `FAMILIES`. A checkpoint of another maker gets its card by `card_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.checkpoint import CARD, Card, read_card
from models.errors import CheckpointError
from models.prompt import Answer, Mask, Prompt
from models.sam_checkpoint import CONFIG, sam_card
from models.segment import Prediction

if TYPE_CHECKING:
    from models.pipeline import Steps

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Runtime = Literal["auto", "pytorch", "openvino"]  # what computes networks; auto: the faster one


class Embedding(Protocol):
    """One image as its model sees it, kept to answer an annotator's prompts."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""


class Model(Protocol):
    """A loaded model of any family."""

    @property
    def name(self) -> str:
        """The model version."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""

    def predict(self, images: Sequence[Image]) -> list[Prediction]:
        """Find every class on every image: one prediction per image, in order.

        Args:
            images: arrays of shape (H, W, 3), uint8 RGB, of any and differing sizes.
        """

    def embed(self, image: Image) -> Embedding:
        """Do once per image the work that all prompts on it share."""

    # `Any`: each family takes embeddings of its own alone.
    def prompt(self, embedding: Any, prompt: Prompt, label: str | None = None, existing: Sequence[Mask] = ()) -> Answer:
        """Draw the object that a prompt means.

        Args:
            embedding: the image, made by the same model.
            prompt: clicks in pixels of the image, masks of its size.
            label: the class, which the model need not know; None lets the model choose one of its own.
            existing: masks of this class that are there already, shape (H, W), bool.

        Returns:
            An empty mask if nothing is found.
        """


@runtime_checkable
class Explained(Protocol):
    """A model that can show how it arrives at its masks. Optional: only `steps_of` and `describe` ask for it."""

    @property
    def description(self) -> dict[str, str]:
        """Its "refiner" and "cam", the kind of its maps."""

    def steps(self, images: Sequence[Image]) -> list[list[Steps]]:
        """For each image the steps of each class."""


@runtime_checkable
class Accelerated(Protocol):
    """A model whose networks other runtimes can compute, too. Optional: only `load_model` and `release_memory` ask."""

    def use_runtime(
        self,
        directory: Path,
        runtime: Runtime,
        kept: Path | None = None,
        *,
        afterwards: Callable[[], None] | None = None,
    ) -> None:
        """Choose between them, as `load_model` is told."""

    @property
    def runtime(self) -> str:
        """What computes the networks, in words."""

    def release_memory(self) -> None:
        """Give back what the last images took, until the next one."""


Loader = Callable[[Path, str], Model]  # checkpoint folder, device -> model


def _load_cam(directory: Path, device: str) -> Model:
    from models.pipeline import read_pipeline

    return read_pipeline(directory, device)  # its networks are loaded by `load_model`, which knows what computes them


def _load_prompts(directory: Path, device: str) -> Model:
    from models.prompt_model import load_prompt_model

    return load_prompt_model(directory, device)


def _load_sam(directory: Path, device: str) -> Model:
    from models.sam import load_sam

    return load_sam(directory, device)


FAMILIES: dict[str, Loader] = {"cam": _load_cam, "prompts": _load_prompts, "sam": _load_sam}


def card_of(directory: Path) -> Card:
    """The card of a checkpoint, also of one of another maker that has none.

    Raises:
        CheckpointError: the folder is no checkpoint, or its card does not read as one.
    """
    if not (directory / CARD).exists() and (directory / CONFIG).exists():
        return sam_card(directory)
    return read_card(directory)


def load_model(
    directory: Path,
    device: str = "cpu",
    runtime: Runtime = "pytorch",
    kept: Path | None = None,
    *,
    afterwards: Callable[[], None] | None = None,
) -> Model:
    """Load a checkpoint's model by the family that its card names.

    Args:
        directory: checkpoint folder.
        device: cpu, cuda, cuda:N, or auto for the GPU with most free memory, if there is one.
        runtime: what computes the networks: pytorch, openvino, or auto for the faster one.
        kept: folder for what another runtime makes of this checkpoint; one in it if None.
        afterwards: None waits for what that runtime has to make first, which takes seconds. Else it is made while
            PyTorch computes, and this is called when the model does not need PyTorch any more.

    Raises:
        CheckpointError: the folder is incomplete or damaged, or its family is unknown.
        ModelError: the device is not there.
    """
    family = card_of(directory).family
    if family not in FAMILIES:
        raise CheckpointError(
            f"{directory} is of the family {family!r}, but this installation knows {', '.join(FAMILIES)}; "
            "install a version that knows it, or promote another version"
        )
    if device == "auto":
        from models.devices import choose_device

        device = choose_device(device)
    model = FAMILIES[family](directory, device)
    if isinstance(model, Accelerated):
        model.use_runtime(directory, runtime, kept, afterwards=afterwards)
    return model


def release_memory(model: Model) -> None:
    """Give back what the last images took, where the model can; the next one takes some milliseconds longer."""
    if isinstance(model, Accelerated):
        model.release_memory()


def steps_of(model: Model, images: Sequence[Image]) -> list[list[Steps]]:
    """For each image the steps of each class; of a model that has no steps, its finished masks in place of each step.

    Args:
        model: of any family.
        images: arrays of shape (H, W, 3), uint8 RGB.
    """
    if isinstance(model, Explained):
        return model.steps(images)
    from models.pipeline import Steps

    found: list[list[Steps]] = []
    for image, prediction in zip(images, model.predict(images), strict=True):
        masks = {segment.label: segment.mask for segment in prediction.segments}
        found.append([])
        for label in model.classes:
            mask = masks.get(label, np.zeros(image.shape[:2], dtype=bool))
            alpha = mask.astype(np.float32)
            presence, present = prediction.presence.get(label, 0.0), label in prediction.present
            found[-1].append(Steps(label, presence, present, alpha, mask, mask.astype(np.uint8) * 255, alpha, mask))
    return found


def describe(model: Model) -> dict[str, Any]:
    """A model in a few words, for reports: its name, refiner and kind of maps ("none" for a model without them)."""
    explained = model.description if isinstance(model, Explained) else {"refiner": "none", "cam": "none"}
    return {"model": model.name, **explained}
