"""The weights that premask ships; the card.json of each says what they are and how they were made."""

from pathlib import Path

_HERE = Path(__file__).parent
# Intravascular OCT, four classes. docs/results.md compares them.
STARTERS = {"light": _HERE / "oct-lite0", "xception": _HERE / "oct-xception"}
STARTER = STARTERS["light"]  # unless another is asked for: better on held-out frames than Xception's, and cheaper
PROMPTS = _HERE / "prompts"  # answers clicks and boxes in projects that no model was trained for
FIRST_REFINER = _HERE / "refiner"  # an FBANet that every training begins from which has no parent


def model_folder(name: str) -> Path:
    """The checkpoint folder that a user means: "light", "xception" or "prompts" for a shipped one, else a path."""
    return PROMPTS if name.lower() == "prompts" else STARTERS.get(name.lower(), Path(name))
