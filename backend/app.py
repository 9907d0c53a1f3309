"""The application: blueprints and error handlers over parts that are handed in. The routes are in `backend.web`."""

from collections.abc import Callable, Collection, Sequence

from flask import Flask

from backend.database.credentials import Credentials
from backend.database.reviews import Reviews
from backend.diagnosis.checks import Check
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.outlook import Outlooks
from backend.jobs.queue import JobQueue
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.system.login import Login
from backend.system.loops import LoopReport
from backend.versions.registry import Registry
from backend.versions.serving import Serving
from backend.web import api, label_studio
from backend.web.dashboard.pages import dashboard
from backend.web.operations import number_requests, operation_routes
from backend.web.responses import answer_errors, error_json
from backend.web.security import secure


def create_app(
    *,
    serving: Serving,
    responder: Responder,
    prompts: Prompts,
    jobs: JobQueue,
    automatic: AutomaticTraining,
    registry: Registry,
    credentials: Credentials,
    reviews: Reviews,
    outlooks: Outlooks | None = None,
    login: Login | None = None,
    allowed_hosts: Collection[str] = (),
    form_key: bytes | None = None,
    ready: Callable[[], Sequence[Check]] = tuple,
    loops: Callable[[], Sequence[LoopReport]] = tuple,
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
        credentials: keeps each project's Label Studio, as `/setup` names it.
        reviews: accepted tasks that are worth a second look.
        outlooks: what was accepted since the served version, for the dashboard; None shows nothing of it.
        login: asked of callers; None lets everybody in.
        allowed_hosts: names under which it answers, as in `secure`.
        form_key: signs the dashboard's forms, as in `protect_forms`: the same on every server behind a balancer.
        ready: checks that decide whether predictions can be answered, for `/ready`.
        loops: the loops that look after projects, for `/metrics`.
        minutes_per_mask: minutes of drawing a mask by hand, for the dashboard; None if they were not measured.
        max_request_bytes: larger bodies are refused with 413.
        max_predicts: prediction requests at the same time; beyond it 503, so that threads stay free for `/health`.
    """
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_request_bytes
    number_requests(app)
    secure(app, login, allowed_hosts)
    answer_errors(app, error_json, "application/json")
    for blueprint in (
        operation_routes(serving, jobs, ready, loops),
        label_studio.prediction_routes(serving, responder, prompts, credentials, max_predicts),
        label_studio.training_routes(jobs, automatic),
        label_studio.project_routes(registry, jobs, credentials),
        api.job_routes(jobs),
        api.version_routes(registry, serving, jobs),
        api.review_routes(jobs, reviews),
        dashboard(registry, serving, jobs, credentials, reviews, minutes_per_mask, outlooks, form_key),
    ):
        app.register_blueprint(blueprint)
    return app
