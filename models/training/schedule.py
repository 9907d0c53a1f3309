"""Schedule of a training: progress by steps or by a limit of minutes, and the learning rate that follows it."""

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn


@dataclass(frozen=True)
class Progress:
    """Where a training run is.

    Attributes:
        stage: "classifier", "refiner", "evaluating" or "saving".
        done, total: of the stage, in its own unit.
        message: for people.
        metrics: figures of the moment, such as the loss.
    """

    stage: str
    done: int
    total: int
    message: str = ""
    metrics: dict[str, Any] | None = None


Report = Callable[[Progress], None]


def print_progress(progress: Progress) -> None:
    """For scripts: a line for every 25th step, and for each progress that counts no steps."""
    metrics = progress.metrics or {}
    if metrics.get("step", 0) % 25 == 0:
        print(progress.stage, *([metrics] if metrics else []), progress.message, flush=True)


Network = TypeVar("Network", bound=nn.Module)


class Clock:
    """Counts steps towards a total, or seconds towards a limit, whichever is nearer its end.

    Args:
        steps: at most so many.
        seconds: at most so long; None for no limit.
    """

    def __init__(self, steps: int, seconds: float | None) -> None:
        self.steps, self.seconds = steps, seconds
        self.step = 0
        self._start = time.monotonic()

    @property
    def progress(self) -> float:
        """From 0 at the start to 1 at the end."""
        by_time = self.elapsed / self.seconds if self.seconds else 0.0
        return min(max(self.step / self.steps, by_time), 1.0)

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, those before a kill among them."""
        return time.monotonic() - self._start

    def go_on(self, step: int, elapsed: float) -> None:
        """Take up the count of a run that was killed."""
        self.step, self._start = step, time.monotonic() - elapsed

    def rate(self, warm_up: float = 0.05) -> float:
        """Factor on the learning rate: a short linear rise, then half a cosine down to 0."""
        p = self.progress
        return min(p / warm_up, 1.0) * 0.5 * (1 + math.cos(math.pi * p)) if p > 0 else 0.5 / (warm_up * self.steps)

    def remaining(self) -> float:
        """Seconds to go, estimated from the progress so far."""
        p = self.progress
        return self.elapsed * (1 - p) / p if p > 0 else math.inf


class AveragedWeights(Generic[Network]):
    """Exponential moving average of a network's weights: steadier than any single step's.

    Args:
        network: whose weights are followed.
        decay: of the average per step, once it has run in.
    """

    def __init__(self, network: Network, decay: float = 0.99) -> None:
        self.network: Network = deepcopy(network).eval()
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)
