"""Presence probabilities that mean what they say."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from models.pipeline import Pipeline
from models.training.augmentation import random_colours
from models.training.data_folder import Sample

ENOUGH = 300  # whole frames that settle a class's line


def calibrate_presence(pipeline: Pipeline, samples: Sequence[Sample], seed: int = 0) -> None:
    """Refit each class's line from pooled evidence to presence logit, in place, on whole frames.

    Training sees views of frames, drawn so that rare classes are seen as often as common ones: good for finding them,
    but a class then seems likelier than it is. And a short training hardly moves the line, so that a rare class may
    stay below one half wherever it is. Each frame is looked at with its colours changed, as the classifier's evidence
    is then about as strong as on frames it never saw. A class that is on all of them or on none keeps its line: nothing
    there says where to draw it.

    Args:
        pipeline: whose classifier is calibrated.
        samples: images with known presence, of the training part; up to 300 of them are looked at.
        seed: of the colours.
    """
    if len(samples) > ENOUGH:
        samples = [samples[i] for i in np.linspace(0, len(samples) - 1, ENOUGH).astype(int)]
    rng = np.random.default_rng((seed, 3))
    classifier = pipeline.classifier
    gain, bias = (line.detach().cpu().numpy() for line in (classifier.gain, classifier.bias))
    probabilities = [pipeline.maps([random_colours(sample.read_image(), rng)])[0][0] for sample in samples]
    clipped = np.clip(np.array(probabilities, dtype=np.float64), 1e-6, 1 - 1e-6)
    pooled = (np.log(clipped / (1 - clipped)) - bias) / gain
    for index, label in enumerate(pipeline.classes):
        known = [i for i, sample in enumerate(samples) if label in sample.presence]
        present = np.array([samples[i].presence[label] for i in known], dtype=bool)
        if present.any() and not present.all():
            slope, offset = platt_line(pooled[known, index], present)
            with torch.no_grad():
                classifier.gain[index], classifier.bias[index] = slope, offset


def platt_line(scores: NDArray[np.float64], present: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset that turn scores into logits of presence (Platt 1999, "Probabilistic Outputs for SVMs").

    Args:
        scores: shape (n,), higher where the class is likelier present.
        present: shape (n,), with both values in it.

    Returns:
        Slope, at least 0.01, and offset, by maximum likelihood on Platt's softened targets, which keep the slope finite
        where the scores tell the two apart without a fault.
    """
    positive = int(present.sum())
    negative = len(present) - positive
    target = torch.from_numpy(np.where(present, (positive + 1) / (positive + 2), 1 / (negative + 2)))
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    x = torch.from_numpy((scores - centre) / spread)
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(line[0] * x + line[1], target)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    slope = max(line[0].item() / spread, 0.01)
    return slope, line[1].item() - slope * centre
