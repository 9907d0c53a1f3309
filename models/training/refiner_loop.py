"""Training FBANet: on trimaps that the real classifier makes, and on trimaps of random width around the truth."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.devices import autocast
from models.fba_net import FBANet, unknown_band
from models.pipeline import Pipeline
from models.refiner import CHANNELS, Box, Subject, centre_map, cut, network_input, object_boxes
from models.training.augmentation import Frame, random_colours
from models.training.frames import Frames, Mixture
from models.training.losses import contrastive_loss, refiner_loss
from models.training.optimisation import HelpingLoop, OptimisationLoop
from models.training.schedule import Clock, Progress, Report
from models.training.state import TrainingState
from models.training.team import ALONE, Team
from models.trimap import UNKNOWN, TrimapConfig, coarse_mask, trimap_from_mask

TRIES = 50  # draws for a crop of a batch: objects may be so small that their trimaps are empty
CELLS = 128  # side of the maps kept for training, about the classifier's own


@dataclass(frozen=True)
class RefinerHyperparameters:
    """Hyperparameters of FBANet's training.

    Attributes:
        steps: batches.
        batch: crops a batch.
        rate: highest learning rate.
        views: views of frames that the classifier is run on, before training begins.
        contrast: weight of the contrastive term, to which frames without masks add as many crops again; 0 for none.
        workers: processes that draw crops, where a GPU learns faster than one can draw.
    """

    steps: int
    batch: int = 8
    rate: float = 1e-3
    views: int = 200
    contrast: float = 0.0
    workers: int = 4


@dataclass(frozen=True, eq=False)
class Example:
    """One class on one view of a frame, with its truth, its map, or both.

    Attributes:
        image: shape (H, W, 3), uint8 RGB.
        truth: shape (H, W), uint8, 0..255; None where it is unknown.
        cam: the classifier's map of the class, shape (h, w), in [0, 1]; None where there is no classifier.
        threshold: where serving cuts that map.
        trimap: the kernel widths that serving uses.
        label: index of the class.
    """

    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None
    cam: NDArray[np.float32] | None = None
    threshold: float = 0.5
    trimap: TrimapConfig = field(default_factory=TrimapConfig)
    label: int = 0


class Batch(NamedTuple):
    """Crops of a step: `inputs` (B, 12, S, S), true alpha `targets` (B, S, S), class indices `labels` (B,)."""

    inputs: NDArray[np.float32]
    targets: NDArray[np.float32]
    labels: NDArray[np.int64]


def train_refiner(
    pipeline: Pipeline,
    frames: Frames | Mixture,
    hyperparameters: RefinerHyperparameters,
    *,
    report: Report,
    seed: int,
    seconds: float | None,
    state: TrainingState | None = None,
    team: Team = ALONE,
) -> FBANet:
    """Train the refiner of a pipeline whose classifier is ready; the pipeline is left as it was.

    Args:
        pipeline: gives the classifier's maps, the thresholds and FBANet's first weights.
        frames: what to learn from; frames without masks are passed over.
        hyperparameters: how.
        report: told of every step.
        seed: the same seed and steps give the same weights.
        seconds: limit; the learning rate reaches 0 in time.
        state: where the state is kept, so that a run that was killed goes on; None to keep none.
        team: whose first member this is: the others, which follow, share each batch.

    Returns:
        A new FBANet, in evaluation mode; the pipeline's own where no frame has a mask, or only masks too small for a
        trimap.
    """
    clock = Clock(hyperparameters.steps, seconds)
    examples = collect_examples(pipeline, frames, hyperparameters.views, report=report, seed=seed)
    return fit_refiner(
        pipeline.refiner,
        examples,
        hyperparameters,
        clock=clock,
        report=report,
        seed=seed,
        device=torch.device(pipeline.device),
        state=state,
        team=team,
    )


def fit_refiner(
    refiner: FBANet,
    examples: Sequence[Example],
    hyperparameters: RefinerHyperparameters,
    *,
    clock: Clock,
    report: Report,
    seed: int,
    device: torch.device,
    state: TrainingState | None = None,
    team: Team = ALONE,
) -> FBANet:
    """Train a copy of an FBANet on examples until the clock has run out; for the rest see `train_refiner`."""
    torch.manual_seed(seed)
    labelled = [example for example in examples if example.truth is not None]
    unlabelled = [example for example in examples if example.truth is None] if hyperparameters.contrast else []
    network: FBANet = deepcopy(refiner).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if not labelled:
        return network.eval()
    groups = [{"params": network.parameters(), "lr": hyperparameters.rate}]
    loop = OptimisationLoop(
        network, groups, stage="refiner", clip=1.0, clock=clock, report=report, state=state, team=team
    )
    crops = _Crops(labelled, unlabelled, hyperparameters, network.config.crop_size, seed)
    team.tell(partial(_help, deepcopy(network).cpu(), crops, clock.step))
    for batches in loop.batches(partial(crops.draw, team=team), crops.workers(device)):
        loss = _loss(network, *batches, hyperparameters.contrast, device, team)
        if loss is None:
            loop.end()
        else:
            loop.step(loss)
    return loop.average.eval()


def _help(network: FBANet, crops: "_Crops", first: int, team: Team) -> None:
    """What the other members of a team do in `fit_refiner`, from the step `first` on."""
    loop = HelpingLoop(network.to(team.device), first, team)
    for batches in loop.batches(partial(crops.draw, team=team), crops.workers(team.device)):
        loss = _loss(loop.network, *batches, crops.hyperparameters.contrast, team.device, team)
        if loss is not None:
            loop.step(loss)


@dataclass(frozen=True, eq=False)
class _Crops:
    """What batches are drawn from: examples with truth, those without, and how."""

    labelled: Sequence[Example]
    unlabelled: Sequence[Example]
    hyperparameters: RefinerHyperparameters
    side: int
    seed: int

    def draw(self, step: int, *, team: Team = ALONE) -> tuple[Batch, Batch | None]:
        """A member's share of a step's crops, with truth and, where they teach, without."""
        size = self.hyperparameters.batch
        generators = np.random.default_rng((self.seed, 2, step)).spawn(2 * size)
        more = draw_crops(self.unlabelled, self.side, generators[size:][team.share(size)]) if self.unlabelled else None
        return draw_crops(self.labelled, self.side, generators[:size][team.share(size)]), more

    def workers(self, device: torch.device) -> int:
        """Processes that draw."""
        return self.hyperparameters.workers if device.type == "cuda" else 0


def _loss(
    network: FBANet, batch: Batch, more: Batch | None, contrast: float, device: torch.device, team: Team
) -> Tensor | None:
    """The loss of a batch, of whose crops `batch` and `more` are this member's share; None where no member has any."""
    count = len(batch.inputs)
    drawn = batch.inputs if more is None else np.concatenate([batch.inputs, more.inputs])
    inputs, target = torch.from_numpy(drawn).to(device), torch.from_numpy(batch.targets).to(device)
    if not len(team.whole(target)):
        return None
    with autocast(device):
        output = network(inputs.contiguous(memory_format=torch.channels_last))
    loss = refiner_loss(
        team.whole(output.raw[:count].float()),
        team.whole(output.boundary[:count].float()),
        team.whole(target),
        team.whole(unknown_band(inputs[:count])),
    )
    if not contrast:
        return loss
    labels = [torch.from_numpy(part.labels).to(device) for part in (batch, more) if part is not None]
    features = torch.cat([team.whole(part) for part in (output.features[:count], output.features[count:])])
    alpha = torch.cat([team.whole(target), team.whole(output.alpha[count:].float())])
    kinds = torch.cat([team.whole(part) for part in labels])
    return loss + contrast * contrastive_loss(features, alpha, kinds)


def collect_examples(
    pipeline: Pipeline, frames: Frames | Mixture, views: int, *, report: Report, seed: int
) -> list[Example]:
    """Run the classifier on randomly turned and coloured views of frames; keep each class that is on them.

    Where a class's mask is not known the classifier decides whether it is there. The colours change before the
    classifier sees the view, so its maps are about as wrong as on frames it never saw.
    """
    examples: list[Example] = []
    rng = np.random.default_rng((seed, 1))
    for view in range(views):
        report(Progress("refiner", 0, 1000, f"activation maps of view {view + 1} of {views}"))
        frame, _ = frames.draw(rng)
        if frame.known.all() and not frame.masks.any():
            continue
        image, masks = _turned(frame, rng)
        image = random_colours(image, rng)
        presence, maps = pipeline.maps([image])
        for index, label in enumerate(pipeline.classes):
            mask, known = masks[index], frame.known[index]
            if mask.any() if known else presence[0][index] >= 0.5:
                cells = cv2.resize(maps[0][index], (CELLS, CELLS), interpolation=cv2.INTER_AREA)  # as they were made
                truth, cam = mask if known else None, np.asarray(cells, dtype=np.float32)
                threshold, trimap = pipeline.config.map_threshold_of(label), pipeline.config.trimap_of(label)
                examples.append(Example(image, truth, cam, threshold, trimap, index))
    return examples


def _turned(frame: Frame, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A frame mirrored and turned by a multiple of 90 degrees: no pixel is interpolated."""
    turns, flip = int(rng.integers(4)), int(rng.choice([-1, 1]))
    image = np.ascontiguousarray(np.rot90(frame.image, turns)[:, ::flip])
    return image, np.ascontiguousarray(np.rot90(frame.masks, turns, axes=(1, 2))[:, :, ::flip])


def draw_crops(examples: Sequence[Example], side: int, generators: Sequence[np.random.Generator]) -> Batch:
    """Crops around random objects, under trimaps of random width, their colours changed.

    An example that has a truth is given an imagined map half of the time, and always where it has no other.

    Args:
        examples: what to draw from.
        side: of a crop, in pixels.
        generators: the source of all randomness of each crop.

    Returns:
        The crops, fewer where most objects are too small. The targets of examples without truth are empty.
    """
    drawn = [crop for rng in generators if (crop := _draw_crop(examples, side, rng)) is not None]
    return Batch(
        np.array([inputs for inputs, _, _ in drawn], dtype=np.float32).reshape(-1, CHANNELS, side, side),
        np.array([target for _, target, _ in drawn], dtype=np.float32).reshape(-1, side, side),
        np.array([label for _, _, label in drawn], dtype=np.int64),
    )


def _draw_crop(
    examples: Sequence[Example], side: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], int] | None:
    """Inputs, target and label of a crop; None where no object that was tried has a trimap."""
    for _ in range(TRIES):
        example = examples[int(rng.integers(len(examples)))]
        cam, threshold = example.cam, example.threshold
        if example.truth is not None and (cam is None or rng.random() < 0.5):
            cam, threshold = _imagined_map(example.truth, rng), 0.5
        assert cam is not None
        subject = _subject(example.image, cam, threshold, example.trimap, rng)
        boxes = object_boxes(subject.trimap, *example.image.shape[:2])
        if not boxes:
            continue
        box = _jittered(boxes[int(rng.integers(len(boxes)))], rng)
        height, width = example.image.shape[:2]
        trimap = cv2.resize(subject.trimap, (width, height), interpolation=cv2.INTER_NEAREST)
        spread = cv2.resize(subject.cam, (width, height), interpolation=cv2.INTER_LINEAR)
        crop_trimap = np.asarray(cut(trimap, box, side, cv2.INTER_NEAREST), dtype=np.uint8)
        if not (crop_trimap == UNKNOWN).any():
            continue
        crop = random_colours(np.asarray(cut(example.image, box, side, cv2.INTER_AREA), dtype=np.uint8), rng)
        crop_cam = np.asarray(cut(spread, box, side, cv2.INTER_LINEAR), dtype=np.float32)
        truth = np.zeros((height, width), dtype=np.uint8) if example.truth is None else example.truth
        target = np.asarray(cut(truth, box, side, cv2.INTER_LINEAR), dtype=np.float32) / np.float32(255)
        return network_input(crop, crop_trimap, crop_cam), target, example.label
    return None


def _subject(
    image: NDArray[np.uint8],
    cam: NDArray[np.float32],
    threshold: float,
    config: TrimapConfig,
    rng: np.random.Generator,
) -> Subject:
    """Threshold and band of random size around what serving would use, so that neither is learned by heart."""
    factor = np.exp(rng.uniform(-0.5, 0.7))
    config = replace(
        config, band=config.band * factor, band_min=config.band_min * factor, band_max=config.band_max * factor
    )
    odds = threshold / (1 - threshold) * np.exp(np.clip(rng.normal(0, 0.4), -1, 1))
    moved = float(odds / (1 + odds))
    trimap = trimap_from_mask(coarse_mask(cam, moved, config), config)
    return Subject(image, trimap, centre_map(cam, moved))


def _imagined_map(truth: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """A map such as a classifier of stride 4 could make of an object: displaced, uneven, soft."""
    mask = cv2.resize(truth, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    grid = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), axis=-1).astype(np.float32)
    sway = rng.normal(0, 1, (6, 6, 2)).astype(np.float32) * np.float32(rng.uniform(0, 2.5))
    grid += np.asarray(cv2.resize(sway, (CELLS, CELLS), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    moved = cv2.remap(mask, grid[..., 0], grid[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    soft = cv2.GaussianBlur(moved, (0, 0), rng.uniform(0.5, 1.5))
    noise = cv2.GaussianBlur(rng.normal(0, 1, (CELLS, CELLS)).astype(np.float32), (0, 0), 2)
    logits = (soft - 0.5) * np.float32(rng.uniform(6, 14)) + noise * np.float32(rng.uniform(0, 3))
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)


def _jittered(box: Box, rng: np.random.Generator) -> Box:
    side = max(int(box.side * np.exp(rng.uniform(-0.15, 0.3))), 8)
    shift = rng.uniform(-0.1, 0.1, 2) * box.side
    centre_x, centre_y = box.x + box.side / 2 + shift[0], box.y + box.side / 2 + shift[1]
    return Box(round(centre_x - side / 2), round(centre_y - side / 2), side)
