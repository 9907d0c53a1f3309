"""The same backend as a label-studio-ml 2.x model class, for teams that already run their models that way.

A folder with two lines in `model.py` is enough for `label-studio-ml create` and `label-studio-ml start`:

    from backend.entrypoints.label_studio_ml import PremaskModel
    __all__ = ["PremaskModel"]

and `label_studio_ml.api.init_app(model_class=PremaskModel)` is the WSGI application for a server of one's own. The
settings are premask's, read from the environment, and a `premask worker` beside it does the trainings and predicts what
an answer did not reach by its deadline. docs/label-studio-ml.md tells the rest.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from label_studio_ml.model import LabelStudioMLBase
from label_studio_ml.response import ModelResponse

from backend.errors import BadRequest, ConfigError
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import UNTRAINED, parse_predict, parse_setup, parse_webhook
from backend.settings import Settings
from backend.wiring import Core, assemble_core

logger = logging.getLogger(__name__)

# A request without a project, such as that of label-studio-ml's test template, is answered by the starter.
NO_PROJECT = "0"

_assembling = threading.Lock()


@cache
def _assembled() -> Core:
    return assemble_core(Settings.from_environ(os.environ))


def core_from_environ() -> Core:
    """The one core of this process, made at the first request: a server that forks after importing shares nothing.

    Raises:
        SettingsError: the environment does not describe a backend that can start.
    """
    with _assembling:
        return _assembled()


class PremaskModel(LabelStudioMLBase):  # type: ignore[misc]
    """One request of Label Studio: label-studio-ml makes an instance for each, with its project and labelling config.

    What a request gets wrong is logged and answered with empty predictions: label-studio-ml could only answer 500, and
    Label Studio shows neither.

    Attributes:
        core: what answers, shared by all instances.
    """

    INITIAL_MODEL_VERSION = UNTRAINED
    core: Callable[[], Core] = staticmethod(core_from_environ)

    def setup(self) -> None:
        """Set the version that the project is served, from metadata alone."""
        version = None
        try:
            asked = parse_setup({"project": self.project_id, "schema": self.label_config})
            classes = parse_label_config(asked.label_config).classes
            version = self.core().serving.served_version(asked.project_id, classes)
        except (BadRequest, ConfigError) as error:
            logger.warning("project %r: %s", self.project_id, error)
        if self.get("model_version") != (version or UNTRAINED):
            self.set("model_version", version or UNTRAINED)

    def predict(
        self, tasks: list[dict[str, Any]], context: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> ModelResponse:
        """One prediction per task, in order, an empty list for a task without an answer or not reached by the deadline.

        Args:
            tasks: tasks as Label Studio sends them; those without an "id" are answered too.
            context: prompts of a smart tool.
            **kwargs: what else came in the request's "params"; not used.
        """
        params = {"context": context or None}
        project = NO_PROJECT if self.project_id == "None" else self.project_id
        try:
            asked = parse_predict(
                {"tasks": tasks, "project": project, "label_config": self.label_config, "params": params}
            )
        except (BadRequest, ConfigError) as error:
            logger.warning("project %r: no masks: %s", self.project_id, error)
            return ModelResponse(predictions=[[] for _ in tasks or ()])
        core = self.core()
        if asked.context is not None:
            return ModelResponse(predictions=core.prompts.entries(asked))
        resolved = core.serving.resolve(asked.project_id, asked.config.classes)
        answer = json.loads(b"".join(core.responder.answer(asked, resolved)))
        return ModelResponse(predictions=answer["results"])

    def fit(self, event: str, data: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Queue a training when Start Training was pressed; note that annotations have changed.

        Args:
            event: the webhook's action.
            data: the rest of its body.
            **kwargs: what label-studio-ml's job runners add; not used.

        Raises:
            BadRequest: the body names no project.
        """
        asked = parse_webhook({**data, "action": event})
        if not asked.starts_training:
            if asked.changes_annotations:
                self.core().parts.automatic.note(asked.project_id)
            return {"status": "noted" if asked.changes_annotations else "ignored", "action": asked.action}
        job, joined = self.core().jobs.submit(asked.project_id)
        logger.info("project %s: Start Training %s job %s", asked.project_id, "joined" if joined else "queued", job.id)
        return {"job": job.id, "project": asked.project_id, "state": job.state, "joined": joined}
