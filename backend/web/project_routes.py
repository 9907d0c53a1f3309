"""The routes that older and commercial releases of Label Studio know, about a project as a whole.

POST /validate          {"config"}: whether a labelling config can be used
POST /delete            {"project"}: forget it
POST /duplicate_model   {"project_src", "project_dst"}: serve one's model to the other as well
"""

from typing import Any

from flask import Blueprint

from backend.database.credentials import Credentials
from backend.database.jobs import ACTIVE
from backend.errors import BadRequest
from backend.jobs.queue import JobQueue
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import project_id
from backend.versions.registry import Registry
from backend.web.bodies import json_body, json_object


def project_routes(registry: Registry, jobs: JobQueue, credentials: Credentials) -> Blueprint:
    """The routes as a blueprint."""
    routes = Blueprint("projects", __name__)

    @routes.post("/validate")
    def validate() -> Any:
        body = json_body()
        config = body.get("config") if isinstance(body, dict) else None
        if not isinstance(config, str):
            raise BadRequest("/validate: the body should be an object with 'config', the labelling config as XML")
        return {"status": "ok", "classes": parse_label_config(config).classes}

    @routes.post("/delete")
    def delete() -> Any:
        project = project_id(json_object().get("project"), "/delete")
        cancelled = [jobs.cancel(job.id).id for job in jobs.store.find(project, ACTIVE)]
        jobs.leases.abandon(project, "")
        credentials.forget(project)
        # Hours of training and the pictures that tell what it was worth: only a person with a shell removes them.
        return {"project": project, "cancelled": cancelled, "kept": [v.version for v in registry.versions(project)]}

    @routes.post("/duplicate_model")
    def duplicate() -> Any:
        body = json_object()
        source = project_id(body.get("project_src"), "/duplicate_model: 'project_src'")
        target = project_id(body.get("project_dst"), "/duplicate_model: 'project_dst'")
        info = registry.duplicate(source, target)
        return {"project": target, "model_version": None if info is None else info.version}, 201

    return routes
