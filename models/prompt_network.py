"""The prompt network: which object of an image do clicks, a box, a scribble or an earlier mask mean? It knows no class.

    image -> backbone (timm) -> top-down path -> pyramid                            once per image
    pyramid + prompt planes -> U-Net from stride 4 to 16 and back -> logits         once per prompt

Prompts enter late, so that the next click costs the second line alone. Earlier masks and iterative training follow RITM
(Sofiiuk et al. 2021, arXiv 2102.06583). Added to its click maps is what the image says about the clicked places: for
each cell the likeness of its colour and of its features to those of the clicks, and the geodesic distance to them,
which grows with every change of colour on the way (Criminisi et al. 2008, "GeoS"). Group norm, because statistics of
the images that it was trained on would not hold for those of other projects.
"""

from dataclasses import dataclass
from typing import NamedTuple

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 4  # of the logits, in input pixels
PADDING = 114  # grey of what lies beyond the edge of an image
DISC = 4.0  # radius of a point on its plane, in input pixels
NEAR = (0.04, 0.2)  # distances from a point at which its planes have fallen to 1/e, as fractions of the input's side
COLOUR = (0.12, 0.3)  # distances of colours likewise; colours are in [0, 1]
RING = 16  # places just outside of a box that the object is compared with
POINT_PLANES = 2 * (1 + len(NEAR))
PLANES = POINT_PLANES + 2 + 2  # points, box, earlier mask
GEODESIC = (0.3, 1.0)  # geodesic distances at which their planes have fallen to 1/e, in changes of colour
STEP = 0.4  # that crossing the whole view costs where no colour changes
SETTLED = 8  # rounds between two looks at whether ways still grow shorter
LIKENESS_PLANES = 2 * (1 + len(COLOUR) + len(GEODESIC))


@dataclass(frozen=True)
class PromptNetworkConfig:
    """Layers of a prompt network; stored in its checkpoint.

    Attributes:
        backbone: a timm network with feature maps of strides 4, 8, 16 and 32.
        width: channels of the pyramid.
        widths: channels of the U-Net at strides 4, 8 and 16.
        likeness: channels of the features that places are compared by.
    """

    backbone: str = "tf_efficientnet_lite0"
    width: int = 64
    widths: tuple[int, int, int] = (48, 80, 96)
    likeness: int = 32


class Pyramid(NamedTuple):
    """An image as the prompts find it, for B images of S x S pixels.

    Attributes:
        colours: shape (B, 3, S/4, S/4), means over cells, in [0, 1].
        levels: features at strides 4, 8 and 16, each of shape (B, width, S/stride, S/stride).
        likeness: shape (B, L, S/4, S/4), of length 1 in each cell.
    """

    colours: Tensor
    levels: tuple[Tensor, Tensor, Tensor]
    likeness: Tensor


class Prompts(NamedTuple):
    """Prompts for B inputs of S x S pixels; what is not given is NaN or 0.

    Attributes:
        points: shape (B, N, 3): x, y in input pixels and 1 on the object, 0 off it; NaN where there is no point.
        boxes: shape (B, 4): left, top, right, bottom in input pixels; NaN where there is no box.
        earlier: shape (B, 1, S/4, S/4), an earlier mask in [0, 1].
        has_earlier: shape (B,), 1 where there is one.
    """

    points: Tensor
    boxes: Tensor
    earlier: Tensor
    has_earlier: Tensor


class PromptNetwork(nn.Module):
    """See the module's text."""

    def __init__(self, config: PromptNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = timm.create_model(config.backbone, pretrained=False, features_only=True)
        channels: list[int] = self.backbone.feature_info.channels()  # type: ignore[operator, union-attr]
        self.lateral = nn.ModuleList(nn.Conv2d(count, config.width, 1) for count in channels[1:])
        self.smooth = _conv(config.width, config.width)
        self.likeness = nn.Conv2d(config.width, config.likeness, 1)
        w4, w8, w16 = config.widths
        self.in4 = nn.Sequential(_conv(config.width + PLANES + LIKENESS_PLANES, w4), _conv(w4, w4))
        self.down8 = nn.Sequential(_conv(w4 + config.width, w8), _conv(w8, w8))
        self.down16 = nn.Sequential(_conv(w8 + config.width, w16), _conv(w16, w16, 2), _conv(w16, w16, 4))
        self.whole = nn.Linear(w16, w16)
        self.up8 = nn.Sequential(_conv(w16 + w8, w8), _conv(w8, w8))
        self.less8 = nn.Conv2d(w8, w4 // 2, 1)
        self.up4 = nn.Sequential(_conv(w4 // 2 + w4, w4), _conv(w4, w4))
        self.out = nn.Conv2d(w4, 1, 1)
        data = resolve_model_data_config(self.backbone)  # type: ignore[no-untyped-call]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(data["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(data["std"]).view(1, 3, 1, 1), persistent=False)

    def pyramid(self, images: Tensor) -> Pyramid:
        """Look at images of shape (B, 3, S, S), floats in [0, 1], S a multiple of 32."""
        return self.top_down(images, self.stages(images))

    def stages(self, images: Tensor) -> list[Tensor]:
        """The backbone's feature maps."""
        stages: list[Tensor] = self.backbone((images - self.mean) / self.std)
        return stages

    def top_down(self, images: Tensor, stages: list[Tensor]) -> Pyramid:
        """The pyramid of images whose `stages` are known."""
        x: Tensor | None = None
        levels = []
        for lateral, stage in reversed(list(zip(self.lateral, stages[1:], strict=True))):
            found = lateral(stage)
            x = found if x is None else found + F.interpolate(x, scale_factor=2.0, mode="nearest")
            levels.append(self.smooth(x))
        _, at16, at8, at4 = levels
        likeness = F.normalize(self.likeness(at4).float(), dim=1)
        return Pyramid(F.avg_pool2d(images, 4), (at4, at8, at16), likeness)

    def forward(self, pyramid: Pyramid, prompts: Prompts) -> Tensor:
        """Logits of shape (B, 1, S/4, S/4): is the pixel part of the object that the prompts mean?"""
        at4, at8, at16 = pyramid.levels
        e4 = self.in4(torch.cat([at4, prompt_planes(prompts), likeness_planes(pyramid, prompts)], dim=1))
        e8 = self.down8(torch.cat([F.max_pool2d(e4, 2), at8], dim=1))
        e16 = self.down16(torch.cat([F.max_pool2d(e8, 2), at16], dim=1))
        e16 = e16 + self.whole(e16.mean(dim=(2, 3)))[:, :, None, None]
        d8 = self.up8(torch.cat([_larger(e16), e8], dim=1))
        d4 = self.up4(torch.cat([_larger(self.less8(d8)), e4], dim=1))
        logits: Tensor = self.out(d4)
        return logits


def prompt_planes(prompts: Prompts) -> Tensor:
    """What was pointed at, as planes of shape (B, PLANES, S/4, S/4)."""
    side = prompts.earlier.shape[-1]
    centres = (torch.arange(side, device=prompts.points.device, dtype=torch.float32) + 0.5) * STRIDE
    planes = []
    for value in (1.0, 0.0):
        here = prompts.points[..., 2] == value  # (B, N)
        x = torch.where(here, prompts.points[..., 0], torch.inf)
        y = torch.where(here, prompts.points[..., 1], torch.inf)
        squares = (x[:, :, None, None] - centres) ** 2 + (y[:, :, None, None] - centres[:, None]) ** 2
        distance = squares.amin(dim=1).sqrt()  # (B, S/4, S/4)
        planes.append(torch.sigmoid((DISC - distance) * 2))
        planes += [torch.exp(-distance / (near * side * STRIDE)) for near in NEAR]
    left, top, right, bottom = (edge[:, None, None] for edge in prompts.boxes.unbind(1))
    across, down = centres[None, None, :], centres[None, :, None]
    inside = (across >= left) & (across <= right) & (down >= top) & (down <= bottom)  # NaN compares as False
    planes.append(inside.float())
    planes.append((~left.isnan()).float().expand_as(inside))
    stacked = torch.stack(planes, dim=1)
    known = prompts.has_earlier[:, None, None, None].expand_as(prompts.earlier)
    return torch.cat([stacked, prompts.earlier, known], dim=1)


def likeness_planes(pyramid: Pyramid, prompts: Prompts) -> Tensor:
    """How much each cell looks like the points on the object, and like those off it; (B, LIKENESS_PLANES, S/4, S/4).

    Places around a box count as points off the object.
    """
    points = torch.cat([prompts.points, _ring(prompts.boxes)], dim=1)
    side = pyramid.colours.shape[-1] * 4
    grid = (points[:, :, None, :2] / side * 2 - 1).nan_to_num(0)  # (B, N, 1, 2)
    inside = (grid.abs() <= 1).all(-1)[:, :, 0]
    colours = F.grid_sample(pyramid.colours.float(), grid, align_corners=False, padding_mode="border")[..., 0]
    features = F.grid_sample(pyramid.likeness.float(), grid, align_corners=False, padding_mode="border")[..., 0]
    alike = torch.einsum("bkn,bkhw->bnhw", features, pyramid.likeness.float())
    squares = ((pyramid.colours.float()[:, :, None] - colours[..., None, None]) ** 2).sum(1)  # (B, N, S/4, S/4)
    planes = []
    for value in (1.0, 0.0):
        here = ((points[..., 2] == value) & inside)[:, :, None, None]
        planes.append(torch.where(here, alike, -1.0).amax(1))
        nearest = torch.where(here, squares, torch.inf).amin(1)
        planes += [torch.exp(-nearest / (2 * width**2)) for width in COLOUR]
        seeds = torch.where(((points[..., 2] == value) & inside)[..., None], points[..., :2] / 4, torch.nan)
        way = geodesic_distance(pyramid.colours.float(), seeds)
        planes += [torch.exp(-way / scale) for scale in GEODESIC]
    return torch.stack(planes, dim=1)


@torch.no_grad()
def geodesic_distance(colours: Tensor, seeds: Tensor) -> Tensor:
    """The length of the shortest way from each cell to the seeds, in changes of colour.

    Args:
        colours: shape (B, 3, h, w).
        seeds: shape (B, N, 2), x and y in cells; NaN where there is none.

    Returns:
        Shape (B, h, w); infinite where there is no seed.
    """
    batch, _, height, width = colours.shape
    base = STEP / max(height, width)
    across = (colours[..., 1:] - colours[..., :-1]).norm(dim=1) + base  # (B, h, w - 1)
    down = (colours[:, :, 1:] - colours[:, :, :-1]).norm(dim=1) + base
    way = torch.full((batch, height, width), torch.inf, device=colours.device)
    known = ~seeds[..., 0].isnan()
    cells = seeds.nan_to_num(0).long()
    rows, columns = cells[..., 1].clamp(0, height - 1), cells[..., 0].clamp(0, width - 1)
    which = torch.arange(batch, device=colours.device)[:, None].expand_as(rows)
    if not known.any():
        return way
    way[which[known], rows[known], columns[known]] = 0
    for number in range(height + width):  # a way that winds more than that is cut short
        before = way.clone() if number % SETTLED == 0 else None
        way[..., 1:] = torch.minimum(way[..., 1:], way[..., :-1] + across)
        way[..., :-1] = torch.minimum(way[..., :-1], way[..., 1:] + across)
        way[:, 1:] = torch.minimum(way[:, 1:], way[:, :-1] + down)
        way[:, :-1] = torch.minimum(way[:, :-1], way[:, 1:] + down)
        if before is not None and torch.equal(before, way):
            break
    return way


def _ring(boxes: Tensor) -> Tensor:
    """Points just outside of boxes, shape (B, RING, 3), marked as off the object; NaN where there is no box."""
    left, top, right, bottom = boxes.unbind(1)
    margin_x, margin_y = 0.06 * (right - left) + 3, 0.06 * (bottom - top) + 3
    left, top, right, bottom = left - margin_x, top - margin_y, right + margin_x, bottom + margin_y
    share = (torch.arange(RING // 4, device=boxes.device) + 0.5) / (RING // 4)
    across = left[:, None] + share * (right - left)[:, None]
    down = top[:, None] + share * (bottom - top)[:, None]
    x = torch.cat([across, across, left[:, None].expand_as(down), right[:, None].expand_as(down)], dim=1)
    y = torch.cat([top[:, None].expand_as(across), bottom[:, None].expand_as(across), down, down], dim=1)
    return torch.stack([x, y, torch.where(x.isnan(), torch.nan, 0.0)], dim=2)


def no_prompts(batch: int, side: int, points: int = 0) -> Prompts:
    """Prompts of `batch` inputs of side x side pixels that say nothing yet, with room for `points` points."""
    return Prompts(
        torch.full((batch, points, 3), torch.nan),
        torch.full((batch, 4), torch.nan),
        torch.zeros(batch, 1, side // STRIDE, side // STRIDE),
        torch.zeros(batch),
    )


def _larger(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(inplace=True),
    )
