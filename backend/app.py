"""The routes. Each one parses, calls, and formats; what happens behind them is handed in.

GET  /, /health               alive, instantly, whatever the models do
GET  /ready, /metrics         for those who watch over it: see `monitoring`
POST /setup                   Label Studio asks which model version a project gets
POST /predict                 masks for tasks, streamed
POST /webhook, /train         Start Training; annotations, which are noted; news that are only acknowledged
GET  /versions                names of all model versions
GET, POST /job_status         state of one job, as Label Studio's own backends answer it
...  /api/jobs, /api/projects  see `job_routes`
GET  /api/versions[?project=] versions with their figures
POST /api/versions/promote    {"project", "version"}: serve it from now on;  /api/versions/rollback {"project"}
POST /validate, /delete, /duplicate_model   see `project_routes`
GET  /dashboard               pages for people; see `backend.web.dashboard.pages`
GET  /openapi.json            all of it in full; see `backend.web.openapi`
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from backend.database.credentials import Credentials
from backend.diagnosis.checks import Check
from backend.errors import (
    BackendError,
    BadRequest,
    ConfigError,
    JobConflict,
    JobError,
    LabelStudioError,
    RegistryError,
    UnknownJob,
    UnknownVersion,
    VersionConflict,
)
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.queue import JobQueue
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.protocol import (
    START_TRAINING,
    UNTRAINED,
    parse_predict,
    parse_setup,
    parse_webhook,
    project_id,
)
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.system.logs import REQUEST_ID
from backend.versions.registry import Registry
from backend.versions.serving import Serving
from backend.web.bodies import json_body, json_object
from backend.web.dashboard.pages import dashboard
from backend.web.job_routes import job_routes
from backend.web.openapi import document
from backend.web.operations import State, observe
from backend.web.project_routes import project_routes
from backend.web.reports import MAX_JOBS, project_report
from backend.web.security import Access, secure

logger = logging.getLogger(__name__)

RETRY_SECONDS = 5
STATUS: dict[type[BackendError], int] = {
    BadRequest: 400,
    ConfigError: 422,
    UnknownJob: 404,
    JobConflict: 409,
    UnknownVersion: 404,
    VersionConflict: 409,
    LabelStudioError: 502,
    # What is there cannot be read or written now: a full disk, a Redis that is away, a queue that is full.
    JobError: 503,
    RegistryError: 503,
}


def create_app(
    *,
    serving: Serving,
    responder: Responder,
    prompts: Prompts,
    jobs: JobQueue,
    automatic: AutomaticTraining,
    registry: Registry,
    credentials: Credentials,
    access: Access | None = None,
    ready: Callable[[], Sequence[Check]] = tuple,
    minutes_per_mask: float | None = None,
    max_request_bytes: int = 512 << 20,
    max_predicts: int = 6,
) -> Flask:
    """The backend as a WSGI application.

    Args:
        serving: which version answers for a project.
        responder: answers prediction requests.
        prompts: answers smart tools.
        jobs: the job queue.
        automatic: starts trainings by itself.
        registry: model versions.
        credentials: keeps what `/setup` says about a project's Label Studio.
        access: what callers have to know; None lets everybody in.
        ready: what has to work before predictions can be answered, for `/ready`.
        minutes_per_mask: what drawing a mask by hand takes, for the dashboard; None if nobody has measured it.
        max_request_bytes: larger bodies are refused with 413.
        max_predicts: prediction requests at the same time; beyond it 503, so that threads stay free for `/health`.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_request_bytes
    observe(app, State(serving, jobs), ready)
    secure(app, access)
    predicting = threading.BoundedSemaphore(max_predicts)

    @app.get("/")
    @app.get("/health")
    def health() -> Any:
        return {"status": "UP", "name": "premask"}

    @app.post("/setup")
    def setup() -> Any:
        asked = parse_setup(json_body())
        try:
            credentials.remember(asked.project_id, asked.hostname, asked.access_token)
        except OSError as error:
            logger.error("project %s: its token cannot be kept: %s; make room on the disk", asked.project_id, error)
        try:
            classes = parse_label_config(asked.label_config).classes
        except ConfigError as error:
            # A project may be connected before its config is written.
            logger.warning("project %s: %s", asked.project_id, error)
            return {"model_version": UNTRAINED}
        return {"model_version": serving.served_version(asked.project_id, classes) or UNTRAINED}

    @app.post("/predict")
    def predict() -> Any:
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
        response = Response(responder.answer(asked, resolved), mimetype="application/json")
        response.call_on_close(predicting.release)
        return response

    @app.post("/webhook")
    def webhook() -> Any:
        event = parse_webhook(json_body())
        if event.starts_training:
            return _submitted(event.project_id)
        # Trainings fetch what was accepted themselves: webhooks get lost, and carry secrets.
        if event.changes_annotations:
            automatic.note(event.project_id)
        return {"status": "noted" if event.changes_annotations else "ignored", "action": event.action}

    @app.post("/train")
    def train() -> Any:
        body = json_body()
        project = body.get("project") if isinstance(body, dict) else None
        wrapped = project if isinstance(project, dict) else {"id": project}
        return _submitted(parse_webhook({"action": START_TRAINING, "project": wrapped}).project_id)

    def _submitted(project: str) -> Any:
        # Training takes minutes and the caller is waiting, so only queue it.
        job, joined = jobs.submit(project)
        logger.info("project %s: Start Training %s job %s", project, "joined" if joined else "queued", job.id)
        return {"job": job.id, "project": project, "state": job.state, "joined": joined}, 201

    @app.get("/versions")
    def versions() -> Any:
        return {"versions": [info.version for project in registry.projects() for info in registry.versions(project)]}

    @app.get("/job_status")
    @app.post("/job_status")
    def job_status() -> Any:
        asked = request.args if request.method == "GET" else json_body()
        job_id = asked.get("job") if isinstance(asked, Mapping) else None
        if not isinstance(job_id, str):
            raise BadRequest("/job_status: name the job: ?job=ID or {'job': 'ID'}")
        job = jobs.store.get(job_id)
        return {"job": job.id, "job_status": job.state, "progress": job.progress, "error": job.reason or None}

    app.register_blueprint(job_routes(jobs))

    @app.get("/api/versions")
    def list_versions() -> Any:
        asked = request.args.get("project")
        only = None if asked is None else project_id(asked, request.path)
        projects = registry.projects() if only is None else [only]
        known = jobs.store.find(only, limit=MAX_JOBS)
        return {"projects": [project_report(registry, serving, known, project) for project in projects]}

    @app.post("/api/versions/promote")
    def promote() -> Any:
        body = json_object()
        project, version = project_id(body.get("project"), request.path), body.get("version")
        if not isinstance(version, str) or not version:
            raise BadRequest(f"{request.path}: name the version: {{'project': '3', 'version': 'p3-r001'}}")
        return {"project": project, "current": registry.promote(project, version).version}

    @app.post("/api/versions/rollback")
    def rollback() -> Any:
        project = project_id(json_object().get("project"), request.path)
        info = registry.rollback(project)
        return {"project": project, "current": None if info is None else info.version}

    app.register_blueprint(project_routes(registry, jobs, credentials))

    @app.get("/openapi.json")
    def description() -> Any:
        return document()

    app.register_blueprint(dashboard(registry, serving, jobs, credentials, minutes_per_mask))

    @app.errorhandler(BackendError)
    def expected(error: BackendError) -> Any:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
        return _error(status, str(error))

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Any:
        response = error.get_response()  # with what belongs to the status: Allow, WWW-Authenticate ...
        response.content_type = "application/json"
        response.set_data(json.dumps({"error": error.description or error.name, "status": error.code}))
        return response

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Any:
        logger.exception("%s %s failed", request.method, request.path)
        return _error(500, f"the backend failed; its log says more at request {REQUEST_ID.get()}")

    return app


def _error(status: int, text: str) -> tuple[Response, int]:
    return jsonify({"error": text, "status": status}), status
