"""Training the classifier: region labels where masks are known, frame labels elsewhere."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.classifier import STRIDE, Classifier
from models.pipeline import autocast
from models.training.augmentation import random_view
from models.training.descent import Descent
from models.training.frames import Frames, Mixture
from models.training.losses import classifier_loss
from models.training.schedule import Clock, Report


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier is trained.

    Attributes:
        steps: batches.
        batch: views a batch.
        view: side of a view in pixels, a multiple of 64.
        rate: highest learning rate of the new layers.
        backbone_rate: factor on it for the backbone.
        checks: how often the held-out score is taken, spread over the run.
    """

    steps: int
    batch: int = 8
    view: int = 352
    rate: float = 1e-3
    backbone_rate: float = 0.3
    checks: int = 4


def train_classifier(
    classifier: Classifier,
    frames: Frames | Mixture,
    recipe: ClassifierRecipe,
    *,
    score: Callable[[Classifier], float] | None,
    report: Report,
    seed: int,
    device: torch.device,
    seconds: float | None,
) -> Classifier:
    """Train in place of nothing: the classifier passed in is left as it was.

    Args:
        classifier: where to begin.
        frames: what to learn from.
        recipe: how.
        score: held-out quality of a classifier, higher is better; the best one seen is returned, the one passed in
            among them. None returns the last.
        report: told of every step.
        seed: the same seed and steps give the same weights.
        device: where to compute.
        seconds: limit; the learning rate reaches 0 in time.

    Returns:
        A new classifier, in evaluation mode.
    """
    torch.manual_seed(seed)
    best = deepcopy(classifier).eval()
    best_score = score(best) if score else -np.inf
    network: Classifier = deepcopy(classifier).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    _freeze_batch_statistics(network)
    inherited = [p for name, p in network.named_parameters() if name.startswith("backbone.")]
    new = [p for name, p in network.named_parameters() if not name.startswith("backbone.")]
    groups = [{"params": inherited, "lr": recipe.rate * recipe.backbone_rate}, {"params": new, "lr": recipe.rate}]
    clock = Clock(recipe.steps, seconds)
    descent = Descent(network, groups, stage="classifier", clip=2.0, clock=clock, report=report)
    next_check = 1 / recipe.checks
    for batch in descent.batches(lambda step: _draw_batch(frames, recipe, seed, step)):
        images, coverage, presence, masked = (tensor.to(device) for tensor in batch)
        # On a CPU the backward pass of depthwise convolutions is slower in bfloat16 than in float32.
        with autocast(device) if device.type == "cuda" else nullcontext():
            output = network(images.permute(0, 3, 1, 2).float() / 255)
            loss = classifier_loss(output, coverage, presence, masked)
        descent.step(loss)
        if score and clock.progress >= next_check:
            next_check += 1 / recipe.checks
            held_out = score(descent.average)
            if held_out >= best_score:
                best, best_score = deepcopy(descent.average), held_out
    result = best if score else descent.average
    return result.eval()


def _draw_batch(
    frames: Frames | Mixture, recipe: ClassifierRecipe, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = np.random.default_rng((seed, step))
    images, coverage, presence, masked = [], [], [], []
    cells = recipe.view // STRIDE
    for _ in range(recipe.batch):
        frame, focus = frames.draw(rng)
        image, masks = random_view(frame, recipe.view, rng, focus)
        shares = np.stack([cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA) for mask in masks])
        images.append(image)
        coverage.append(shares.astype(np.float32) / 255)
        # A view may have lost a class of its frame; only masks can tell.
        inside = (coverage[-1] > 0.5).any(axis=(1, 2)).astype(np.float32)
        presence.append(inside if frame.has_masks else frame.presence)
        masked.append(frame.has_masks)
    return (
        torch.from_numpy(np.stack(images)),
        torch.from_numpy(np.stack(coverage)),
        torch.from_numpy(np.stack(presence)),
        torch.tensor(masked),
    )


def _freeze_batch_statistics(network: nn.Module) -> None:
    """Keep the pretrained batch-norm statistics: a batch of eight is too small to estimate better ones."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
