"""Where trainings begin: from a shipped model, or from ImageNet weights and a FBANet that knows edges."""

import socket
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.checkpoint import PACKAGED, packaged_backbone, read_card
from models.classifier import Classifier
from models.config import BACKBONES
from models.errors import CheckpointError
from models.lean_timm import timm
from models.starter import STARTERS

LIGHT, XCEPTION = PACKAGED, "legacy_xception"
HUB_SECONDS = 10.0  # without a sign of life from the hub


def shipped_parent(classes: Collection[str], backbone: str = "auto") -> Path | None:
    """The first shipped model of such a backbone that knows one of the classes by its name; None if none does."""
    for folder in STARTERS.values():
        card = read_card(folder)
        if backbone in ("auto", card.backbone) and not set(card.classes).isdisjoint(classes):
            return folder
    return None


def resolve_backbone(backbone: str, weights: Path | None, *, from_scratch: bool) -> str:
    """Choose the backbone for "auto"; any other name is returned as it is.

    Xception, the product's default, wherever its ImageNet weights are at hand: given, or to be had from timm's hub.
    Elsewhere the light backbone, whose weights an installed package carries.

    Raises:
        CheckpointError: timm has no network of that name.
    """
    if backbone != "auto":
        if not timm.is_model(backbone):
            known = ", ".join(BACKBONES)
            raise CheckpointError(f"timm has no network {backbone!r}; name one that it has, such as {known}")
        return backbone
    return XCEPTION if weights or (not from_scratch and _hub_has(XCEPTION)) else LIGHT


def load_pretrained(classifier: Classifier, weights: Path | None) -> None:
    """Fill a classifier's backbone with ImageNet weights.

    Args:
        classifier: whose backbone to fill.
        weights: safetensors file with timm's keys; None looks in the installed packages, then asks timm's hub.

    Raises:
        CheckpointError: none of these has the weights; the text says what can be done.
    """
    backbone = classifier.config.backbone
    if weights is not None:
        try:
            state = load_file(weights)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{weights} cannot be read as safetensors: {error}") from error
    else:
        state = packaged_backbone(backbone) or _from_hub(backbone)
    wanted = classifier.backbone.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        raise CheckpointError(
            f"the weights do not fit {backbone}: {len(missing)} tensors are missing, e.g. {missing[0]}"
        )
    try:
        classifier.backbone.load_state_dict({key: state.get(key, wanted[key]) for key in wanted})
    except RuntimeError as error:  # of other shapes
        raise CheckpointError(f"the weights do not fit {backbone}: {error}") from error


def _hub_has(backbone: str) -> bool:
    """Whether timm's hub, or what was once loaded from it, gives the weights; HF_HUB_OFFLINE=1 keeps it unasked."""
    from huggingface_hub.constants import HF_HUB_OFFLINE  # timm needs it

    if HF_HUB_OFFLINE:
        return False
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(HUB_SECONDS)  # a network that swallows requests would hold the training for ever
    try:
        _from_hub(backbone)
    except CheckpointError:
        return False
    finally:
        socket.setdefaulttimeout(before)
    return True


def _from_hub(backbone: str) -> dict[str, Tensor]:
    try:
        # The same wrapping as the classifier's, so that the keys are the same.
        return dict(timm.create_model(backbone, pretrained=True, features_only=True).state_dict())
    except Exception as error:  # the hub's client raises anything from OSError to its own kinds
        raise CheckpointError(
            f"pretrained weights of {backbone} cannot be had ({type(error).__name__}: the model hub is out of reach or "
            f"does not have them); give a file with --weights, use --backbone {LIGHT}, whose weights are installed, or "
            f"train from scratch with --from-scratch"
        ) from error
