"""The weights that premask ships; the card.json of each says what they are and how they were made."""

from pathlib import Path

STARTER = Path(__file__).parent / "oct-lite0"  # intravascular OCT, four classes, the light backbone
FIRST_REFINER = Path(__file__).parent / "refiner"  # an FBANet that every training begins from which has no parent
