"""The model behind CVAT's functions."""

from functools import cached_property
from pathlib import Path

from models import families
from models.starter import STARTER, model_folder


class Checkpoint:
    """A checkpoint whose classes are known at once, and whose weights are loaded when the first image comes.

    Args:
        directory: checkpoint folder, or xception or light for shipped weights; empty for xception.
        device: cpu, cuda, or auto for a GPU if there is one.

    Raises:
        CheckpointError: there is no checkpoint at `directory`.
    """

    def __init__(self, directory: str | Path = "", device: str = "auto") -> None:
        self._directory = model_folder(str(directory or STARTER))
        self._device = device
        self.classes: tuple[str, ...] = tuple(families.card_of(self._directory).classes)

    @cached_property
    def model(self) -> families.Model:
        """The loaded model, of any family."""
        return families.load_model(self._directory, self._device)
