"""The weights that premask ships; the card.json of each says what they are and how they were made."""

from pathlib import Path

_HERE = Path(__file__).parent
# Intravascular OCT, four classes. docs/results.md compares them.
STARTERS = {"xception": _HERE / "oct-xception", "light": _HERE / "oct-lite0"}
STARTER = STARTERS["xception"]  # unless another is asked for; light costs less
PROMPTS = _HERE / "prompts"  # answers clicks and boxes in projects that no model was trained for
FIRST_REFINER = _HERE / "refiner"  # an FBANet that every training begins from which has no parent


def model_folder(name: str) -> Path:
    """The checkpoint folder that a user means: "xception", "light" or "prompts" for a shipped one, else a path."""
    return PROMPTS if name.lower() == "prompts" else STARTERS.get(name.lower(), Path(name))
