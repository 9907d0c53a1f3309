"""Tasks to predictions: one entry per task, in order, whatever fails."""

import hashlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.errors import BackendError
from backend.label_studio.protocol import PredictRequest, prediction_entry
from backend.prediction.cache import Entry, PredictionCache
from backend.prediction.prompts import ImageSource, Interactive
from backend.versions.serving import ServedPipeline, Serving
from models.segment import Prediction

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]
# Label Studio skips a task whose entry is an empty list, and asks for it again next time.
NOTHING: list[Any] = []


@dataclass
class _Item:
    """A task on its way; `image` is None while the answer is expected to come from elsewhere."""

    task: Mapping[str, Any]
    key: Hashable
    image: Future[Image] | None


class Predictor:
    """PredictionCache prediction requests. Safe to share between threads.

    Args:
        serving: which pipeline answers for a project.
        images: the image source of a project.
        batch_size: images per forward pass.
        load_threads: images fetched at the same time, over all requests.
        answers: where finished and running answers are kept.
        per_object: whether each object gets a region of its own, where a project's config leaves it open.
    """

    def __init__(
        self,
        serving: Serving,
        images: Callable[[str], ImageSource],
        *,
        batch_size: int = 4,
        load_threads: int = 4,
        cache: PredictionCache | None = None,
        per_object: bool = False,
    ) -> None:
        self._serving = serving
        self._images = images
        self._batch_size = batch_size
        self._loaders = ThreadPoolExecutor(load_threads, "images")
        self._cache = cache or PredictionCache()
        self._interactive = Interactive(serving, images)
        self._per_object = per_object

    def predict(self, request: PredictRequest) -> list[Any]:
        """One entry per task, in order; an empty list for a task without an answer, whose reason is logged."""
        return list(self.stream(request))

    def version(self, request: PredictRequest) -> str | None:
        """The model version that answers a request now, None if no model covers its project; loads no weights."""
        return self._serving.served_version(request.project_id, request.config.classes)

    def stream(self, request: PredictRequest) -> Iterator[Entry | list[Any]]:
        """The entries of `predict` one by one, as they are finished; never raises, never yields another number."""
        if request.context is not None:
            yield from self._interactive.entries(request)
            return
        began = time.monotonic()
        given = answered = 0
        version = "no model"
        try:
            served = self._serving.pipeline(request.project_id, request.config.classes)
            if served is None:
                logger.warning(
                    "project %s: no model knows any of its classes (%s), so its %d tasks get no masks yet; "
                    "annotate some and press Start Training",
                    request.project_id,
                    ", ".join(request.config.classes),
                    len(request.tasks),
                )
            else:
                version = served.version
                for entry in self._entries(request, served):
                    given += 1
                    answered += bool(entry)
                    yield entry
        except GeneratorExit:
            total = len(request.tasks)
            logger.info("project %s: no one waits any longer after %d of %d tasks", request.project_id, given, total)
            raise
        except Exception:
            logger.exception("project %s: predicting stopped after %d tasks", request.project_id, given)
        yield from itertools.repeat(NOTHING, len(request.tasks) - given)
        logger.info(
            "project %s: %d of %d tasks answered by %s in %.1f s",
            request.project_id,
            answered,
            len(request.tasks),
            version,
            time.monotonic() - began,
        )

    def _entries(self, request: PredictRequest, served: ServedPipeline) -> Iterator[Entry | list[Any]]:
        source = self._images(request.project_id)
        config = hashlib.sha256(repr(request.config).encode()).hexdigest()
        ahead: deque[list[_Item]] = deque()
        for start in range(0, len(request.tasks), self._batch_size):
            tasks = request.tasks[start : start + self._batch_size]
            ahead.append([self._begin(task, request, served, config, source) for task in tasks])
            # While one batch is on the networks, the images of the next are fetched.
            if len(ahead) == 2:
                yield from self._finish(ahead.popleft(), request, served, source)
        for items in ahead:
            yield from self._finish(items, request, served, source)

    def _begin(
        self, task: Mapping[str, Any], request: PredictRequest, served: ServedPipeline, config: str, source: ImageSource
    ) -> _Item:
        address = task["data"].get(request.config.image_key)
        key = (request.project_id, str(task.get("id")), str(address), served.version, config)
        image = None if self._cache.known(key) else self._load(task, request, source)
        return _Item(task, key, image)

    def _load(self, task: Mapping[str, Any], request: PredictRequest, source: ImageSource) -> Future[Image]:
        return self._loaders.submit(source.load, task, request.config.image_key)

    def _finish(
        self, items: Sequence[_Item], request: PredictRequest, served: ServedPipeline, source: ImageSource
    ) -> list[Entry | list[Any]]:
        """Entries of one batch.

        Own work is done before others' is waited for, so no two requests ever wait for each other.
        """
        claims = [self._cache.join(item.key) for item in items]
        own = [item for item, (_, mine) in zip(items, claims, strict=True) if mine]
        unsettled = {item.key for item in own}
        try:
            images = [item.image or self._load(item.task, request, source) for item in own]
            ready = [(i, image) for i, f in zip(own, images, strict=True) if (image := _loaded(i, f)) is not None]
            predictions = self._run(ready, served)
            for (item, _), prediction in zip(ready, predictions, strict=True):
                entry = None if prediction is None else self._entry(item, prediction, request, served.version)
                unsettled.discard(item.key)
                self._cache.finish(item.key, entry)
        finally:
            for key in unsettled:
                self._cache.finish(key, None)
        return [future.result() or NOTHING for future, _ in claims]

    def _run(self, ready: Sequence[tuple[_Item, Image]], served: ServedPipeline) -> list[Prediction | None]:
        """A prediction per image; when a batch fails its images are tried one by one, so one cannot hurt the others."""
        if not ready:
            return []
        try:
            predictions = served.predict([image for _, image in ready])
            if len(predictions) != len(ready):
                raise ValueError(f"the pipeline made {len(predictions)} predictions of {len(ready)} images")
            return list(predictions)
        except Exception as error:
            if len(ready) == 1:
                item, image = ready[0]
                shape = "x".join(map(str, image.shape))
                logger.exception("task %s: no masks: the pipeline failed on its %s image", item.task.get("id"), shape)
                return [None]
            logger.warning("a batch of %d failed (%s); its tasks are tried one by one", len(ready), error)
            return [self._run([single], served)[0] for single in ready]

    def _entry(self, item: _Item, prediction: Prediction, request: PredictRequest, version: str) -> Entry | None:
        try:
            return prediction_entry(prediction, request.config, version, per_object=self._per_object)
        except Exception:
            logger.exception("task %s: no masks: the prediction could not be written as regions", item.task.get("id"))
            return None


def _loaded(item: _Item, image: Future[Image]) -> Image | None:
    try:
        return image.result()
    except BackendError as error:
        logger.warning("task %s: no masks: %s", item.task.get("id"), error)
    except Exception:
        logger.exception("task %s: no masks: its image could not be loaded", item.task.get("id"))
    return None
