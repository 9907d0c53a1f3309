"""PredictionCache to an annotator's smart tools, while they wait: prompt -> region."""

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from backend.errors import BackendError
from backend.label_studio.prompts import read_prompts
from backend.label_studio.protocol import PredictRequest, regions_of
from backend.versions.serving import ServedPipeline, Serving
from models.segment import Segment

if TYPE_CHECKING:
    from models.pipeline import Embedding

logger = logging.getLogger(__name__)

Key = tuple[str, str, str, str]  # project, task, image address, version


class ImageSource(Protocol):
    """What `backend.label_studio.images.ImageLoader` offers."""

    def load(self, task: Mapping[str, Any], image_key: str) -> NDArray[np.uint8]:
        """The task's image, RGB of shape (H, W, 3), uint8; raises ImageError."""


class Interactive:
    """PredictionCache prompts. Safe to share between threads.

    What the classifier makes of a frame is kept, so that every click on it but the first costs the refiner alone.

    Args:
        serving: which pipeline answers for a project.
        images: the image source of a project.
        max_bytes: of the frames kept; the one looked at longest ago goes first.
    """

    def __init__(self, serving: Serving, images: Callable[[str], ImageSource], max_bytes: int = 256 << 20) -> None:
        self._serving = serving
        self._images = images
        self._lock = threading.Lock()
        self._embeddings: LRUCache[Key, Embedding] = LRUCache(max_bytes, getsizeof=lambda embedding: embedding.nbytes)

    def entries(self, request: PredictRequest) -> Iterator[Any]:
        """One entry per task, in order: Label Studio sends one. Never raises; the log says why nothing was drawn."""
        try:
            entry = self._entry(request) if request.tasks else None
        except BackendError as error:
            logger.warning("task %s: nothing is drawn for a prompt: %s", request.tasks[0].get("id"), error)
            entry = None
        except Exception:
            logger.exception("task %s: nothing is drawn for a prompt", request.tasks[0].get("id"))
            entry = None
        empty: list[dict[str, Any] | list[Any]] = [[] for _ in request.tasks[1:]]
        # The editor takes an empty result for "nothing found", anything else for a failure that it does not show.
        yield from itertools.islice(
            [entry or {"result": [], "score": 0.0, "model_version": "none"}], len(request.tasks)
        )
        yield from empty

    def _entry(self, request: PredictRequest) -> dict[str, Any] | None:
        task, project = request.tasks[0], request.project_id
        # A class that no model knows is drawn by the starter, from the prompt and its features.
        served = self._serving.pipeline(project, request.config.classes) or self._serving.pipeline(project)
        if served is None:
            logger.warning(
                "project %s: nothing is drawn for prompts: there is no model at all; train one, or let PREMASK_STARTER "
                "name a checkpoint",
                project,
            )
            return None
        embedding = self._embedding(request, served)
        asked = read_prompts(task, request.context or {}, request.config, embedding.image.shape[:2])
        if asked is None:
            return None
        ids, masks = list(asked.existing), list(asked.existing.values())

        def draw(pipeline: Any) -> Any:
            from models.interactive import answer

            return answer(pipeline, embedding, asked.label, asked.prompt, masks)

        answer = served.run(draw)
        if not answer.mask.any():
            return {"result": [], "score": 0.0, "model_version": served.version}
        segment = Segment(asked.label, answer.score, answer.mask, answer.uncertainty)
        # The editor puts a suggestion in the place of the region with the same id when it is accepted.
        improved = None if answer.improves is None else ids[answer.improves]
        result = regions_of(segment, asked.control, first_id=improved)
        return {"result": result, "score": answer.score, "model_version": served.version}

    def _embedding(self, request: PredictRequest, served: ServedPipeline) -> "Embedding":
        """What the classifier makes of the task's frame, from memory if it was asked for before."""
        task, key_of_image = request.tasks[0], request.config.image_key
        key = (request.project_id, str(task.get("id")), str(task["data"].get(key_of_image)), served.version)
        with self._lock:
            if (known := self._embeddings.get(key)) is not None:
                return known
        image = self._images(request.project_id).load(task, key_of_image)

        def embed(pipeline: Any) -> "Embedding":
            # Two quick clicks wait for each other here; the second finds what the first has made.
            with self._lock:
                known = self._embeddings.get(key)
            made: Embedding = known or pipeline.embed(image)
            return made

        made = served.run(embed)
        with self._lock:
            # Other versions' maps of the project will not be asked for again.
            for old in [old for old in self._embeddings if old[0] == key[0] and old[3] != key[3]]:
                del self._embeddings[old]
            if made.nbytes <= self._embeddings.maxsize:
                self._embeddings[key] = made
        return made
