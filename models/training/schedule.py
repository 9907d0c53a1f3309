"""Schedule of a training: progress by steps or by a limit of minutes, the time left, and the learning rate."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
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
        left: seconds left; of the stage where a loop reports it, of the whole run once `Budget.telling` has passed it
            on. None while unknown.
        spent: seconds of the whole run so far; None outside of one.
    """

    stage: str
    done: int
    total: int
    message: str = ""
    metrics: dict[str, Any] | None = None
    left: float | None = None
    spent: float | None = None


Report = Callable[[Progress], None]
MIN_LOOP_SECONDS = 0.1  # of a loop for which there is no time: a step or two


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


class Budget:
    """The time of a whole run: what is spent, what has still to follow, and what its limit has room for.

    Besides the two optimisation loops a run looks at images again and again, to calibrate and to measure. How long that
    takes is known from the images looked at so far, on the machine as it is loaded now.

    Args:
        seconds: limit on the run; None for none.
        spent: seconds of it that processes took which were killed.
        now: a clock, in seconds.
    """

    LOOPS = 0.6  # of what is left, the loops get at least so much
    CLASSIFIER = 0.75  # of the loops' time

    def __init__(self, seconds: float | None, spent: float = 0.0, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.image_seconds = 0.0
        self._now, self._start = now, now() - spent
        self._planned: dict[str, int] = {}
        self._must: set[str] = set()
        self._loops: dict[str, float] = {}
        self._begun, self._ratio = 0.0, 0.0

    @property
    def spent(self) -> float:
        """Seconds of the run so far."""
        return self._now() - self._start

    def looked_at(self, images: int, seconds: float) -> None:
        """Learn how long an image takes."""
        if images:
            self.image_seconds = seconds / images

    def plan(self, step: str, images: int, *, must: bool = False) -> None:
        """A later step looks at so many images; one that is no must may be left out for lack of time."""
        self._planned[step] = images
        self._must |= {step} if must else set()

    def room(self, share: float = 1.0) -> int | None:
        """Images that a share of the free time is enough for, at least one; None without a limit."""
        if self.seconds is None or not self.image_seconds:
            return None
        return max(int(share * self._free() / self.image_seconds), 1)

    def _free(self) -> float:
        """Seconds before the limit that nothing must have."""
        return math.inf if self.seconds is None else self.seconds - self.spent - self._must_seconds()

    def _must_seconds(self) -> float:
        """Seconds that the planned steps take which may not be left out."""
        return self.image_seconds * sum(images for step, images in self._planned.items() if step in self._must)

    def share_out(self, ratio: float) -> None:
        """Divide the time between the loops, before the first of them.

        Args:
            ratio: steps of the refiner for each of the classifier, by which its time is guessed without a limit.
        """
        self._begun, self._ratio = self.spent, ratio
        if self.seconds is not None:
            left = max(self.seconds - self.spent, 0.0)
            loops = max(left - sum(self._planned.values()) * self.image_seconds, self.LOOPS * left)
            self._loops = {"classifier": self.CLASSIFIER * loops, "refiner": (1 - self.CLASSIFIER) * loops}

    def loop(self, stage: str) -> float | None:
        """Seconds that a loop may take; None without a limit."""
        if self.seconds is None:
            return None
        # What came before may have taken longer than planned, or all of the time.
        return max(min(self._loops[stage], self.LOOPS * self._free()), MIN_LOOP_SECONDS)

    def over(self, stage: str) -> None:
        """A loop has ended."""
        self._loops[stage] = 0.0

    def allows(self, step: str) -> bool:
        """Whether there is time for a planned step beside all that must follow; if not, it is left out."""
        must = sum(images for name, images in self._planned.items() if name in self._must and name != step)
        ahead = (self._planned[step] + must) * self.image_seconds
        if self.seconds is None or self.spent + ahead <= self.seconds:
            return True
        self.drop(step)
        return False

    def drop(self, *steps: str) -> None:
        """Planned steps that are left out."""
        for step in steps:
            self._planned.pop(step, None)

    @contextmanager
    def step(self, name: str) -> Iterator[Callable[[], None]]:
        """A planned step; what it yields is called for each image that it has looked at."""
        begun, planned, seen = self._now(), self._planned[name], 0

        def looked() -> None:
            nonlocal seen
            seen += 1
            self._planned[name] = max(planned - seen, 0)
            self.looked_at(seen, self._now() - begun)

        yield looked
        del self._planned[name]

    def left(self, stage: str = "", of_stage: float | None = None) -> float | None:
        """Seconds that the run still takes: of the loop that reports, and of all that follows it; None while unknown.

        Args:
            stage: of the loop, "" for a step between them.
            of_stage: what it has still to do, if it knows.
        """
        if self.seconds is None and stage == "classifier" and of_stage is not None:
            self._loops["refiner"] = self._ratio * (self.spent - self._begun + of_stage)
        must = self._must_seconds()
        if not self._loops:
            return None if self.seconds is None else max(self.seconds - self.spent, must)
        loops = sum(seconds for name, seconds in self._loops.items() if name != stage or of_stage is None)
        sure = (of_stage or 0.0) + loops + must
        # What no longer fits before the limit will be left out.
        others = sum(self._planned.values()) * self.image_seconds - must
        return sure + min(others, math.inf if self.seconds is None else max(self.seconds - self.spent - sure, 0.0))

    def telling(self, report: Report) -> Report:
        """A report that tells the time left of the whole run, from one that may tell that of its stage."""

        def tell(progress: Progress) -> None:
            of_stage = progress.left if progress.left is not None and math.isfinite(progress.left) else None
            left = self.left(progress.stage, of_stage)
            report(replace(progress, left=None if left is None else round(left, 1), spent=round(self.spent, 1)))

        return tell


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
