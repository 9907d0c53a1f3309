"""FBANet: a boundary-aware U-Net that turns a trimap into alpha inside the unknown band.

The input follows F,B,Alpha Matting (Forte and Pitié 2020, arXiv 2003.07711, section 3): normalised RGB, two binary
planes of the trimap and distance encodings of each at three widths; known pixels are written back over the output and
alpha is clamped, not squashed. Added to it is the class's activation map, the semantic feature: the network predicts a
correction of the map, so that untrained it returns the map and every step of training can only be judged against it.

The body is a U-Net whose attention gates are driven by a boundary map that the network predicts itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.trimap import BACKGROUND, FOREGROUND

# Of F,B,Alpha's reference code: widths of the distance encodings, as fractions of the crop.
DISTANCE_WIDTHS = (0.02, 0.08, 0.16)
CHANNELS = 3 + 2 + 2 * len(DISTANCE_WIDTHS) + 1
BOUNDARY_STRIDE = 4  # side in pixels of the cells of the boundary map


@dataclass(frozen=True)
class FBANetConfig:
    """Layers of an FBANet; stored in its checkpoint.

    Attributes:
        widths: channels at the finest level, at half its resolution, at a quarter ...
        crop_size: side in pixels of the square that the region around an object is scaled to; a multiple of 32.
        stride: side in pixels of a cell of the finest level, 1 or 2.
    """

    widths: tuple[int, ...] = (32, 48, 96)
    crop_size: int = 256
    stride: int = 2

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """The config that a card has; those of before there were strides have none."""
        return cls(**{"stride": 1} | dict(stored) | {"widths": tuple(stored["widths"])})


class FBANetOutput(NamedTuple):
    """Result for B crops of S x S pixels.

    Attributes:
        raw: shape (B, S, S), alpha before it is clamped, for the loss.
        alpha: shape (B, S, S), in [0, 1], with the trimap's known pixels written over it.
        boundary: shape (B, S/4, S/4), logits of the object's boundary passing through the cell.
        features: shape (B, K, S/4, S/4), what the boundary is read from; the contrastive term compares them.
    """

    raw: Tensor
    alpha: Tensor
    boundary: Tensor
    features: Tensor


class FBANet(nn.Module):
    """The refiner's network; see the module's text."""

    def __init__(self, config: FBANetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        # A cell and the pixels around it.
        self.stem = _block(CHANNELS, widths[0], config.stride, kernel=config.stride + 2)
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_block(a + b, a) for a, b in pairwise(widths))
        self.boundary_level = (BOUNDARY_STRIDE // config.stride).bit_length() - 1
        self.boundary = nn.Conv2d(widths[self.boundary_level], 1, 3, padding=1)
        # One gate per skip: where the boundary is, let the fine features through.
        self.gates = nn.ModuleList(nn.Conv2d(width + 1, width, 1) for width in widths[:-1])
        self.out = nn.Conv2d(widths[0], config.stride**2, 3, padding=1)  # a channel for each pixel of a cell
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, inputs: Tensor) -> FBANetOutput:
        """Refine crops of shape (B, 12, S, S) as `network_input` makes them."""
        known_background, known_foreground, cam = inputs[:, 3], inputs[:, 4], inputs[:, -1]
        skips = [self.stem(inputs)]  # (B, w0, s, s) with s = S / stride
        for down in self.down:
            skips.append(down(skips[-1]))  # (B, wi, s/2^i, s/2^i)
        x = skips.pop()
        boundary = features = None
        for level in reversed(range(len(skips))):
            skip = skips[level]
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            if boundary is None:
                gate_map = torch.zeros_like(skip[:, :1])
            else:
                gate_map = F.interpolate(boundary, size=skip.shape[-2:], mode="bilinear", align_corners=False).sigmoid()
            gate = torch.sigmoid(self.gates[level](torch.cat([skip, gate_map], dim=1)))
            x = self.up[level](torch.cat([skip * gate, x], dim=1))  # (B, wi, s/2^i, s/2^i)
            if level == self.boundary_level:
                features = x
                boundary = self.boundary(features)  # (B, 1, S/4, S/4)
        assert boundary is not None
        assert features is not None
        raw = cam + F.pixel_shuffle(self.out(x), self.config.stride)[:, 0]
        alpha = raw.clamp(0, 1) * (1 - known_background)
        alpha = torch.where(known_foreground > 0, torch.ones_like(alpha), alpha)
        return FBANetOutput(raw, alpha, boundary[:, 0], features)


class AlphaOnly(nn.Module):
    """An FBANet as it is served: crops of shape (B, 12, S, S) to their alpha, shape (B, S, S), in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Alpha without the rest of FBANet's output, which only training reads."""
        output: FBANetOutput = self.network(inputs)
        return output.alpha


def network_input(crop: NDArray[np.uint8], trimap: NDArray[np.uint8], cam: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stack the planes that FBANet reads.

    Args:
        crop: shape (S, S, 3), uint8 RGB.
        trimap: shape (S, S), uint8, BACKGROUND, UNKNOWN or FOREGROUND.
        cam: the class's activation map, shape (S, S), floats in [0, 1], 0.5 at the coarse mask's edge.

    Returns:
        Shape (12, S, S): RGB in about [-2, 2], sure background, sure foreground, three distance encodings
        exp(-d^2 / 2 sigma^2) of each, the map.
    """
    known = trimap == BACKGROUND, trimap == FOREGROUND
    planes = np.empty((CHANNELS, *trimap.shape), dtype=np.float32)
    planes[:3] = ((crop.astype(np.float32) / 255 - 0.45) / 0.25).transpose(2, 0, 1)
    planes[3], planes[4], planes[-1] = *known, cam
    sigmas = np.array(DISTANCE_WIDTHS, dtype=np.float32) * trimap.shape[0]
    encodings = planes[5:-1].reshape(len(known), len(sigmas), *trimap.shape)
    for plane, encoded in zip(known, encodings, strict=True):
        if not plane.any():
            encoded[:] = 0
            continue
        distance = cv2.distanceTransform((~plane).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # Squared distances are whole numbers; OpenCV's differ from run to run in the last bit.
        squared = -np.rint(distance**2)
        for sigma, out in zip(sigmas, encoded, strict=True):
            np.exp(squared / (2 * sigma**2), out=out)
    return planes


def unknown_band(inputs: Tensor) -> Tensor:
    """The pixels FBANet decides, of inputs of shape (B, 12, S, S): shape (B, S, S), bool."""
    return (inputs[:, 3] == 0) & (inputs[:, 4] == 0)


def _block(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(inplace=True),
    )
