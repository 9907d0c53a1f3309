"""Choices about the image as a whole."""

from collections.abc import Mapping
from typing import Any

from backend.label_studio.controls.control import Control
from backend.label_studio.controls.region import new_id, value_of
from models.segment import Prediction, entropy


class Choices:
    """Presence to and from image-level choices."""

    tag = "Choices"
    type = "choices"

    def to_regions(self, prediction: Prediction, control: Control) -> list[dict[str, Any]]:
        """One region with every choice whose class is present, or the most probable one if only one may be taken.

        Args:
            prediction: with the model's own decision of presence, the same as for regions.
            control: the control of the project's config; a choice standing for several classes takes the largest.

        Returns:
            A list of one region, its score that of its least probable choice, in its `meta` the entropy of each
            class's presence in bits; empty if no class is present.
        """
        presence = prediction.presence
        known = [name for name in control.labels if name in presence]
        probabilities: dict[str, float] = {}
        for name, stored in control.labels.items():
            if name in prediction.present:
                probabilities[stored] = max(presence.get(name, 0.0), probabilities.get(stored, 0.0))
        chosen = list(probabilities)
        if control.single and chosen:
            chosen = [max(chosen, key=probabilities.__getitem__)]
        if not chosen:
            return []
        return [
            {
                "id": new_id(),
                "type": self.type,
                "from_name": control.name,
                "to_name": control.to_name,
                "score": min(probabilities[choice] for choice in chosen),
                "value": {"choices": chosen},
                "meta": {"uncertainty": {name: round(float(entropy(presence[name])), 3) for name in known}},
            }
        ]

    def labels(self, region: Mapping[str, Any]) -> list[str]:
        """The choices taken in a region, as stored."""
        choices = value_of(region).get("choices")
        # A choice within a choice is stored as its path; the last step is the choice itself.
        steps = [
            choice[-1] if isinstance(choice, list) and choice else choice
            for choice in (choices if isinstance(choices, list) else [])
        ]
        return [str(step) for step in steps]
