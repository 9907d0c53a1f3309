"""The FBANet that is shipped for every domain."""

from models.checkpoint import load_weights, read_card
from models.fba_net import FBANet, FBANetConfig
from models.starter import FIRST_REFINER


def first_refiner() -> FBANet:
    """The FBANet of `models.studies.first_refiner`: trained on synthetic images, it knows edges and no class.

    Raises:
        CheckpointError: its files are missing or damaged.
    """
    card = read_card(FIRST_REFINER)
    network = FBANet(FBANetConfig.of(card.config["refiner"]))
    load_weights(FIRST_REFINER, card, "refiner", network)
    return network
