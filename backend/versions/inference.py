"""The one place where networks run: images in, predictions out, in batches across requests; prompts first.

Two threads run every network of this process, so that torch keeps one pool of cores instead of one per request. One
takes batches of tasks, whose halves a model may work on at once. The other answers prompts: an annotator waits for
those, and a batch takes seconds, so a prompt overtakes all tasks. Networks are only read, so both may run at once.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.system.metrics import STAGE_SECONDS
from models.families import Embedding, Model
from models.prompt import Answer, Mask, Prompt
from models.segment import Prediction
from models.threads import limit_threads

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]  # (H, W, 3) RGB


@dataclass(frozen=True, eq=False)
class _Waiting:
    """An image in the queue; `since` is on the clock of `time.monotonic`."""

    model: Model
    image: Image
    since: float
    prediction: Future[Prediction] = field(default_factory=Future)


class Inference:
    """Runs models for everybody. Safe to share between threads.

    Args:
        batch_size: images per call of `Model.predict`, the most that the device runs well at once.
        gather_seconds: how long an image waits for others to fill its batch.
        torch_threads: cores that one forward pass may use; None leaves the choice to torch.
    """

    def __init__(self, *, batch_size: int = 4, gather_seconds: float = 0.005, torch_threads: int | None = None) -> None:
        self._batch_size = batch_size
        self._gather_seconds = gather_seconds
        self._changed = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._tasks = ThreadPoolExecutor(1, "inference", limit_threads, (torch_threads,))
        self._prompts = ThreadPoolExecutor(1, "prompts", limit_threads, (torch_threads,))

    def predict(self, model: Model, images: Sequence[Image]) -> list[Future[Prediction]]:
        """Put images into the queue.

        Args:
            model: predicts them.
            images: arrays of shape (H, W, 3), uint8 RGB.

        Returns:
            Future predictions in the order of the images. An image on which the model fails has the model's error; the
            others of its batch do not notice. One that is cancelled before its batch begins is left out.

        Raises:
            RuntimeError: the service is closed.
        """
        items = [_Waiting(model, image, time.monotonic()) for image in images]
        with self._changed:
            self._waiting.extend(items)
            self._changed.notify()
        # One call for each image: the first finds a batch, those whose image went with an earlier one find nothing.
        for _ in items:
            self._tasks.submit(self._run_batch)
        return [item.prediction for item in items]

    def embed(self, model: Model, image: Image) -> Future[Embedding]:
        """Embed an image that an annotator waits for, ahead of all tasks. Raises RuntimeError as `predict`."""
        return self._prompts.submit(model.embed, image)

    def prompt(
        self, model: Model, embedding: Embedding, prompt: Prompt, label: str | None, existing: Sequence[Mask]
    ) -> Future[Answer]:
        """Answer an annotator's prompt, ahead of all tasks; arguments as in `Model.prompt`.

        Raises:
            RuntimeError: the service is closed.
        """
        return self._prompts.submit(model.prompt, embedding, prompt, label, existing)

    def close(self) -> None:
        """Finish the batch and the prompt that run now, cancel what waits, and end the threads."""
        with self._changed:
            for item in self._waiting:
                item.prediction.cancel()
        for threads in (self._tasks, self._prompts):
            threads.shutdown(cancel_futures=True)

    def _run_batch(self) -> None:
        if batch := self._next_batch():
            _run(batch)

    def _next_batch(self) -> list[_Waiting]:
        """Take images of one model from the queue, the oldest first; none if all went with earlier batches."""
        with self._changed:
            if not self._waiting:
                return []
            first = self._waiting[0]
            until = first.since + self._gather_seconds
            while len(self._alike(first)) < self._batch_size and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            batch = self._alike(first)[: self._batch_size]
            taken = set(map(id, batch))
            self._waiting = deque(item for item in self._waiting if id(item) not in taken)
        return [item for item in batch if item.prediction.set_running_or_notify_cancel()]

    def _alike(self, first: _Waiting) -> list[_Waiting]:
        return [item for item in self._waiting if item.model is first.model]


def _run(batch: Sequence[_Waiting]) -> None:
    """Predict a batch; when it fails its images are tried one by one, so that one cannot hurt the others."""
    try:
        predictions = _predict(batch)
    except Exception as error:
        if len(batch) == 1:
            batch[0].prediction.set_exception(error)
            return
        logger.warning("a batch of %d failed (%s); its images are tried one by one", len(batch), error)
        for item in batch:
            _run([item])
    else:
        for item, prediction in zip(batch, predictions, strict=True):
            item.prediction.set_result(prediction)


@STAGE_SECONDS.labels("predict").time()
def _predict(batch: Sequence[_Waiting]) -> list[Prediction]:
    predictions = batch[0].model.predict([item.image for item in batch])
    if len(predictions) != len(batch):
        raise ValueError(f"the model made {len(predictions)} predictions of {len(batch)} images")
    return predictions
