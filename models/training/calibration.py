"""Settings fitted on whole frames when the networks are ready: presence, map thresholds, the trimap's band."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from models.classifier import Classifier
from models.config import METHODS, PipelineConfig
from models.data.sample import Sample
from models.data.splitter import spread
from models.evaluation.evaluate import FrameFigures, measure
from models.masks.metrics import iou
from models.pipeline import Pipeline
from models.training.augmentation import random_colours

MAX_PRESENCE_FRAMES = 300  # frames that presence is fitted on
MIN_FRAMES, MAX_FRAMES = 5, 24  # held-out frames with a class that its threshold and band need, and at most use
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BANDS = (0.15, 0.3, 0.6)  # fractions of the inscribed radius; FBANet has seen them all
SLOW = ("ScoreCAM",)  # takes many forward passes a frame


def calibrate_presence(pipeline: Pipeline, samples: Sequence[Sample], held_out: Sequence[Sample] = ()) -> None:
    """Refit each class's line from the pooled class score map to presence logit, in place, on whole frames.

    Training sees views of frames, drawn so that rare classes are seen as often as common ones: good for finding them,
    but a class then seems likelier than it is. And a short training hardly moves the line, so that a rare class may
    stay below one half wherever it is. Scores are higher on frames that were learnt from than on others, so these
    are looked at with their colours changed, and the held-out frames weigh as much as all of them together. A class
    that is on all frames or on none keeps its line: nothing there says where to draw it.

    Args:
        pipeline: whose classifier is calibrated.
        samples: images with known presence, of the training part; up to 300 of them are looked at.
        held_out: images that were not learnt from.
    """
    samples = spread(samples, MAX_PRESENCE_FRAMES)
    wall = pipeline.config.wall
    if wall is None or pipeline.classifier.wall_reader is None:
        _calibrate(pipeline, pipeline.classifier, pipeline.config, pipeline.classes, samples, held_out)
        return
    flat, unrolled = replace(pipeline.config, wall=None), replace(pipeline.config, wall=replace(wall, alone=True))
    _calibrate(pipeline, pipeline.classifier, flat, pipeline.classes, samples, held_out)
    _calibrate(pipeline, pipeline.classifier.wall_reader, unrolled, wall.classes, samples, held_out)


def _calibrate(
    pipeline: Pipeline,
    classifier: Classifier,
    config: PipelineConfig,
    classes: Collection[str],
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
) -> None:
    """Refit the lines of these classes of one of the pipeline's classifiers, which alone judges them by `config`."""
    rng = np.random.default_rng(3)
    config = replace(config, second_look="all")  # the line is that of one pass
    judge = Pipeline.of(pipeline.classifier, pipeline.refiner, config, device=str(pipeline.device))
    gain, bias = (line.detach().cpu().numpy() for line in (classifier.gain, classifier.bias))
    images = [random_colours(sample.read_image(), rng) for sample in samples]
    images += [sample.read_image() for sample in held_out]
    probabilities = np.array([judge.maps([image])[0][0] for image in images], dtype=np.float64)
    clipped = np.clip(probabilities, 1e-6, 1 - 1e-6)
    pooled = (np.log(clipped / (1 - clipped)) - bias) / gain
    everything = [*samples, *held_out]
    for index, label in enumerate(pipeline.classes):
        if label not in classes:
            continue
        known = np.array([i for i, sample in enumerate(everything) if label in sample.presence], dtype=int)
        present = np.array([everything[i].presence[label] for i in known], dtype=bool)
        if present.any() and not present.all():
            fresh = known >= len(samples)
            weight = np.where(fresh, max((~fresh).sum(), 1) / max(fresh.sum(), 1), 1.0)
            slope, offset = platt_line(pooled[known, index], present, weight)
            with torch.no_grad():
                classifier.gain[index], classifier.bias[index] = slope, offset


def calibrate_maps(pipeline: Pipeline, held_out: Sequence[Sample]) -> PipelineConfig:
    """Fit the threshold of each class's map to held-out frames, for every method but the slow one.

    Returns:
        The pipeline's configuration with `map_threshold` changed for the classes for which another one is better by
        more than chance.
    """
    configs = {method: replace(pipeline.config, cam=method) for method in METHODS if method not in SLOW}
    scores: dict[tuple[str, str], list[list[float]]] = {}
    for sample in spread([sample for sample in held_out if sample.masks], MAX_FRAMES):
        image = sample.read_image()
        _, found = pipeline.maps_by([image], list(configs))
        for index, label in enumerate(pipeline.classes):
            if label not in sample.masks:
                continue
            truth = sample.read_mask(label, (image.shape[0], image.shape[1])).astype(np.uint8) * 255
            cams = {method: maps[0][index] for method, maps in found.items()}
            small = cv2.resize(truth, next(iter(cams.values())).shape[::-1], interpolation=cv2.INTER_AREA) >= 128
            for method, cam in cams.items():
                cuts = (configs[method].map_threshold_of(label), *THRESHOLDS)
                scores.setdefault((method, label), []).append([iou(cam >= t, small) for t in cuts])
    thresholds = {config.maps: dict(config.map_threshold.get(config.maps, {})) for config in configs.values()}
    for (method, label), rows in scores.items():
        if index := _clearly_better(rows):
            thresholds[configs[method].maps][label] = THRESHOLDS[index - 1]
    return replace(pipeline.config, map_threshold=pipeline.config.map_threshold | thresholds)


def calibrate_band(pipeline: Pipeline, held_out: Sequence[Sample]) -> PipelineConfig:
    """Fit the width of each class's unknown band to held-out frames.

    Returns:
        The pipeline's configuration with `band` changed for the classes for which another width is better by more than
        chance.
    """
    masked = spread([sample for sample in held_out if sample.masks], MAX_FRAMES)
    scores: dict[str, list[list[float]]] = {label: [] for label in pipeline.classes}
    columns = [list(_ious(pipeline, masked, pipeline.config.band))]
    columns += [list(_ious(pipeline, masked, dict.fromkeys(pipeline.classes, band))) for band in BANDS]
    for row in zip(*columns, strict=True):
        scores[row[0][0]].append([value for _, value in row])
    best = {label: _clearly_better(rows) for label, rows in scores.items()}
    changed = {label: BANDS[index - 1] for label, index in best.items() if index}
    return replace(pipeline.config, band=pipeline.config.band | changed)


def made_worse(pipeline: Pipeline, held_out: Sequence[FrameFigures], train: Sequence[Sample]) -> tuple[str, ...]:
    """The classes whose map is better than the mask that FBANet makes of it, by more than chance.

    Args:
        pipeline: refines every class.
        held_out: its figures on the held-out images.
        train: images that it learnt from; they judge the classes that show on too few held-out ones. Their maps were
            learnt and leave less to refine, so twice the lead is asked for.
    """
    rows = {label: _masks_and_maps(held_out, label) for label in pipeline.classes}
    errors = dict.fromkeys(pipeline.classes, 1.0)
    if few := [label for label, known in rows.items() if len(known) < MIN_FRAMES]:
        learnt = measure(
            pipeline, spread([sample for sample in train if not sample.masks.keys().isdisjoint(few)], MAX_FRAMES)
        )
        for label in few:
            rows[label], errors[label] = _masks_and_maps(learnt, label), 2.0
    return tuple(label for label, known in rows.items() if _clearly_better(known, errors[label]))


def _masks_and_maps(frames: Sequence[FrameFigures], label: str) -> list[list[float]]:
    """IoU of a class's mask and of its map, on the frames that show it."""
    shown = [frame.agreements[label] for frame in frames if label in frame.agreements]
    return [[agreement.iou, agreement.coarse_iou] for agreement in shown]


def _ious(pipeline: Pipeline, samples: Sequence[Sample], band: dict[str, float]) -> Iterator[tuple[str, float]]:
    config = replace(pipeline.config, band=band)
    candidate = Pipeline.of(pipeline.classifier, pipeline.refiner, config, device=str(pipeline.device))
    for frame in measure(candidate, samples):
        yield from ((label, agreement.iou) for label, agreement in frame.agreements.items())


def _clearly_better(rows: Sequence[Sequence[float]], errors: float = 1.0) -> int:
    """Column of the highest mean, if it beats the first by over `errors` standard errors of the difference; else 0."""
    if len(rows) < MIN_FRAMES:
        return 0
    scores = np.array(rows)
    best = int(scores.mean(axis=0).argmax())
    lead = scores[:, best] - scores[:, 0]
    return best if lead.mean() > errors * lead.std() / np.sqrt(len(lead)) else 0


def platt_line(
    scores: NDArray[np.float64], present: NDArray[np.bool_], weight: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Slope and offset that turn scores into logits of presence (Platt 1999, "Probabilistic Outputs for SVMs").

    Args:
        scores: shape (n,), higher where the class is likelier present.
        present: shape (n,), with both values in it.
        weight: shape (n,), above 0: how much each counts; None for all alike.

    Returns:
        Slope, at least 0.01, and offset, by maximum likelihood on Platt's softened targets, which keep the slope finite
        where the scores tell the two apart without a fault.
    """
    positive = int(present.sum())
    negative = len(present) - positive
    target = torch.from_numpy(np.where(present, (positive + 1) / (positive + 2), 1 / (negative + 2)))
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    x = torch.from_numpy((scores - centre) / spread)
    weights = None if weight is None else torch.from_numpy(weight)
    line = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(line[0] * x + line[1], target, weights)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    slope = max(line[0].item() / spread, 0.01)
    return slope, line[1].item() - slope * centre
