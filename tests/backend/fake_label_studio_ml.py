"""A small label-studio-ml: what the adapter uses of version 2.0.1, called in the order in which its server calls it.

Stands in where that package is not installed (no registry carries it), so that the adapter is tested all the same.
"""

import sys
from types import ModuleType
from typing import Any

from flask import Flask, jsonify, request

MEMORY: dict[tuple[str, str], str] = {}


class LabelStudioMLBase:
    """One request's model: label-studio-ml makes an instance for each."""

    INITIAL_MODEL_VERSION = "0.0.1"

    def setup(self) -> None:
        """For subclasses."""

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None:
            self.set("label_config", label_config)
        if not self.get("model_version"):
            self.set("model_version", self.INITIAL_MODEL_VERSION)
        self.setup()

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")

    def get(self, key: str) -> str | None:
        return MEMORY.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        MEMORY[self.project_id, key] = value


class ModelResponse:
    """Predictions, one per task."""

    def __init__(self, predictions: list[Any]) -> None:
        self.predictions = predictions


def init_app(model_class: Any) -> Flask:
    app = Flask("label_studio_ml")

    def model(project: str, config: str) -> Any:
        return model_class(project_id=project, label_config=config)

    @app.post("/setup")
    def setup() -> Any:
        body = request.get_json()
        asked = model(body["project"].split(".", 1)[0], body["schema"])
        return jsonify({"model_version": asked.get("model_version")})

    @app.post("/predict")
    def predict() -> Any:
        body = request.get_json()
        params = body.get("params", {})
        context = params.pop("context", {})
        asked = model(str(body.get("project")).split(".", 1)[0], body["label_config"])
        return jsonify({"results": asked.predict(body["tasks"], context=context, **params).predictions})

    @app.post("/webhook")
    def webhook() -> Any:
        body = request.get_json()
        event = body.pop("action")
        asked = model(str(body["project"]["id"]), body["project"]["label_config"])
        return jsonify({"result": asked.fit(event, body), "status": "ok"}), 201

    return app


def install() -> None:
    """Be importable as label_studio_ml."""
    for name in ("label_studio_ml", "label_studio_ml.api", "label_studio_ml.model", "label_studio_ml.response"):
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(
            LabelStudioMLBase=LabelStudioMLBase, ModelResponse=ModelResponse, init_app=init_app, is_fake=True
        )
