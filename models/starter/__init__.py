"""The weights that premask ships: masks before a team has labelled anything."""

from pathlib import Path

STARTER = Path(__file__).parent / "oct-lite0"
"""Intravascular OCT, four classes, the light backbone; its card.json says the rest."""
