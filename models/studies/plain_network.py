"""The bar that maps, trimap and FBANet must clear: a plain segmentation network trained on the same masks.

The classifier's own backbone, top-down path and class convolution, but trained for nothing besides the masks: per-pixel
cross-entropy and Dice. A pixel belongs to a class where its probability is at least 0.5; there is no presence decision,
no trimap and no refiner.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.classifier import Classifier
from models.config import ClassifierConfig, FBANetConfig, PipelineConfig
from models.data.sample import Sample
from models.devices import autocast, choose_device
from models.errors import DataError
from models.fba_net import FBANet
from models.pipeline import Pipeline
from models.training.augmentation import random_view
from models.training.frames import Frames, folder_frames
from models.training.losses import dice_loss
from models.training.optimisation import OptimisationLoop
from models.training.pretrained import load_pretrained
from models.training.schedule import Clock, Report
from models.training.spec import TrainingSpec
from models.trimap import TrimapConfig

VIEW, BATCH = 352, 8
RATE, BACKBONE_RATE = 1.5e-3, 0.6  # of the new layers, and the factor on it for the pretrained ones
STEPS = 100_000  # more than any wall time allows


def train_plain(
    samples: Sequence[Sample],
    config: ClassifierConfig,
    spec: TrainingSpec,
    report: Report,
    *,
    seconds: float,
    steps: int = STEPS,
    batch_size: int = BATCH,
    view: int = VIEW,
) -> Pipeline:
    """Train all layers on the samples that have masks, until time is up.

    Args:
        samples: what to learn from.
        config: classes, backbone, input size and width.
        spec: where the backbone's weights are, the seed and the device; nothing else of it counts.
        report: told of every step.
        seconds: wall time, in which the learning rate reaches 0.
        steps: limit on the batches.
        batch_size: views a batch.
        view: side of a view in pixels.

    Returns:
        A pipeline whose masks are the network's own, so that it is measured like any other.

    Raises:
        DataError: no sample has masks.
        CheckpointError: the pretrained weights cannot be had.
    """
    masked = [sample for sample in samples if sample.has_masks]
    if not masked:
        raise DataError("a plain segmentation network learns from masks, and none of the images has all of its masks")
    device = torch.device(choose_device(spec.device))
    torch.manual_seed(spec.seed)
    network = Classifier(config)
    if not spec.from_scratch:
        load_pretrained(network, spec.weights)
    network = network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # a batch is too small for better statistics than the pretrained ones
    new = [parameter for name, parameter in network.named_parameters() if not name.startswith("backbone.")]
    groups = [{"params": network.backbone.parameters(), "lr": RATE * BACKBONE_RATE}, {"params": new, "lr": RATE}]
    frames = folder_frames(masked, config.classes, config.input_size)
    clock = Clock(steps, seconds)
    loop = OptimisationLoop(network, groups, stage="plain network", clip=2.0, clock=clock, report=report)
    for batch in loop.batches(lambda step: _draw_batch(frames, batch_size, view, (spec.seed, step))):
        images, masks = (tensor.to(device) for tensor in batch)
        with autocast(device) if device.type == "cuda" else nullcontext():  # as the classifier is trained
            score_maps = network(images.permute(0, 3, 1, 2).float() / 255).score_maps
        loop.step(plain_loss(score_maps, masks.float() / 255))
    # Its map at 0.5 and nothing else: every class is drawn, no object is smoothed or dropped.
    bare = PipelineConfig(
        refiner="none",
        presence_threshold=dict.fromkeys(config.classes, 0.0),
        trimap=TrimapConfig(smoothing=0.0, min_component=0.0),
    )
    return Pipeline.of(loop.average, FBANet(FBANetConfig()), bare, name="plain network", device=str(device))


def plain_loss(score_maps: Tensor, masks: Tensor) -> Tensor:
    """Pixels' cross-entropy and Dice of class score maps (B, C, h, w) against masks (B, C, H, W), floats in [0, 1]."""
    logits = F.interpolate(score_maps.float(), size=masks.shape[-2:], mode="bilinear", align_corners=False)
    return F.binary_cross_entropy_with_logits(logits, masks) + dice_loss(logits.sigmoid(), masks)


def _draw_batch(frames: Frames, size: int, side: int, seed: tuple[int, int]) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    views = [random_view(frame, side, rng, focus) for frame, focus in (frames.draw(rng) for _ in range(size))]
    images, masks = zip(*views, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))
