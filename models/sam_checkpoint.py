"""Checkpoints of SAM and SAM 2 in transformers' format, looked at without loading anything."""

import importlib.util
import json
from pathlib import Path

from models.checkpoint import Card
from models.errors import CheckpointError

FAMILY = "sam"
CONFIG = "config.json"
# What a checkpoint calls itself -> transformers' classes. SAM 2 is published as the model for films, which holds it.
KINDS = {
    "sam": ("SamConfig", "SamModel"),
    "sam2": ("Sam2Config", "Sam2Model"),
    "sam2_video": ("Sam2Config", "Sam2Model"),
}


def sam_kind(directory: Path) -> str | None:
    """The key in `KINDS` of the checkpoint in a folder; None if it holds none of SAM or SAM 2."""
    try:
        described = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = described.get("model_type") if isinstance(described, dict) else None
    return kind if kind in KINDS else None


def sam_card(directory: Path) -> Card:
    """A card for a checkpoint of SAM, which has none of its own. Raises CheckpointError if the folder holds none."""
    if sam_kind(directory) is None:
        raise CheckpointError(
            f"{directory} holds neither card.json nor a {CONFIG} of SAM or SAM 2 (model_type {', '.join(KINDS)})",
            "name the folder of such a checkpoint, in transformers' format",
        )
    return Card(directory.resolve().name, [], "", "", family=FAMILY)


def transformers_missing() -> bool:
    """Whether the extra `premask[sam]` is not installed."""
    return importlib.util.find_spec("transformers") is None
