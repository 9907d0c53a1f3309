"""Training the classifier: region labels where masks are known, frame labels elsewhere."""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.checkpoint import PACKAGED
from models.classifier import Classifier, ClassifierOutput
from models.config import STRIDE
from models.devices import autocast
from models.training.augmentation import random_levels, random_view, random_wall_view
from models.training.frames import Frames, Mixture
from models.training.losses import classifier_loss
from models.training.optimisation import HelpingLoop, OptimisationLoop
from models.training.schedule import Clock, Report
from models.training.state import TrainingState
from models.training.team import ALONE, Team


@dataclass(frozen=True)
class ClassifierHyperparameters:
    """Hyperparameters of a classifier's training.

    Attributes:
        steps: batches.
        batch: views a batch.
        view: side of a view in pixels, a multiple of 64.
        rate: highest learning rate of the new layers.
        backbone_rate: factor on it for the backbone.
        checks: how often the held-out frames are scored, spread over the run.
        frozen: share of the backbone's layers, from the image on, that keep their weights.
        wall_frozen: the same for the backbone of a classifier of the wall.
        fresh: the backbone's weights are random: its batch statistics are learned too, from batches large enough.
        wall_share: of the views that show the unrolled wall, where there are any.
        levels: views of the frame come at other black levels, gains and gammas too, as views of the wall always do.
        workers: processes that draw views, where a GPU learns faster than one can draw.
    """

    steps: int
    batch: int = 8
    view: int = 352
    rate: float = 1e-3
    backbone_rate: float = 0.3
    checks: int = 5
    frozen: float = 0.0
    wall_frozen: float = 0.0
    fresh: bool = False
    wall_share: float = 0.7
    levels: bool = False
    workers: int = 4


def train_classifier(
    classifier: Classifier,
    frames: Frames | Mixture,
    hyperparameters: ClassifierHyperparameters,
    *,
    score: Callable[[Classifier], NDArray[np.float64]] | None,
    report: Report,
    seed: int,
    device: torch.device,
    seconds: float | None,
    state: TrainingState | None = None,
    team: Team = ALONE,
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train a copy: the classifier passed in is left as it was.

    Args:
        classifier: where to begin.
        frames: what to learn from.
        hyperparameters: how.
        score: quality of a classifier on each held-out frame, higher is better. The last one is returned unless an
            earlier one, the one passed in among them, is clearly better; training stops early when the second half of
            the checks brought nothing. None returns the last.
        report: told of every step.
        seed: the same seed and steps give the same weights.
        device: where to compute.
        seconds: limit; the learning rate reaches 0 in time.
        state: where the state is kept, so that a run that was killed goes on; None to keep none.
        team: whose first member this is: the others, which follow, share each batch. Batch statistics stay as they are,
            so a `fresh` backbone is for one process.

    Returns:
        A new classifier, in evaluation mode, and the history: step, loss and mean held-out score at each check.
    """
    if hyperparameters.fresh and team.size > 1:
        raise ValueError("batch statistics are learned from a whole batch: train a fresh backbone by one process")
    torch.manual_seed(seed)
    network: Classifier = deepcopy(classifier).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if not hyperparameters.fresh:
        for part, share in zip(network.readers, (hyperparameters.frozen, hyperparameters.wall_frozen), strict=False):
            _freeze(part, share)
    inherited = [p for name, p in network.named_parameters() if "backbone." in name and p.requires_grad]
    new = [p for name, p in network.named_parameters() if "backbone." not in name]
    rate = hyperparameters.rate
    groups = [{"params": inherited, "lr": rate * hyperparameters.backbone_rate}, {"params": new, "lr": rate}]
    clock = Clock(hyperparameters.steps, seconds)
    loop = OptimisationLoop(
        network, groups, stage="classifier", clip=2.0, clock=clock, report=report, state=state, team=team
    )
    best = BestCheckpoint(classifier, score, hyperparameters.checks, state) if score else None
    team.tell(partial(_help, deepcopy(network).cpu(), frames, hyperparameters, seed, clock.step))
    draw, workers = _drawing(frames, hyperparameters, seed, team, device)
    for batch in loop.batches(draw, workers):
        loop.step(_loss(network, (torch.from_numpy(array).to(device) for array in batch), device, team))
        if best and clock.progress >= best.next_check:
            loop.note(score=best.check(loop.average))
            loop.save()
        if best and best.stalled:
            loop.end()
    result = best.choice if best else loop.average
    return result.eval(), loop.history


def _help(
    network: Classifier,
    frames: Frames | Mixture,
    hyperparameters: ClassifierHyperparameters,
    seed: int,
    first: int,
    team: Team,
) -> None:
    """What the other members of a team do in `train_classifier`, from the step `first` on."""
    loop = HelpingLoop(network.to(team.device), first, team)
    draw, workers = _drawing(frames, hyperparameters, seed, team, team.device)
    for batch in loop.batches(draw, workers):
        loop.step(_loss(loop.network, (torch.from_numpy(array).to(team.device) for array in batch), team.device, team))


def _drawing(
    frames: Frames | Mixture, hyperparameters: ClassifierHyperparameters, seed: int, team: Team, device: torch.device
) -> "tuple[Callable[[int], Views], int]":
    """What draws a member's share of a step's batch, and by how many processes."""
    workers = hyperparameters.workers if device.type == "cuda" else 0
    return partial(_draw_batch, frames, hyperparameters, seed, team=team), workers


class BestCheckpoint:
    """The best of the classifiers seen on the way.

    The later one, unless the earlier is better by more than one standard error of the difference: on a few held-out
    frames the highest mean of many is mostly luck.

    Args:
        first: the classifier before training.
        score: quality on each held-out frame.
        checks: how many are planned.
        state: keeps the choice so far, and gives it back after a kill.
    """

    def __init__(
        self,
        first: Classifier,
        score: Callable[[Classifier], NDArray[np.float64]],
        checks: int,
        state: TrainingState | None,
    ) -> None:
        self._score, self._checks, self._state = score, checks, state
        self.choice = deepcopy(first).eval()
        self._done, self._chosen_at = 0, 0
        found = state.load("best") if state else None
        if found is None:
            self._scores = score(self.choice)
        else:
            self.choice.load_state_dict(found[0])
            numbers = found[1]
            self._done, self._chosen_at, self._scores = numbers["done"], numbers["at"], np.array(numbers["scores"])

    @property
    def next_check(self) -> float:
        """Progress at which the next one is due; the last at the very end."""
        return (self._done + 1) / self._checks

    @property
    def stalled(self) -> bool:
        """Half of the checks have passed since the best one."""
        return self._done - self._chosen_at > self._checks / 2

    def check(self, classifier: Classifier) -> float:
        """Score a classifier, keep it if it is no worse, and return its mean score."""
        self._done += 1
        scores = self._score(classifier)
        lead = self._scores - scores
        if lead.mean() <= lead.std() / math.sqrt(len(lead)):
            self.choice.load_state_dict(classifier.state_dict())
            self._scores, self._chosen_at = scores, self._done
        if self._state:
            numbers = {"done": self._done, "at": self._chosen_at, "scores": self._scores.tolist()}
            self._state.save("best", dict(self.choice.state_dict()), numbers)
        return float(scores.mean())


def _loss(network: Classifier, batch: Iterable[Tensor], device: torch.device, team: Team) -> Tensor:
    """The mean loss of a batch's views; those of the wall are read by the classifier of the wall, if there is one.

    Args:
        network: the classifier.
        batch: this member's share of it.
        device: where to compute.
        team: whose shares are the batch.
    """
    images, coverage, presence, known, on_wall = batch
    loss = torch.zeros((), device=device)
    shown = [torch.ones_like(on_wall)] if network.wall_reader is None else [~on_wall, on_wall]
    for reader, mine in zip(network.readers, shown, strict=True):
        all_shown = team.whole(mine)
        if not all_shown.any():
            continue
        # On a CPU the light network's backward pass, of depthwise convolutions, is slower in bfloat16 than in float32.
        in_half = device.type == "cuda" or reader.config.backbone != PACKAGED
        with autocast(device) if in_half else nullcontext():
            if mine.any():
                output = reader(images[mine].permute(0, 3, 1, 2).float() / 255)
            else:  # no rows of the right shapes
                output = ClassifierOutput(presence[mine], coverage[mine], coverage[mine], {})
            output = output._replace(
                logits=team.whole(output.logits.float()), score_maps=team.whole(output.score_maps.float())
            )
            labels = [team.whole(rows[mine]) for rows in (coverage, presence, known)]
            part = classifier_loss(output, *labels)
        loss = loss + part * all_shown.float().mean()
    return loss


Views = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


def _draw_batch(
    frames: Frames | Mixture, hyperparameters: ClassifierHyperparameters, seed: int, step: int, *, team: Team = ALONE
) -> Views:
    """Views, coverage, presence and known classes, as `classifier_loss` has them, and which views are of the wall.

    Each view has a generator of its own, so a member of a team draws its share alone.
    """
    images, coverage, presence, known, on_wall = [], [], [], [], []
    cells = hyperparameters.view // STRIDE
    for rng in np.random.default_rng((seed, step)).spawn(hyperparameters.batch)[team.share(hyperparameters.batch)]:
        frame, focus = frames.draw(rng)
        # Where a class is only known to be somewhere, half of the views show all of the frame: its label holds for no
        # other. Nothing drawn leaves nothing to learn from a part.
        whole = bool(frame.open.any() and (rng.random() < 0.5 or not frame.masks.any()))
        unrolled = frame.unrolled
        flat = unrolled is None or whole or rng.random() >= hyperparameters.wall_share
        if unrolled is None or flat:
            image, masks = random_view(frame, hyperparameters.view, rng, focus, whole=whole)
            image = random_levels(image, rng) if hyperparameters.levels else image
            drawn = frame.known
        else:
            image, masks = random_wall_view(unrolled, hyperparameters.view, rng, focus)
            drawn = unrolled.read
        shares = np.stack([cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA) for mask in masks])
        images.append(image)
        coverage.append(shares.astype(np.float32) / 255)
        # A view may have lost a class of its frame; only masks can tell.
        inside = (coverage[-1] > 0.5).any(axis=(1, 2)).astype(np.float32)
        presence.append(np.where(drawn, inside, frame.presence if whole else np.float32(np.nan)))
        known.append(drawn)
        on_wall.append(not flat)
    return np.stack(images), np.stack(coverage), np.stack(presence), np.stack(known), np.array(on_wall)


def _freeze(network: Classifier, share: float) -> None:
    """Fix the batch statistics, which a batch of eight is too small to estimate, and the first layers' weights.

    Edges and textures are ImageNet's: learning them again on a handful of frames costs a third of each step's time.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    parameters = list(network.backbone.parameters())
    for parameter in parameters[: round(share * len(parameters))]:
        parameter.requires_grad_(False)
