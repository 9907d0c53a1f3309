"""The optimisation loop on one network, of classifier and refiner alike."""

import ctypes
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any, Generic, TypeVar

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from models.training.schedule import AveragedWeights, Clock, Network, Progress, Report
from models.training.state import TrainingState, optimizer_tensors, prefixed, restore_optimizer, without_prefix
from models.training.team import ALONE, Team

Batch = TypeVar("Batch")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
SAVE_EVERY = 60.0  # seconds


class OptimisationLoop(Generic[Network]):
    """AdamW with a warm-up and a cosine, clipped gradients, averaged weights, and a report of every step.

    The state of a run that was killed is taken up: the same seed and steps end at the same weights.

    Args:
        network: is trained in place.
        groups: parameters and their highest learning rates, {"params": ..., "lr": ...} each.
        stage: name for the reports.
        clip: largest norm of the gradient.
        clock: says how far training is; its steps are counted here.
        report: told of every step.
        state: where the state is kept, and taken up from; None to keep none.
        save_every: seconds between two states on disk: the most that a kill costs.
        team: whose first member this is; each of the others has a `HelpingLoop` on its network.
    """

    def __init__(
        self,
        network: Network,
        groups: Sequence[Mapping[str, Any]],
        *,
        stage: str,
        clip: float,
        clock: Clock,
        report: Report,
        state: TrainingState | None = None,
        save_every: float = SAVE_EVERY,
        team: Team = ALONE,
    ) -> None:
        self.network = network
        self.clock = clock
        keep_freed_memory()
        self._rates = [float(group["lr"]) for group in groups]
        self._optimizer = torch.optim.AdamW([dict(group) for group in groups], weight_decay=0.01)
        self._average = AveragedWeights(network)
        self._stage, self._clip, self._report = stage, clip, report
        self._loss, self._ended, self._team = 0.0, False, team
        self._state, self._save_every, self._written_at = state, save_every, time.monotonic()
        self.history: list[dict[str, float]] = []
        self._resume()

    @property
    def average(self) -> Network:
        """The network with averaged weights, in evaluation mode."""
        return self._average.network

    def batches(self, draw: Callable[[int], Batch], workers: int = 0) -> Iterator[Batch]:
        """`draw(step)` of each step until time is up; the next ones are drawn while one is learned from.

        Args:
            draw: makes a batch, of NumPy arrays.
            workers: processes that do so; with 0 a thread of this one does.
        """
        return _batches(draw, self.clock.step, workers, self._goes_on)

    def _goes_on(self) -> bool:
        return self._team.next_step(self.network, self.clock.progress < 1 and not self._ended)

    def end(self) -> None:
        """Draw no more batches, though there is time."""
        self._ended = True

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar loss, of the whole batch."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.clock.rate()
        self._optimizer.zero_grad()
        _descend(loss)
        self._team.sum_gradients(self.network)
        nn.utils.clip_grad_norm_(self.network.parameters(), self._clip)
        self._optimizer.step()
        self._average.update(self.network)
        self.clock.step += 1
        self._loss = loss.item() if self.clock.step == 1 else 0.95 * self._loss + 0.05 * loss.item()
        figures = {"step": self.clock.step, "loss": self._loss}
        done, left = round(self.clock.progress * 1000), self.clock.remaining()
        self._report(Progress(self._stage, done, 1000, f"the {self._stage} learns", figures, left))
        if time.monotonic() - self._written_at > self._save_every:
            self.save()

    def note(self, **figures: float) -> None:
        """Add a line to the history: the step, the loss, and what the caller measured."""
        self.history.append({"step": self.clock.step, "loss": round(self._loss, 4), **figures})

    def save(self) -> None:
        """Keep everything that the next steps depend on."""
        if self._state is None:
            return
        tensors = prefixed("network", self.network.state_dict())
        tensors |= prefixed("average", self.average.state_dict())
        tensors |= prefixed("optimizer", optimizer_tensors(self._optimizer))
        numbers = {
            "step": self.clock.step,
            "elapsed": self.clock.elapsed,
            "loss": self._loss,
            "updates": self._average.updates,
            "history": self.history,
        }
        self._state.save(self._stage, tensors, numbers)
        self._written_at = time.monotonic()

    def _resume(self) -> None:
        found = self._state.load(self._stage) if self._state else None
        if found is None:
            return
        tensors, numbers = found
        self.network.load_state_dict(without_prefix("network", tensors))
        self.average.load_state_dict(without_prefix("average", tensors))
        restore_optimizer(self._optimizer, without_prefix("optimizer", tensors))
        self.clock.go_on(numbers["step"], numbers["elapsed"])
        self._loss, self._average.updates, self.history = numbers["loss"], numbers["updates"], numbers["history"]
        self._report(
            Progress(self._stage, round(self.clock.progress * 1000), 1000, f"goes on at step {self.clock.step}")
        )


class HelpingLoop(Generic[Network]):
    """What a member of a team, other than the first, does in an `OptimisationLoop`: gradients of its share.

    Args:
        network: as the first member's.
        first: number of the first step.
        team: the members.
    """

    def __init__(self, network: Network, first: int, team: Team) -> None:
        self.network, self._first, self._team = network, first, team
        keep_freed_memory()

    def batches(self, draw: Callable[[int], Batch], workers: int = 0) -> Iterator[Batch]:
        """`draw(step)` of each step that the first member takes; otherwise as `OptimisationLoop.batches`."""
        return _batches(draw, self._first, workers, lambda: self._team.next_step(self.network, True))

    def step(self, loss: Tensor) -> None:
        """Give the gradient of the loss to the first member."""
        self.network.zero_grad()
        _descend(loss)
        self._team.sum_gradients(self.network)


def mean_of(network: Network, *others: Network) -> Network:
    """A network whose weights are the mean of those of networks of one shape.

    Of one before and after fine-tuning it keeps most of what either knows: Wortsman et al. 2022, "Robust fine-tuning of
    zero-shot models", eq. 1 with equal weights.
    """
    mean = deepcopy(network)
    for count, other in enumerate(others, start=2):
        for value, one in zip(mean.state_dict().values(), other.state_dict().values(), strict=True):
            if value.is_floating_point():
                value.lerp_(one, 1 / count)
    return mean


def _descend(loss: Tensor) -> None:
    if loss.requires_grad:  # not where all of a batch is in the shares of others
        loss.backward()  # type: ignore[no-untyped-call]


def _batches(draw: Callable[[int], Batch], first: int, workers: int, goes_on: Callable[[], bool]) -> Iterator[Batch]:
    """`draw(step)` from a first step on, as long as it goes on."""
    steps = itertools.count(first)
    source = _drawn_by(workers, draw, steps) if workers else map(draw, steps)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, source)
        while goes_on():
            batch = pending.result()
            pending = pool.submit(next, source)
            yield batch


def keep_freed_memory() -> None:
    """Have malloc keep what tensors free for the next step, which asks for the same gigabytes again.

    By default large blocks go back to the kernel, which hands them out again page by page, each cleared. This is of
    glibc; other C libraries stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class _Drawn(Dataset[Batch | Exception]):
    """Batch number n of a source of batches, or why there is none."""

    def __init__(self, draw: Callable[[int], Batch]) -> None:
        self._draw = draw

    def __getitem__(self, step: int) -> Batch | Exception:
        try:
            return self._draw(step)
        except Exception as error:  # the loader would put its traceback into the text that people read
            return error


def _drawn_by(workers: int, draw: Callable[[int], Batch], steps: Iterator[int]) -> Iterator[Batch]:
    """Batches in order, drawn by forked processes.

    They come as NumPy arrays, through pipes: tensors would come through /dev/shm, of which containers have little.
    """
    loader = DataLoader(
        _Drawn(draw), batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=4, collate_fn=_as_it_is,
        worker_init_fn=_one_thread, multiprocessing_context="fork",
    )  # fmt: skip
    return map(_batch, iter(loader))


def _batch(drawn: Batch | Exception) -> Batch:
    if isinstance(drawn, Exception):
        raise drawn
    return drawn


def _as_it_is(drawn: Batch) -> Batch:
    return drawn


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)  # OpenCV's own threads do not survive a fork
