"""The FBANet that is shipped for every domain, and other checkpoints of a refiner alone."""

from pathlib import Path

from models.checkpoint import load_weights, read_card
from models.config import FBANetConfig
from models.errors import CheckpointError
from models.fba_net import FBANet
from models.starter import FIRST_REFINER


def first_refiner() -> FBANet:
    """The FBANet of `models.studies.first_refiner`: trained on synthetic images, it knows edges and no class.

    Raises:
        CheckpointError: its files are missing or damaged.
    """
    return read_refiner(FIRST_REFINER)


def read_refiner(folder: Path) -> FBANet:
    """The FBANet of a checkpoint that has no classifier, in evaluation mode.

    Raises:
        CheckpointError: the folder is incomplete or damaged, or its card describes none.
    """
    card = read_card(folder)
    try:
        network = FBANet(FBANetConfig.of(card.config["refiner"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the card of {folder} describes no refiner of this version: {error!r}") from error
    load_weights(folder, card, "refiner", network)
    return network.eval()
