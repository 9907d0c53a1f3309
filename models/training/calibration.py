"""Presence probabilities that mean what they say."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.pipeline import Pipeline
from models.training.data_folder import Sample

ENOUGH = 300  # whole frames that settle a class's bias


def calibrate_presence(pipeline: Pipeline, samples: Sequence[Sample]) -> None:
    """Refit each class's presence bias, in place, on whole frames.

    Training sees views of frames, drawn so that rare classes are seen as often as common ones: good for finding them,
    but a class then seems likelier than it is. The bias that minimises the cross-entropy on whole frames is the one at
    which the mean probability equals the share of frames that show the class. A class that is on all of them or on
    none keeps its bias: nothing there says where to draw the line.

    Args:
        pipeline: whose classifier is calibrated.
        samples: images with known presence, of the training part; up to 300 of them are looked at.
    """
    if len(samples) > ENOUGH:
        samples = [samples[i] for i in np.linspace(0, len(samples) - 1, ENOUGH).astype(int)]
    probabilities = [pipeline.maps([sample.read_image()])[0][0] for sample in samples]
    for index, label in enumerate(pipeline.classes):
        known = [i for i, sample in enumerate(samples) if label in sample.presence]
        present = np.array([samples[i].presence[label] for i in known], dtype=np.float64)
        if present.any() and not present.all():
            clipped = np.clip([probabilities[i][index] for i in known], 1e-6, 1 - 1e-6)
            shift = bias_shift(np.log(clipped / (1 - clipped)), float(present.mean()))
            with torch.no_grad():
                pipeline.classifier.bias[index] += shift


def bias_shift(logits: NDArray[np.float64], share: float) -> float:
    """The d for which mean(sigmoid(logits + d)) = share, by bisection; share in (0, 1)."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if (1 / (1 + np.exp(-(logits + middle)))).mean() < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2
