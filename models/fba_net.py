"""FBANet: a boundary-aware U-Net that turns a trimap into alpha inside the unknown band.

The input follows F,B,Alpha Matting (Forte and Pitié 2020, arXiv 2003.07711, section 3): normalised RGB, two binary
planes of the trimap and distance encodings of each at three widths; known pixels are written back over the output and
alpha is clamped, not squashed. Added to it is the class's activation map, the semantic feature: the network predicts a
correction of the map, so that untrained it returns the map and every step of training can only be judged against it.

The body is a U-Net whose attention gates are driven by a boundary map that the network predicts itself.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import FBANetConfig
from models.refiner import CHANNELS

BOUNDARY_STRIDE = 4  # side in pixels of the cells of the boundary map


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
