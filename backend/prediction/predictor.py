"""Tasks to predictions: one entry per task, in order, also where something fails."""

import hashlib
import json
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from backend.errors import BackendError
from backend.label_studio.protocol import PredictRequest, task_entry
from backend.label_studio.task_data import address_at
from backend.label_studio.task_images import TaskImage, task_images
from backend.prediction.cache import Entry, PredictionCache
from backend.prediction.images import Image, ImageSource
from backend.prediction.loaders import Loaders
from backend.versions.serving import Resolved, Served, Serving
from models.segment import Prediction

logger = logging.getLogger(__name__)

# Label Studio skips a task whose entry is an empty list, and asks for it again next time.
NOTHING: Entry = b"[]"
# A batch is predicted in parts where its next image does not come: it may wait for room that those before it take.
PATIENCE = 2.0  # seconds


@dataclass
class _Item:
    """A task on its way; `loading` is empty while its entry is expected to come from elsewhere."""

    project: str
    task: Mapping[str, Any]
    key: Hashable
    images: Sequence[TaskImage]
    loading: dict[TaskImage, Future[Image]] = field(default_factory=dict)
    why: str = ""  # why it gets no masks


Problem = Callable[[Any, str], None]  # called with a task's id and why it gets no masks
# An image of a task of a batch.
_Part = tuple[_Item, TaskImage]


class Predictor:
    """Makes the entries of tasks. Safe to share between threads.

    Args:
        serving: which model answers for a project.
        images: the image source of a project.
        batch_size: tasks that are worked on together.
        load_threads: images of a project fetched at the same time, over all requests.
        cache: where finished and running entries are kept.
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
        self._loaders = Loaders(load_threads)
        self._cache = cache or PredictionCache()
        self._per_object = per_object

    def predict(
        self,
        request: PredictRequest,
        done: Callable[[int], None] = lambda tasks: None,
        problem: Problem = lambda task, why: None,
    ) -> list[Any]:
        """One entry per task, in order; an empty list for a task without an entry, whose reason is logged.

        Args:
            request: the tasks.
            done: told of the number of tasks that are finished, as it grows.
            problem: told of each task without an entry, and why.
        """
        resolved = self._serving.resolve(request.project_id, request.config.classes)
        found: list[Any] = []
        for entries in self.stream(request, resolved, problem):
            for entry in entries:
                found.append(json.loads(entry))
                done(len(found))
        return found

    def stream(
        self, request: PredictRequest, resolved: Resolved | None, problem: Problem = lambda task, why: None
    ) -> Iterator[list[Entry]]:
        """The entries of all tasks, in order, a few at a time as they are finished; never raises.

        Args:
            request: the tasks.
            resolved: the version that answers for the project, None if no model covers it.
            problem: told of each task that the model could not answer, and why.
        """
        began = time.monotonic()
        given = answered = 0
        version, total = "no model", len(request.tasks)
        try:
            served = None if resolved is None else resolved.model()
            if served is None:
                logger.warning(
                    "project %s: no model knows any of its classes (%s), so its %d tasks get no masks yet; "
                    "annotate some and press Start Training",
                    request.project_id,
                    ", ".join(request.config.classes),
                    total,
                )
            else:
                version = served.version
                for entries in self._batches(request, served, problem):
                    given += len(entries)
                    answered += sum(entry != NOTHING for entry in entries)
                    yield entries
        except GeneratorExit:
            logger.info("project %s: no one waits any longer after %d of %d tasks", request.project_id, given, total)
            raise
        except Exception:
            logger.exception("project %s: predicting stopped after %d tasks", request.project_id, given)
        if given < total:
            yield [NOTHING] * (total - given)
        seconds = time.monotonic() - began
        logger.info(
            "project %s: %d of %d tasks answered by %s in %.1f s", request.project_id, answered, total, version, seconds
        )

    def prepare(self, request: PredictRequest) -> None:
        """Predict tasks that nobody waits for into the cache; what fails is logged, and tried when it is asked."""
        resolved = self._serving.resolve(request.project_id, request.config.classes)
        served = None if resolved is None else resolved.model()
        if served is not None:
            for _ in self._batches(request, served, lambda task, why: None):
                pass

    def _batches(self, request: PredictRequest, served: Served, problem: Problem) -> Iterator[list[Entry]]:
        source = self._images(request.project_id)
        config = hashlib.sha256(repr(request.config).encode()).hexdigest()
        ahead: deque[list[_Item]] = deque()
        begun: list[_Item] = []
        try:
            for start in range(0, len(request.tasks), self._batch_size):
                tasks = request.tasks[start : start + self._batch_size]
                ahead.append([self._begin(task, request, served, config, source) for task in tasks])
                begun = [item for items in ahead for item in items]
                # While one batch is on the networks, the images of the next are fetched.
                if len(ahead) == 2:
                    yield self._finish(ahead.popleft(), request, served, source, problem)
            for items in ahead:
                yield self._finish(items, request, served, source, problem)
        finally:
            for loading in (loading for item in begun for loading in item.loading.values()):
                loading.cancel()  # no one waits for it any longer

    def _begin(
        self, task: Mapping[str, Any], request: PredictRequest, served: Served, config: str, source: ImageSource
    ) -> _Item:
        images = task_images(task, request.config)
        addresses = tuple(str(address_at(task["data"], image.path)) for image in images)
        key = (request.project_id, str(task.get("id")), addresses, served.version, config)
        item = _Item(request.project_id, task, key, images)
        if not self._cache.known(key):
            for image in islice(images, self._batch_size):
                self._load(item, image, source)
        return item

    def _load(self, item: _Item, image: TaskImage, source: ImageSource) -> None:
        if image not in item.loading:
            item.loading[image] = self._loaders.submit(item.project, source.load, item.task, image.path)

    def _finish(
        self, items: Sequence[_Item], request: PredictRequest, served: Served, source: ImageSource, problem: Problem
    ) -> list[Entry]:
        """Entries of one batch.

        Own work is done before others' is waited for, so no two requests ever wait for each other.
        """
        joined = [self._cache.join(item.key) for item in items]
        own = [item for item, (_, mine) in zip(items, joined, strict=True) if mine]
        unfinished = {item.key for item in own}
        try:
            found: dict[Hashable, dict[TaskImage, Prediction]] = defaultdict(dict)
            for (item, image), prediction in self._predictions(own, served, source):
                found[item.key][image] = prediction
                # A task whose images were not all seen gets nothing: its annotator would take the others for empty.
                if image == item.images[-1]:
                    made = found.pop(item.key)
                    entry = self._entry(item, made, request, served.version) if len(made) == len(item.images) else None
                    unfinished.discard(item.key)
                    self._cache.finish(item.key, entry)
        finally:
            for key in unfinished:
                self._cache.finish(key, None)
        entries = [future.result() or NOTHING for future, _ in joined]
        for item, entry in zip(items, entries, strict=True):
            if entry == NOTHING:
                problem(item.task.get("id"), item.why or "another request for it failed; the server's log says why")
        return entries

    def _predictions(
        self, items: Sequence[_Item], served: Served, source: ImageSource
    ) -> Iterator[tuple[_Part, Prediction]]:
        """The predictions of the images of tasks, in order; what fails is left out and logged."""
        parts = [(item, image) for item in items for image in item.images]
        # Tasks may have hundreds of images: no more are in memory than those of two batches.
        for start in range(0, len(parts), self._batch_size):
            for item, image in parts[start : start + 2 * self._batch_size]:
                self._load(item, image, source)
            ready: list[tuple[_Part, Image]] = []
            for item, image in parts[start : start + self._batch_size]:
                loading = item.loading.pop(image)
                if ready and not wait([loading], PATIENCE).done:
                    yield from _predictions_of(ready, served)
                    ready = []
                if (pixels := _loaded(item, loading)) is not None:
                    ready.append(((item, image), pixels))
                del pixels, loading  # images in memory are counted until nothing refers to them
            yield from _predictions_of(ready, served)

    def _entry(
        self, item: _Item, predictions: Mapping[TaskImage, Prediction], request: PredictRequest, version: str
    ) -> Entry | None:
        try:
            entry = task_entry(list(predictions.items()), request.config, version, per_object=self._per_object)
            return json.dumps(entry).encode()
        except Exception:
            item.why = "the prediction could not be written as regions; the log says more"
            logger.exception("task %s: no masks: the prediction could not be written as regions", item.task.get("id"))
            return None


def _predictions_of(ready: Sequence[tuple[_Part, Image]], served: Served) -> Iterator[tuple[_Part, Prediction]]:
    predictions = served.predict([pixels for _, pixels in ready])
    try:
        for (part, pixels), future in zip(ready, predictions, strict=True):
            if (prediction := _predicted(part[0], pixels, future)) is not None:
                yield part, prediction
    finally:
        for future in predictions:
            future.cancel()


def _loaded(item: _Item, image: Future[Image]) -> Image | None:
    try:
        return image.result()
    except BackendError as error:
        item.why = str(error)
        logger.warning("task %s: no masks: %s", item.task.get("id"), error)
    except Exception:
        item.why = "its image could not be loaded; the log says more"
        logger.exception("task %s: no masks: its image could not be loaded", item.task.get("id"))
    return None


def _predicted(item: _Item, image: Image, prediction: Future[Prediction]) -> Prediction | None:
    try:
        return prediction.result()
    except Exception:
        shape = "x".join(map(str, image.shape))
        item.why = f"the model failed on its {shape} image; the log says more"
        logger.exception("task %s: no masks: the model failed on its %s image", item.task.get("id"), shape)
    return None
