"""An interaction function for `cvat-cli function create-native` and its agents: clicks and a box become a mask.

cvat-cli function create-native premask-clicks --function-module backend.cvat.interaction
cvat-cli function run-agent ID --function-module backend.cvat.interaction -p model=str:DIR
"""

from typing import TYPE_CHECKING

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import encode_mask
from PIL.Image import Image

from backend.cvat.interactor import Interactor
from backend.cvat.model import Model
from models.data.decoding import rgb_array

if TYPE_CHECKING:
    from models.pipeline import Embedding


class InteractionFunction:
    """The object that an annotator points at. An agent keeps what `preprocess_image` returns for the next click."""

    # The first click or a box is enough; whatever is added is taken into account.
    spec = cvataa.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, interactor: Interactor) -> None:
        self._interactor = interactor

    def preprocess_image(self, context: cvataa.InteractionFunctionContext, image: Image) -> "Embedding":
        """What the classifier makes of an image."""
        return self._interactor.embed(rgb_array(image))

    def detect(
        self, context: cvataa.InteractionFunctionContext, pp_image: "Embedding", prompts: cvataa.InteractionPrompts
    ) -> list[cvataa.InteractionResultShape]:
        """One mask, or none if nothing was found.

        It carries no confidence: CVAT would hide a faint mask that somebody has just asked for.
        """
        mask = self._interactor.draw(pp_image, prompts.pos_points, prompts.neg_points, prompts.bounding_box)
        return [cvataa.InteractionResultShape(type="mask", points=encode_mask(mask))] if mask.any() else []


def create(model: str = "", device: str = "auto", label: str = "") -> InteractionFunction:
    """What cvat-cli calls with its `-p` parameters, which `Model` and `Interactor` explain."""
    return InteractionFunction(Interactor(Model(model, device), label))
