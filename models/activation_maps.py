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


EPSILON = 1e-6


def evidence(features: Tensor, weights: Tensor) -> Tensor:
    """Channels weighted by the gradient: three of the methods are one and the same at the last convolution.

    Grad-CAM (Selvaraju et al. 2017, eq. 1-2) weights a channel by its mean gradient, HiResCAM (Draelos and Carin 2020,
    eq. 4) each cell by its own, XGrad-CAM (Fu et al. 2020, eq. 8) by the gradient's mean weighted with the activation.
    Where the gradient is the same in every cell all three are the class's evidence itself, in logits.
    """
    return torch.einsum("bkhw,ck->bchw", features, weights)


def positive_evidence(features: Tensor, weights: Tensor) -> Tensor:
    """Products of gradient and activation, clipped at 0 before they are summed.

    LayerCAM (Jiang et al. 2021, eq. 6) clips the gradient, GradCAMElementWise (Pillai and Pirsiavash 2021) the product:
    the same here, since features are not negative.
    """
    return torch.einsum("bkhw,ck->bchw", features, weights.clamp(min=0))


def grad_cam_plus_plus(features: Tensor, weights: Tensor) -> Tensor:
    """Chattopadhyay et al. 2018, eq. 19: channels weighted by alpha = g^2 / (2 g^2 + g^3 sum(A))."""
    total = features.sum(dim=(2, 3))[:, None]  # (B, 1, K)
    alpha = weights**2 / (2 * weights**2 + total * weights**3 + EPSILON)  # (B, C, K)
    cells = features.shape[2] * features.shape[3]
    return torch.einsum("bkhw,bck->bchw", features, weights.clamp(min=0) * alpha * cells)


def eigen_cam(features: Tensor, weights: Tensor) -> Tensor:
    """Muhammad and Yeasin 2020: the features' first principal component, the same for every class.

    A component has no sign of its own; here it is the one that agrees with the class's evidence.
    """
    projected = first_component(features)[:, None]  # (B, 1, h, w)
    return _signed(projected.expand(-1, len(weights), -1, -1), evidence(features, weights))


def eigen_grad_cam(features: Tensor, weights: Tensor) -> Tensor:
    """First principal component of gradient times activation, per class; its sign as in `eigen_cam`."""
    maps = [first_component(features * row[:, None, None]) for row in weights]
    return _signed(torch.stack(maps, dim=1), evidence(features, weights))


def first_component(features: Tensor) -> Tensor:
    """Projection of each cell's channels on their first principal component: (B, K, h, w) -> (B, h, w)."""
    cells = features.flatten(2).float()  # (B, K, hw)
    centred = cells - cells.mean(dim=2, keepdim=True)
    # The K x K covariance has the same leading direction as the data and is far smaller.
    _, vectors = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    projected = torch.einsum("bkn,bk->bn", centred, vectors[:, :, -1])
    return projected.view(len(features), *features.shape[2:])


def _signed(maps: Tensor, like: Tensor) -> Tensor:
    """Turn each map of shape (B, C, h, w) so that it correlates with `like`."""
    like = like - like.mean(dim=(2, 3), keepdim=True)
    agreement = (maps * like).sum(dim=(2, 3), keepdim=True)
    return torch.where(agreement < 0, -maps, maps)


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
        Method("HiResCAM", evidence, in_logits=True),
        Method("LayerCAM", positive_evidence),
        Method("GradCAM", evidence, in_logits=True),
        Method("GradCAMElementWise", positive_evidence),
        Method("GradCAMPlusPlus", grad_cam_plus_plus),
        Method("XGradCAM", evidence, in_logits=True),
        Method("EigenCAM", eigen_cam),
        Method("EigenGradCAM", eigen_grad_cam),
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
