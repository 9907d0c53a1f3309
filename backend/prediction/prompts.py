"""Answers to the smart tools of Label Studio's editor, while the annotator waits: prompt -> region."""

import logging
from collections.abc import Callable, Collection
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from backend.errors import BackendError
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.prompts import prompted_class, prompted_image, read_prompts
from backend.label_studio.protocol import PredictRequest, nothing_found, prompt_entry
from backend.label_studio.task_data import address_at
from backend.label_studio.task_images import TaskImage
from backend.prediction.adaptation import Adaptations
from backend.prediction.embeddings import Embeddings
from backend.prediction.images import ImageSource
from backend.prediction.prefetch import Requests
from backend.versions.serving import Served, Serving
from models.families import Embedding
from models.segment import Segment
from models.starter import PROMPTS

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Prompts:
    """Answers prompts. Safe to share between threads.

    Args:
        serving: which model answers for a project.
        images: the image source of a project.
        embeddings: where embeddings are kept.
        network: checkpoint that answers prompts for classes that no model of the project knows; None for none.
        adaptations: of that network, to a class's accepted masks; None leaves it as it is.
        patience: seconds that a prompt waits for the networks at most.
        requests: where a prompt counts while it is answered.
    """

    def __init__(
        self,
        serving: Serving,
        images: Callable[[str], ImageSource],
        embeddings: Embeddings | None = None,
        *,
        network: Path | None = PROMPTS,
        adaptations: Adaptations | None = None,
        patience: float = 60.0,
        requests: Requests | None = None,
    ) -> None:
        self._serving = serving
        self._images = images
        self._embeddings = Embeddings() if embeddings is None else embeddings
        self._network = network
        self._adaptations = adaptations
        self._network_version: str | None = None
        self._expected = False
        self._patience = patience
        self._requests = requests or Requests()

    def entries(self, request: PredictRequest) -> list[Any]:
        """One entry per task, in order: Label Studio sends one. Never raises; the log says why nothing was drawn."""
        if not request.tasks:
            return []
        entry = None
        try:
            with self._requests.answering():
                entry = self._entry(request)
        except (BackendError, TimeoutError) as error:
            reason = str(error) or f"the networks were busy for {self._patience:.0f} s"
            logger.warning("task %s: nothing is drawn for a prompt: %s", request.tasks[0].get("id"), reason)
        except Exception:
            logger.exception("task %s: nothing is drawn for a prompt", request.tasks[0].get("id"))
        return [entry or nothing_found(), *([] for _ in request.tasks[1:])]

    def _entry(self, request: PredictRequest) -> dict[str, Any] | None:
        task, project = request.tasks[0], request.project_id
        label = prompted_class(request.context or {}, request.config)
        served = self._served(project, request.config.classes, label)
        if served is None:
            logger.warning(
                "project %s: nothing is drawn for prompts: there is no model at all; train one, or let PREMASK_STARTER "
                "name a checkpoint",
                project,
            )
            return None
        if self._adaptations is not None and label is not None and served.version == self._network_version:
            served = self._adaptations.served(project, label, request.config, served)
        image = prompted_image(task, request.context or {}, request.config)
        embedding = self._embedding(request, image, served)
        asked = read_prompts(task, request.context or {}, request.config, embedding.shape, image)
        if asked is None:
            return None
        ids, masks = list(asked.existing), list(asked.existing.values())
        answer = self._wait(served.prompt(embedding, asked.prompt, asked.label, masks))
        segment = Segment(answer.label, answer.score, answer.mask, answer.uncertainty)
        # The editor puts a suggestion in the place of the region with the same id when it is accepted.
        improved = None if answer.improves is None else ids[answer.improves]
        return prompt_entry(segment, asked.control, served.version, improved=improved, item_index=image.item_index)

    def expect(self, project: str, config: LabelConfig) -> None:
        """Begin to load the prompt network, once, if a project's smart tools will need it: before the first click."""
        smart = {label for control in config.controls if control.smart for label in control.labels.values()}
        if self._network is None or self._expected or not smart:
            return
        resolved = self._serving.resolve(project, config.classes)
        if resolved is None or not smart <= resolved.classes:
            self._expected = True
            self._serving.expect(self._network)

    def _served(self, project: str, classes: Collection[str], label: str | None) -> Served | None:
        """What answers a prompt for a class: a model that knows it, else the prompt network, else any model."""
        resolved = self._serving.resolve(project, classes)
        served = None if resolved is None else resolved.model()
        if served is not None and label in served.classes:
            return served
        if self._network is not None and (shipped := self._serving.shipped(self._network)) is not None:
            self._network_version = shipped.version
            return shipped
        if served is None and (other := self._serving.resolve(project)) is not None:
            served = other.model()
        return served

    def _embedding(self, request: PredictRequest, image: TaskImage, served: Served) -> Embedding:
        """The embedding of an image of the task, from memory after the first prompt."""
        task, project, version = request.tasks[0], request.project_id, served.version

        def make() -> Embedding:
            # Embeddings by earlier versions will not be asked for again; those by the prompt network will.
            if version != self._network_version:
                kept = {version, self._network_version}
                if self._adaptations is not None:
                    kept |= self._adaptations.versions(project)
                self._embeddings.forget(lambda known: known[0] == project and known[3] not in kept)
            return self._wait(served.embed(self._images(project).load(task, image.path)))

        address = str(address_at(task["data"], image.path))
        return self._embeddings.get((project, str(task.get("id")), address, version), make)

    def _wait(self, future: Future[Result]) -> Result:
        try:
            return future.result(self._patience)
        finally:
            future.cancel()
