"""The image classifier: which classes are on a frame, and the feature map that tells where.

    backbone (timm) -> top-down path to stride 4 -> features A -> class convolution
    -> class score maps z -> pooled -> logits

It is an image classifier like the paper's (multi-label, trainable from frame labels alone), whose last convolution lies
at stride 4 instead of 32. Pooling a score map over the whole frame gives the frame's logit, pooling it over a window
gives that window's, so labels of regions of any size train it too. Top-down path: Lin et al. 2017, "Feature Pyramid
Networks for Object Detection". Pooling: log-sum-exp, Pinheiro and Collobert 2015, "From Image-level to Pixel-level
Labeling", eq. 4.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import BACKBONES, STRIDE, ClassifierConfig
from models.lean_timm import FeatureHooks, timm
from models.seen import SHARPNESS


class ClassifierOutput(NamedTuple):
    """Result of one forward pass, for B images of S x S pixels, C classes, K channels.

    Attributes:
        logits: shape (B, C), presence of each class on the frame.
        features: shape (B, K, S/4, S/4), the input of the last convolution, not negative.
        score_maps: shape (B, C, S/4, S/4), that convolution's output: logit of the class in the cell.
        layers: stride -> activations, shape (B, K, about S/stride, about S/stride): the features at stride 4, the
            top-down path at the deeper ones.
    """

    logits: Tensor
    features: Tensor
    score_maps: Tensor
    layers: dict[int, Tensor]


class Classifier(nn.Module):
    """Multi-label classifier whose last convolution keeps stride 4.

    Attributes:
        wall_reader: the classifier of the unrolled wall, of the same classes; None where this one reads it too.

    Raises:
        ValueError: timm does not know the backbone, or there are no classes.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        if not config.classes:
            raise ValueError("a classifier needs at least one class")
        if not timm.is_model(config.backbone):
            raise ValueError(f"timm has no network {config.backbone!r}; we test with {', '.join(BACKBONES)}")
        self.config = config
        self.backbone = timm.create_model(config.backbone, pretrained=False, features_only=True)
        hooks: Any
        for module in self.backbone.modules():
            for hooks in (one for one in vars(module).values() if isinstance(one, FeatureHooks)):
                hooks._feature_outputs = _StagesByThread()
        info: Any = self.backbone.feature_info
        reductions: list[int] = info.reduction()
        self.levels = [i for i, reduction in enumerate(reductions) if reduction >= STRIDE]
        if reductions[self.levels[0]] != STRIDE:
            raise ValueError(f"{config.backbone} has no feature map of stride {STRIDE}, only {reductions}")
        self.strides = [reductions[i] for i in self.levels]
        channels: list[int] = info.channels()
        self.lateral = nn.ModuleList(_conv(channels[i], config.width, kernel=1) for i in self.levels)
        self.smooth = _conv(config.width, config.width, kernel=3)
        # No bias: a class score map is then exactly weight x features, which is what the activation maps explain.
        self.head = nn.Conv2d(config.width, len(config.classes), 1, bias=False)
        # Pooling shifts a logit with the number of cells, so each class learns its own line from pooled to logit.
        self.gain = nn.Parameter(torch.ones(len(config.classes)))
        self.bias = nn.Parameter(torch.zeros(len(config.classes)))
        data = timm.data.config.resolve_model_data_config(self.backbone)  # type: ignore[no-untyped-call]
        self.mean: Tensor
        self.std: Tensor
        self.wall_reader = (
            Classifier(replace(config, backbone=config.wall_backbone, wall_backbone=None))
            if config.wall_backbone
            else None
        )
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(1, 3, 1, 1), persistent=False)

    @property
    def readers(self) -> "list[Classifier]":
        """This classifier, and that of the wall where it is another one."""
        return [self] if self.wall_reader is None else [self, self.wall_reader]

    def forward(self, images: Tensor) -> ClassifierOutput:
        """Classify images of shape (B, 3, H, W), floats in [0, 1], H and W multiples of 32."""
        return self.top_down(self.lateral_features(images), images.shape[-2], images.shape[-1])

    def lateral_features(self, images: Tensor) -> dict[int, Tensor]:
        """The backbone's stages, as the top-down path takes them: stride -> (B, K, about H/stride, about W/stride)."""
        maps = self.backbone((images - self.mean) / self.std)
        return {
            stride: lateral(maps[level])
            for stride, level, lateral in zip(self.strides, self.levels, self.lateral, strict=True)
        }

    def top_down(self, lateral: Mapping[int, Tensor], height: int, width: int) -> ClassifierOutput:
        """The top-down pass over the lateral features of images of height x width pixels, deepest first."""
        layers: dict[int, Tensor] = {}
        x: Tensor | None = None
        for stride, feature in sorted(lateral.items(), reverse=True):
            x = feature if x is None else feature + F.interpolate(x, size=feature.shape[-2:], mode="nearest")
            layers[stride] = x
        # Xception's first convolutions do not pad, so its maps are a pixel short; the cells must tile the image.
        cells = (height // STRIDE, width // STRIDE)
        if x is not None and x.shape[-2:] != cells:
            x = F.interpolate(x, size=cells, mode="bilinear", align_corners=False)
        features = layers[STRIDE] = F.relu(self.smooth(x))  # (B, K, H/4, W/4)
        score_maps = self.head(features)  # (B, C, H/4, W/4)
        return ClassifierOutput(self.logits(score_maps), features, score_maps, layers)

    def logits(self, score_maps: Tensor) -> Tensor:
        """Presence logits, shape (B, C), of class score maps of shape (B, C, h, w): a whole frame's or a window's."""
        return pooled(score_maps, self.gain, self.bias)


class _StagesByThread(dict[tuple[int, torch.device], "OrderedDict[str, Tensor]"]):
    """Where timm's hooks put what a backbone's stages return, by device: here also by thread.

    A click and a batch of tasks run the same network at the same time. timm's own dictionary would give one of them
    the stages of the other's image.
    """

    def __getitem__(self, device: Any) -> "OrderedDict[str, Tensor]":
        return self.setdefault((threading.get_ident(), device), OrderedDict())

    def __setitem__(self, device: Any, stages: "OrderedDict[str, Tensor]") -> None:
        super().__setitem__((threading.get_ident(), device), stages)


def pooled(score_maps: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Presence logits, shape (B, C), of class score maps of shape (B, C, h, w), by each class's line of shape (C,)."""
    return gain * log_sum_exp_pool(score_maps.flatten(2)) + bias


def log_sum_exp_pool(score_maps: Tensor, sharpness: float = SHARPNESS) -> Tensor:
    """Smooth maximum over the last axis: log(mean(exp(r z))) / r with r = `sharpness`.

    r -> 0 is the mean, r -> infinity the maximum. At r = 4 an object that covers 0.2 % of a frame still decides.
    """
    return (torch.logsumexp(sharpness * score_maps, dim=-1) - math.log(score_maps.shape[-1])) / sharpness


def _conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    # Group norm: fine-tuning on a handful of frames leaves batch statistics useless.
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.GroupNorm(8, outputs))
