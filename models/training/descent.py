"""Gradient descent on one network, as both training loops do it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from models.training.schedule import AveragedWeights, Clock, Network, Progress, Report

Batch = TypeVar("Batch")


class Descent(Generic[Network]):
    """AdamW with a warm-up and a cosine, clipped gradients, averaged weights, and a report of every step.

    Args:
        network: is trained in place.
        groups: parameters and their highest learning rates, {"params": ..., "lr": ...} each.
        stage: name for the reports.
        clip: largest norm of the gradient.
        clock: says how far training is; its steps are counted here.
        report: told of every step.
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
    ) -> None:
        self.network = network
        self.clock = clock
        self._rates = [float(group["lr"]) for group in groups]
        self._optimizer = torch.optim.AdamW([dict(group) for group in groups], weight_decay=0.01)
        self._average = AveragedWeights(network)
        self._stage, self._clip, self._report = stage, clip, report
        self._loss = 0.0

    @property
    def average(self) -> Network:
        """The network with averaged weights, in evaluation mode."""
        return self._average.network

    def batches(self, draw: Callable[[int], Batch]) -> Iterator[Batch]:
        """`draw(0)`, `draw(1)` ... until time is up; the next is drawn while one is learned from."""
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(draw, 0)
            while self.clock.progress < 1:
                batch = pending.result()
                pending = pool.submit(draw, self.clock.step + 1)
                yield batch

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar loss."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * self.clock.rate()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self._clip)
        self._optimizer.step()
        self._average.update(self.network)
        self.clock.step += 1
        self._loss = loss.item() if self.clock.step == 1 else 0.95 * self._loss + 0.05 * loss.item()
        left = f"about {self.clock.remaining():.0f} s left"
        figures = {"step": self.clock.step, "loss": self._loss}
        self._report(Progress(self._stage, round(self.clock.progress * 1000), 1000, left, figures))
