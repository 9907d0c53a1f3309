"""Class activation maps of every class from one forward pass.

The class score that is explained is the class's evidence summed over the frame, s_c = sum_ij z_c(ij) with
z_c(ij) = sum_k w_ck A_k(ij), as Seg-Grad-CAM (Vinogradova et al. 2020) does for networks with a class map. At the last
convolution its gradient is the weight row itself, dz_c / dA_k(ij) = w_ck, so no backward pass is needed.

Every method is a function (features A, weights w) -> raw maps; `pytorch_grad_cam` is what each is tested against.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.classifier import ClassifierOutput

DEFAULT_METHOD = "HiResCAM"


def grad_cam(features: Tensor, weights: Tensor) -> Tensor:
    """Selvaraju et al. 2017, eq. 1-2: channels weighted by their mean gradient."""
    return torch.einsum("bkhw,ck->bchw", features, weights)


def hires_cam(features: Tensor, weights: Tensor) -> Tensor:
    """Draelos and Carin 2020, eq. 4: gradient times activation, cell by cell.

    At the last convolution this is the class's evidence itself, in logits, and equals `grad_cam`.
    """
    return torch.einsum("bkhw,ck->bchw", features, weights)


def grad_cam_elementwise(features: Tensor, weights: Tensor) -> Tensor:
    """HiResCAM with each channel's product clipped at 0 before the sum (Pillai and Pirsiavash 2021)."""
    return torch.einsum("bkhw,ck->bchw", features.clamp(min=0), weights.clamp(min=0)) + torch.einsum(
        "bkhw,ck->bchw", features.clamp(max=0), weights.clamp(max=0)
    )


def layer_cam(features: Tensor, weights: Tensor) -> Tensor:
    """Jiang et al. 2021, eq. 6: activation weighted by the positive gradient, cell by cell."""
    return torch.einsum("bkhw,ck->bchw", features, weights.clamp(min=0))


@dataclass(frozen=True)
class Method:
    """One activation-map method.

    Attributes:
        name: as the paper writes it.
        raw: (features (B, K, h, w), weights (C, K)) -> raw maps (B, C, h, w).
        in_logits: the raw map is a logit of the class in the cell, so it has an absolute scale.
    """

    name: str
    raw: Callable[[Tensor, Tensor], Tensor]
    in_logits: bool = False


METHODS = {
    method.name: method
    for method in (
        Method("HiResCAM", hires_cam, in_logits=True),
        Method("LayerCAM", layer_cam),
        Method("GradCAM", grad_cam, in_logits=True),
        Method("GradCAMElementWise", grad_cam_elementwise),
    )
}


def activation_maps(output: ClassifierOutput, weights: Tensor, method: str = DEFAULT_METHOD) -> Tensor:
    """Maps of all classes of a batch, comparable between frames.

    A map in logits goes through the sigmoid, and so stays low all over where its class is absent. The others have no
    unit: they are divided by their maximum and multiplied by the class's presence probability, or an absent class
    would yield a map of full strength.

    Args:
        output: of the classifier, B images.
        weights: of its last convolution, shape (C, K).
        method: a name in `METHODS`.

    Returns:
        Shape (B, C, h, w), floats in [0, 1].

    Raises:
        ValueError: no such method.
    """
    if method not in METHODS:
        raise ValueError(f"no activation-map method {method!r}; there are {', '.join(METHODS)}")
    raw = METHODS[method].raw(output.features, weights)
    if METHODS[method].in_logits:
        return raw.sigmoid()
    raw = raw.clamp(min=0)
    peak = raw.amax(dim=(2, 3), keepdim=True).clamp(min=1e-7)
    return raw / peak * output.logits.sigmoid()[:, :, None, None]
