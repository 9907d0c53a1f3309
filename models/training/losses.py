"""Losses of the classifier and of the refiner."""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.classifier import ClassifierOutput

WINDOWS = (4, 16)  # sides of the pooled windows, in cells of the class score maps
SHARPNESS = 4.0  # of log-sum-exp pooling, as in the classifier


def classifier_loss(output: ClassifierOutput, coverage: Tensor, presence: Tensor, known: Tensor) -> Tensor:
    """Presence on the frame, and in regions of it wherever masks are known.

    Region labels at three scales: single cells (cross-entropy against the covered fraction, and log-Dice, which keeps a
    class that covers 0.2 % of the frame from drowning), and windows of 4 x 4 and 16 x 16 cells, whose logit is the
    pooled class score map and whose label is whether the class is anywhere in them.

    Args:
        output: of the classifier, B images, C classes, class score maps of h x w cells.
        coverage: fraction of each cell that the class covers, shape (B, C, h, w), floats in [0, 1].
        presence: whether the class is in the image, shape (B, C): 1, 0, or NaN for unknown.
        known: whether a class's `coverage` is known, shape (B, C), bool.

    Returns:
        Scalar.
    """
    labelled = ~presence.isnan()
    logits = output.logits[labelled]
    loss = F.binary_cross_entropy_with_logits(logits, presence[labelled]) if labelled.any() else logits.sum()
    if known.any():
        score_maps = output.score_maps.float()
        loss = loss + 2 * F.binary_cross_entropy_with_logits(score_maps[known], coverage[known])
        loss = loss + log_dice_loss(score_maps.sigmoid() * known[..., None, None], coverage * known[..., None, None])
        for window in WINDOWS:
            inside = (F.max_pool2d(coverage, window) > 0.5).float()
            pooled = window_logits(score_maps, window)
            loss = loss + 0.5 * F.binary_cross_entropy_with_logits(pooled[known], inside[known])
    return loss


def window_logits(score_maps: Tensor, window: int) -> Tensor:
    """Log-sum-exp pooled class score maps of each window x window block: (B, C, h, w) -> (B, C, h/window, w/window)."""
    # Subtracting the maximum first keeps exp() finite.
    peak = F.max_pool2d(score_maps, window)
    spread = F.interpolate(peak, scale_factor=window, mode="nearest")
    inner = score_maps[..., : spread.shape[-2], : spread.shape[-1]]
    mean = F.avg_pool2d(torch.exp(SHARPNESS * (inner - spread)), window)
    return peak + mean.clamp(min=1e-12).log() / SHARPNESS


def dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """1 - Dice per class over the batch, mean over the classes that are in it. Both of shape (B, C, h, w)."""
    dice = _dice(probability, target, smooth=1.0)
    return (1 - dice).mean() if len(dice) else probability.sum() * 0


def log_dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """-log Dice, otherwise as `dice_loss`: Wong et al. 2018, arXiv 1809.00076, with exponent 1.

    The slope of 1 - Dice vanishes where a small object is not seen at all yet; that of its logarithm does not.
    """
    dice = _dice(probability, target, smooth=0.01)
    return -dice.log().mean() if len(dice) else probability.sum() * 0


def _dice(probability: Tensor, target: Tensor, smooth: float) -> Tensor:
    """Dice over the batch of each class that is in it, in (0, 1]."""
    overlap = (probability * target).sum(dim=(0, 2, 3))
    total = probability.sum(dim=(0, 2, 3)) + target.sum(dim=(0, 2, 3))
    return ((2 * overlap + smooth) / (total + smooth))[target.amax(dim=(0, 2, 3)) > 0.5]


def refiner_loss(raw: Tensor, boundary: Tensor, target: Tensor, band: Tensor) -> Tensor:
    """Region and boundary loss of FBANet, both inside the unknown band.

    The region loss is the absolute error of alpha, as in F,B,Alpha Matting; alpha is clamped, so overshooting on the
    right side costs nothing while the wrong side keeps its slope. The boundary loss is the cross-entropy of the
    predicted boundary map.

    Args:
        raw: alpha before clamping, shape (B, S, S).
        boundary: logits, shape (B, S/4, S/4).
        target: true alpha, shape (B, S, S), floats in [0, 1].
        band: the unknown pixels, shape (B, S, S), bool.

    Returns:
        Scalar: mean over the crops, so that small objects count like large ones.
    """
    error = torch.where(target >= 0.5, (target - raw).clamp(min=0), (raw - target).clamp(min=0))
    area = band.sum(dim=(1, 2)).clamp(min=1)
    region = (error * band).sum(dim=(1, 2)) / area
    share = F.avg_pool2d(target[:, None], 4)[:, 0]
    edge = ((share > 0.02) & (share < 0.98)).float()
    inside = F.max_pool2d(band[:, None].float(), 4)[:, 0]
    cross_entropy = F.binary_cross_entropy_with_logits(boundary.float(), edge, reduction="none")
    outline = (cross_entropy * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1)
    return (region + 0.2 * outline).mean()


def contrastive_loss(features: Tensor, alpha: Tensor, classes: Tensor, temperature: float = 0.1) -> Tensor:
    """Foreground like foreground, background like background: Chung et al. 2023, arXiv 2306.15189, section 2.2.

    Each crop gives two vectors, the mean feature of its foreground and that of its background, weighted by alpha. A
    vector should be nearer to those of its own side and class in the other crops than to any of the other side (InfoNCE
    on cosine similarities). Where no truth is known alpha is the network's own answer, so unlabelled frames teach too.

    Args:
        features: of FBANet, shape (B, K, h, w).
        alpha: truth or answer, shape (B, S, S), floats in [0, 1]; no gradient flows through it.
        classes: class index of each crop, shape (B,).
        temperature: of the similarities.

    Returns:
        Scalar; 0 where no class has two crops.
    """
    share = F.adaptive_avg_pool2d(alpha.detach()[:, None], (features.shape[2], features.shape[3]))  # (B, 1, h, w)
    weights = torch.cat([share, 1 - share])  # (2B, 1, h, w): foregrounds, then backgrounds
    pooled = (features.float().repeat(2, 1, 1, 1) * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1e-3)
    vectors = F.normalize(pooled, dim=1)
    similarity = vectors @ vectors.T / temperature  # (2B, 2B)
    side = torch.arange(len(vectors), device=features.device) // len(features)
    kind = classes.repeat(2)
    positive = (
        (side[:, None] == side) & (kind[:, None] == kind) & ~torch.eye(len(side), dtype=torch.bool).to(side.device)
    )
    against = torch.where(side[:, None] != side, similarity, -torch.inf).logsumexp(dim=1, keepdim=True)  # (2B, 1)
    losses = torch.logaddexp(similarity, against) - similarity
    return losses[positive].mean() if positive.any() else features.sum() * 0
