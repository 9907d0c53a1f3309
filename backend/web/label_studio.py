"""The routes that Label Studio calls.

POST /setup             which model version a project gets
POST /predict           masks for tasks, streamed
POST /webhook, /train   Start Training; annotations, which are noted; other events, which are only acknowledged
POST /validate          {"config"}: whether a labelling config can be used
POST /delete            {"project"}: forget it
POST /duplicate_model   {"project_src", "project_dst"}: serve one's model to the other as well

The last three are of older and commercial releases.
"""

import logging
import threading
from contextlib import suppress

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import ServiceUnavailable

from backend.database.credentials import Credentials
from backend.database.jobs import ACTIVE
from backend.errors import BadRequest, ConfigError, DatabaseError, JobConflict, UnknownJob
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.queue import JobQueue
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import (
    UNTRAINED,
    parse_predict,
    parse_setup,
    parse_webhook,
    project_id,
)
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.versions.registry import Registry
from backend.versions.serving import Serving
from backend.web.bodies import json_body, json_object

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5


def prediction_routes(
    serving: Serving, responder: Responder, prompts: Prompts, credentials: Credentials, max_predicts: int
) -> Blueprint:
    """/setup and /predict.

    Args:
        serving: which version answers for a project.
        responder: answers prediction requests.
        prompts: answers smart tools.
        credentials: keeps each project's Label Studio, as /setup names it.
        max_predicts: prediction requests at the same time; beyond it 503, so that threads stay free for `/health`.
    """
    routes = Blueprint("predictions", __name__)
    predicting = threading.BoundedSemaphore(max_predicts)

    @routes.post("/setup")
    def setup() -> ResponseReturnValue:
        asked = parse_setup(json_body())
        try:
            credentials.remember(asked.project_id, asked.hostname, asked.access_token)
        except DatabaseError as error:
            logger.error("project %s: its token cannot be kept: %s", asked.project_id, error)
        try:
            config = parse_label_config(asked.label_config)
        except ConfigError as error:
            # A project may be connected before its config is written.
            logger.warning("project %s: %s", asked.project_id, error)
            return {"model_version": UNTRAINED}
        prompts.expect(asked.project_id, config)
        return {"model_version": serving.served_version(asked.project_id, config.classes) or UNTRAINED}

    @routes.post("/predict")
    def predict() -> ResponseReturnValue:
        body = json_body()
        try:
            asked = parse_predict(body)
        except ConfigError as error:
            logger.warning("project %s: no masks: %s", body.get("project"), error)
            return {"results": [[] for _ in body["tasks"]]}
        resolved = None if asked.context is not None else serving.resolve(asked.project_id, asked.config.classes)
        if not predicting.acquire(blocking=False):
            text = f"{max_predicts} prediction requests are being answered already; try again in a while"
            raise ServiceUnavailable(text, retry_after=RETRY_SECONDS)
        if asked.context is not None:
            try:
                return {"results": prompts.entries(asked)}
            finally:
                predicting.release()
        prompts.expect(asked.project_id, asked.config)
        response = Response(responder.answer(asked, resolved), mimetype="application/json")
        response.call_on_close(predicting.release)
        return response

    return routes


def training_routes(jobs: JobQueue, automatic: AutomaticTraining) -> Blueprint:
    """/webhook and /train.

    Args:
        jobs: the job queue.
        automatic: starts trainings by itself.
    """
    routes = Blueprint("trainings", __name__)

    @routes.post("/webhook")
    def webhook() -> ResponseReturnValue:
        event = parse_webhook(json_body())
        if event.starts_training:
            return submitted(event.project_id)
        # Trainings fetch what was accepted themselves: webhooks get lost, and carry secrets.
        if event.changes_annotations:
            automatic.note(event.project_id)
        return {"status": "noted" if event.changes_annotations else "ignored", "action": event.action}

    @routes.post("/train")
    def train() -> ResponseReturnValue:
        body = json_body()
        project = body.get("project") if isinstance(body, dict) else None
        return submitted(project_id(project.get("id") if isinstance(project, dict) else project, "/train"))

    def submitted(project: str) -> ResponseReturnValue:
        # Training takes minutes and the caller is waiting, so only queue it.
        job, joined = jobs.submit(project)
        logger.info("project %s: Start Training %s job %s", project, "joined" if joined else "queued", job.id)
        return {"job": job.id, "project": project, "state": job.state, "joined": joined}, 201

    return routes


def project_routes(registry: Registry, jobs: JobQueue, credentials: Credentials) -> Blueprint:
    """/validate, /delete and /duplicate_model."""
    routes = Blueprint("projects", __name__)

    @routes.post("/validate")
    def validate() -> ResponseReturnValue:
        body = json_body()
        config = body.get("config") if isinstance(body, dict) else None
        if not isinstance(config, str):
            raise BadRequest("/validate: the body should be an object with 'config', the labelling config as XML")
        return {"status": "ok", "classes": parse_label_config(config).classes}

    @routes.post("/delete")
    def delete() -> ResponseReturnValue:
        project = project_id(json_object().get("project"), "/delete")
        credentials.forget(project)  # first: whatever else cannot be done, the token is gone
        cancelled = []
        for job in jobs.store.find(project, ACTIVE):
            with suppress(JobConflict, UnknownJob):  # its version is being published, or it has ended meanwhile
                cancelled.append(jobs.cancel(job.id).id)
        jobs.leases.abandon(project, "")
        # Hours of training and the pictures that tell what it was worth: only a person with a shell removes them.
        return {"project": project, "cancelled": cancelled, "kept": registry.names(project)}

    @routes.post("/duplicate_model")
    def duplicate() -> ResponseReturnValue:
        body = json_object()
        source = project_id(body.get("project_src"), "/duplicate_model: 'project_src'")
        target = project_id(body.get("project_dst"), "/duplicate_model: 'project_dst'")
        info = registry.duplicate(source, target)
        return {"project": target, "model_version": None if info is None else info.version}, 201

    return routes
