"""An interaction function for `cvat-cli function create-native` and its agents: clicks and a box become a mask.

cvat-cli function create-native premask-clicks --function-module backend.cvat.interaction
cvat-cli function run-agent ID --function-module backend.cvat.interaction -p model=str:DIR
"""

from PIL.Image import Image

from backend.cvat.interactor import Interactor
from backend.cvat.model import Checkpoint
from backend.cvat.sdk import require_interaction
from models.data.decoding import rgb_array
from models.families import Embedding

require_interaction()

import cvat_sdk.auto_annotation as cvataa  # noqa: E402 - the check comes first, so that what it lacks is a sentence
from cvat_sdk.masks import encode_mask  # noqa: E402


class InteractionFunction:
    """The object that an annotator points at. An agent keeps what `preprocess_image` returns for the next click."""

    # The first click or a box is enough; every further prompt is taken into account.
    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, interactor: Interactor) -> None:
        self._interactor = interactor

    def preprocess_image(self, context: cvataa.InteractionFunctionContext, image: Image) -> Embedding:
        """The embedding of an image."""
        return self._interactor.embed(rgb_array(image))

    def detect(
        self, context: cvataa.InteractionFunctionContext, pp_image: Embedding, prompts: cvataa.InteractionPrompts
    ) -> list[cvataa.InteractionResultShape]:
        """One mask, or none if nothing was found.

        It carries no confidence: CVAT would hide a faint mask that the annotator has just asked for.
        """
        mask = self._interactor.draw(pp_image, prompts.pos_points, prompts.neg_points, prompts.bounding_box)
        return [cvataa.InteractionResultShape(type="mask", points=encode_mask(mask))] if mask.any() else []


def create(model: str = "", device: str = "auto", label: str = "") -> InteractionFunction:
    """The function for cvat-cli's `-p` parameters, which `Checkpoint` and `Interactor` explain."""
    return InteractionFunction(Interactor(Checkpoint(model, device), label))
