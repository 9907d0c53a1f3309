"""Class activation maps of every class from one forward pass, at one or several layers.

The class score that is explained is the sum of the class score map over the frame, s_c = sum_ij z_c(ij) with
z_c(ij) = sum_k w_ck A_k(ij), as Seg-Grad-CAM (Vinogradova et al. 2020) does for networks with a class map. At the last
convolution its gradient is the weight row itself, ds_c / dA_k(ij) = w_ck, so no backward pass is needed. The layers of
the top-down path before it get theirs from one short backward pass per class, which ends at the deepest of them: the
backbone is passed through once, forwards.

Each method is a function of one class's activations A and gradients G, written as `pytorch_grad_cam` has it, which is
what each is tested against. Three of them are one and the same at the last convolution, where the gradient is the same
in every cell: Grad-CAM, HiResCAM and XGrad-CAM are the class score map itself there, in logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import Classifier, ClassifierOutput
from models.config import DEFAULT_METHOD, GAMMA, STRIDE, in_logits
from models.devices import as_array, autocast
from models.errors import ModelError
from models.seen import Forward, Seen, presence_side
from models.stages import stage

SCORED_CHANNELS = 16  # of ScoreCAM: each is one more forward pass of the whole network


@dataclass(frozen=True, eq=False)
class Layer:
    """Activations of one layer and their gradients, from which its maps are made.

    Attributes:
        stride: of its cells, in pixels.
        activations: A, shape (B, K, h, w).
        gradients: G, of each class's score with respect to them, shape (B, C, K, h, w).
    """

    stride: int
    activations: Tensor
    gradients: Tensor


@dataclass(frozen=True, eq=False)
class Explanation:
    """One forward pass of B images, ready for maps by any method.

    Attributes:
        classifier, images: what went through what; images of shape (B, 3, S, S).
        logits: presence of each class, shape (B, C).
        score_maps: the last convolution's output, shape (B, C, h, w).
        layers: the ones asked for.
    """

    classifier: Classifier
    images: Tensor
    logits: Tensor
    score_maps: Tensor
    layers: tuple[Layer, ...]


def explain(
    classifier: Classifier,
    images: Tensor,
    strides: Sequence[int] = (STRIDE,),
    presence_scale: float = 1.0,
    forward: Callable[[Tensor], ClassifierOutput] | None = None,
) -> Explanation:
    """Run the classifier once and collect activations and gradients; once more for presence at another scale.

    Args:
        classifier: in evaluation mode.
        images: shape (B, 3, S, S), floats in [0, 1].
        strides: of the layers to look at: 4 is the last convolution, the others are the top-down path's.
        presence_scale: fraction of S at which presence is judged, in (0, 1].
        forward: computes the classifier where no gradients are needed; itself if None.

    Raises:
        ModelError: the classifier has no layer of such a stride.
    """
    forward = forward or classifier
    deeper = [stride for stride in strides if stride != STRIDE]
    gradients: dict[int, Tensor] = {}
    if not deeper:
        with torch.inference_mode():
            output = forward(images)
    else:
        if unknown := set(deeper) - set(classifier.strides):
            offered = ", ".join(map(str, classifier.strides))
            raise ModelError(f"{classifier.config.backbone} has no layer of stride {min(unknown)}, only {offered}")
        with torch.no_grad():  # the backbone keeps nothing for a backward pass
            lateral = classifier.lateral_features(images)
        with torch.enable_grad():
            lateral[max(deeper)].requires_grad_()
            output = classifier.top_down(lateral, *images.shape[2:])
            # Images do not mix, so one sum serves the whole batch.
            scores = output.score_maps.float().sum(dim=(0, 2, 3))  # (C,)
            tapped = [output.layers[stride] for stride in deeper]
            by_class = [torch.autograd.grad(score, tapped, retain_graph=True) for score in scores]
        gradients = {
            stride: torch.stack(g, dim=1) for stride, g in zip(deeper, zip(*by_class, strict=True), strict=True)
        }
    weights = classifier.head.weight[:, :, 0, 0].detach()  # (C, K)
    gradients[STRIDE] = weights[None, :, :, None, None].expand(len(images), -1, -1, *output.features.shape[2:])
    logits, score_maps = output.logits, output.score_maps
    layers = [Layer(s, output.layers[s].detach().float(), gradients[s].float()) for s in strides]
    if (side := presence_side(images.shape[-1], presence_scale)) is not None:
        with torch.inference_mode():
            planes = images.contiguous()  # scaling interleaved channels takes four times as long
            smaller = F.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
            logits = forward(smaller.contiguous(memory_format=torch.channels_last)).logits
    return Explanation(classifier, images, logits.detach(), score_maps.detach(), tuple(layers))


def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Draelos and Carin 2020, eq. 4: every cell weighted by its own gradient. (B, K, h, w) twice -> (B, h, w)."""
    return (activations * gradients).sum(dim=1)


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Selvaraju et al. 2017, eq. 1-2: channels weighted by their mean gradient."""
    return (activations * gradients.mean(dim=(2, 3), keepdim=True)).sum(dim=1)


def x_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Fu et al. 2020, eq. 8: channels weighted by the gradient's mean, itself weighted with the activation."""
    total = activations.sum(dim=(2, 3), keepdim=True) + 1e-7
    weights = (gradients * activations / total).sum(dim=(2, 3), keepdim=True)
    return (activations * weights).sum(dim=1)


def grad_cam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Chattopadhyay et al. 2018, eq. 19: channels weighted by alpha = g^2 / (2 g^2 + g^3 sum(A))."""
    total = activations.sum(dim=(2, 3), keepdim=True)
    alpha = gradients**2 / (2 * gradients**2 + total * gradients**3 + 1e-6)
    weights = (gradients.clamp(min=0) * alpha).sum(dim=(2, 3), keepdim=True)
    return (activations * weights).sum(dim=1)


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Jiang et al. 2021, eq. 6: as HiResCAM, negative gradients left out."""
    return (activations * gradients.clamp(min=0)).sum(dim=1)


def grad_cam_elementwise(activations: Tensor, gradients: Tensor) -> Tensor:
    """Pillai and Pirsiavash 2021: as HiResCAM, negative products left out."""
    return (activations * gradients).clamp(min=0).sum(dim=1)


def eigen_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Muhammad and Yeasin 2020: the activations' first principal component, the same for every class.

    A component has no sign of its own; here it is the one that agrees with the class score map.
    """
    return _signed(first_component(activations), hires_cam(activations, gradients))


def eigen_grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First principal component of gradient times activation; its sign as in `eigen_cam`."""
    return _signed(first_component(activations * gradients), hires_cam(activations, gradients))


def first_component(activations: Tensor) -> Tensor:
    """Projection of each cell's channels on their first principal component: (B, K, h, w) -> (B, h, w)."""
    # In doubles: the covariance squares the data's range.
    cells = activations.flatten(2).double()  # (B, K, hw)
    centred = cells - cells.mean(dim=2, keepdim=True)
    # The K x K covariance has the same leading direction as the data and is far smaller.
    _, vectors = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    projected = torch.einsum("bkn,bk->bn", centred, vectors[:, :, -1])
    return projected.float().view(len(activations), *activations.shape[2:])


def _signed(maps: Tensor, like: Tensor) -> Tensor:
    """Turn each map of shape (B, h, w) so that it correlates with `like`."""
    like = like - like.mean(dim=(1, 2), keepdim=True)
    agreement = (maps * like).sum(dim=(1, 2), keepdim=True)
    return torch.where(agreement < 0, -maps, maps)


def per_class(method: Callable[[Tensor, Tensor], Tensor], explanation: Explanation, layer: Layer) -> Tensor:
    """Maps of all classes, shape (B, C, h, w), by a method for one."""
    return torch.stack([method(layer.activations, g) for g in layer.gradients.unbind(dim=1)], dim=1)


def hires_cams(explanation: Explanation, layer: Layer) -> Tensor:
    """HiResCAM of all classes, shape (B, C, h, w).

    At the last convolution, where each class's gradient is its row of weights, these are that convolution's output.
    """
    if layer.stride == STRIDE:
        return explanation.score_maps.float()
    return per_class(hires_cam, explanation, layer)


def score_cam(explanation: Explanation, layer: Layer, bound: int = SCORED_CHANNELS) -> Tensor:
    """Wang et al. 2020: channels weighted by the class's logit on the image masked with that channel.

    pytorch-grad-cam masks and scores. It would go through all channels, once for each class: here one set of forward
    passes serves all classes, over the `bound` most salient channels of any of them.

    Returns:
        Shape (B, C, h, w).
    """
    import pytorch_grad_cam.score_cam

    # Its progress bars, one per class and image, are not shown.
    pytorch_grad_cam.score_cam.tqdm = _NoProgress
    maps = []
    for image, activations, gradients in zip(explanation.images, layer.activations, layer.gradients, strict=True):
        chosen = activations[_most_salient(activations, gradients, bound)]  # (k, h, w)
        scores: list[Tensor] = []

        def note(logits: Tensor, scores: list[Tensor] = scores) -> Tensor:
            scores.append(logits.float())
            return logits[0]

        # No layers to hook: its hooks would sit on the one classifier that all threads share.
        with pytorch_grad_cam.score_cam.ScoreCAM(_Logits(explanation.classifier), []) as cam:
            cam.get_cam_weights(image[None], None, [note], chosen[None].cpu().numpy(), None)
        weights = torch.stack(scores).softmax(dim=0)  # (k, C)
        maps.append((weights[:, :, None, None] * chosen[:, None]).sum(dim=0))
    return torch.stack(maps)


def _most_salient(activations: Tensor, gradients: Tensor, bound: int) -> Tensor:
    """Indices of at most `bound` channels, each class's strongest in turn; A (K, h, w), G (C, K, h, w)."""
    peaks = torch.stack([(activations * g).amax(dim=(1, 2)) for g in gradients])  # (C, K)
    ranks = peaks.argsort(dim=1, descending=True).argsort(dim=1)
    return ranks.amin(dim=0).argsort(stable=True)[:bound]


class _Logits(nn.Module):
    """The classifier as pytorch-grad-cam wants it: images in, scores out."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images).logits
        return logits


class _NoProgress:
    """Stands in for the module tqdm."""

    tqdm = iter


RAW: dict[str, Callable[[Explanation, Layer], Tensor]] = {  # method -> raw maps (B, C, h, w)
    "HiResCAM": hires_cams,
    "LayerCAM": partial(per_class, layer_cam),
    "GradCAM": partial(per_class, grad_cam),
    "GradCAMElementWise": partial(per_class, grad_cam_elementwise),
    "GradCAMPlusPlus": partial(per_class, grad_cam_plus_plus),
    "XGradCAM": partial(per_class, x_grad_cam),
    "EigenCAM": partial(per_class, eigen_cam),
    "EigenGradCAM": partial(per_class, eigen_grad_cam),
    "ScoreCAM": score_cam,
}


def activation_maps(explanation: Explanation, method: str = DEFAULT_METHOD) -> Tensor:
    """Maps of all classes of a batch, comparable between frames; those of several layers fused.

    A map in logits goes through the sigmoid, and so stays low all over where its class is absent. The others have no
    unit: each is scaled as LayerCAM does before it fuses layers, tanh(2 M / max M) (Jiang et al. 2021, eq. 9), and
    multiplied by the class's presence probability, or an absent class would yield a map of full strength. Several
    layers' maps are enlarged to the finest one's grid and fused by their maximum (the same paper, section III-C).

    Args:
        explanation: of the images.
        method: a name in `models.config.METHODS`.

    Returns:
        Shape (B, C, h, w), floats in [0, 1].

    Raises:
        ValueError: no such method.
    """
    if method not in RAW:
        raise ValueError(f"no activation-map method {method!r}; there are {', '.join(RAW)}")
    presence = explanation.logits.float().sigmoid()[:, :, None, None]
    with torch.inference_mode():
        maps = []
        for layer in sorted(explanation.layers, key=lambda layer: layer.stride):
            raw = RAW[method](explanation, layer)
            if in_logits(method, layer.stride):
                maps.append(raw.sigmoid())
            else:
                raw = raw.clamp(min=0)
                peak = raw.amax(dim=(2, 3), keepdim=True).clamp(min=1e-7)
                maps.append(torch.tanh(GAMMA * raw / peak) * presence)
        if len(maps) == 1:
            return maps[0]
        finest = maps[0].shape[2:]
        return torch.stack([F.interpolate(m, size=finest, mode="bilinear") for m in maps]).amax(dim=0)


def explained(
    classifier: Classifier,
    frames: NDArray[np.uint8],
    methods: Sequence[str],
    strides: Sequence[int],
    presence_scale: float,
    *,
    device: str,
    forward: Forward | None = None,
    features: bool = False,
) -> Seen:
    """Look at frames by any methods, at any layers; `models.seen.see` does without torch where that can be.

    Args:
        classifier: in evaluation mode, on `device`.
        frames: shape (B, H, W, 3), uint8 RGB.
        methods: names of `models.config.METHODS`.
        strides, presence_scale: as for `explain`.
        device: cpu, cuda or cuda:N.
        forward: computes the classifier where no gradients are needed; itself if None.
        features: whether to keep those of the finest layer.

    Raises:
        ModelError: the classifier has no layer of such a stride.
    """
    batch = torch.from_numpy(frames).to(device).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W), channels last
    with autocast(device):
        with stage("classifier"):
            run = None if forward is None else partial(_run, forward)
            explanation = explain(classifier, batch, strides, presence_scale, run)
        with stage("maps"):
            maps = {method: as_array(activation_maps(explanation, method)) for method in methods}
    finest = min(explanation.layers, key=lambda layer: layer.stride).activations
    return Seen(as_array(explanation.logits.float().sigmoid()), maps, as_array(finest) if features else None)


def _run(forward: Forward, images: Tensor) -> ClassifierOutput:
    logits, score_maps, features = forward(images.float().cpu().numpy(), features=True)
    assert features is not None
    kept = torch.from_numpy(features)
    return ClassifierOutput(torch.from_numpy(logits), kept, torch.from_numpy(score_maps), {STRIDE: kept})
