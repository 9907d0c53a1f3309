"""Training state, by which a run goes on after it was killed: a safetensors file for each stage."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.errors import CheckpointError


class TrainingState:
    """A folder beside the checkpoint in the making.

    Args:
        folder: where; it is made when the first state is saved.
        fingerprint: of everything that decides the run: the state of another run is not taken up.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint

    def save(self, stage: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Replace the saved state of a stage, in one step.

        Raises:
            CheckpointError: the disk is full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{stage}.partial"
        # Copies: an average's buffers may share memory with the network's, which safetensors refuses.
        copies = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
        try:
            save_file(copies, partial, {"fingerprint": self.fingerprint, "numbers": json.dumps(numbers)})
        except SafetensorError as error:
            partial.unlink(missing_ok=True)
            remedy = "make room and train again: it goes on where it was"
            raise CheckpointError(
                f"the state of the training cannot be kept in {self.folder}: {error}", remedy
            ) from error
        os.replace(partial, self.folder / f"{stage}.safetensors")

    def load(self, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and numbers of a stage; None if this run has not saved them, or their file is damaged."""
        path = self.folder / f"{stage}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                if metadata.get("fingerprint") != self.fingerprint:
                    return None
                return {key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata["numbers"])  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def spent(self) -> float:
        """Seconds that the run's stages have been trained for so far."""
        found = [self.load(path.stem) for path in self.folder.glob("*.safetensors")]
        return float(sum(numbers.get("elapsed", 0.0) for _, numbers in filter(None, found)))


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under names that begin with `prefix` and a dot."""
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` whose names begin with `prefix` and a dot, without it."""
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{prefix}.")}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer, by parameter number and name."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": value for number, entry in state.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".")
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
