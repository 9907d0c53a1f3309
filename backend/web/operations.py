"""The state of the server, for those who operate it.

Every request gets an id, which its answer and its log lines carry.

GET /            the dashboard, to a browser; else as /health
GET /health      alive, instantly, also while models are loaded or busy
GET /ready       whether the server could answer a prediction now, and the remedy if not
GET /metrics     counts and times in Prometheus' format
"""

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from flask import Blueprint, Flask, Response, g, redirect, request, send_from_directory, url_for
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from backend.diagnosis.checks import BROKEN, Check
from backend.errors import BackendError
from backend.jobs.queue import JobQueue
from backend.system.logs import REQUEST_ID
from backend.system.loops import LoopReport
from backend.system.metrics import IN_FLIGHT, REGISTRY, REQUEST_SECONDS, REQUESTS
from backend.versions.serving import Serving

logger = logging.getLogger(__name__)

ICON = Path(__file__).parent / "dashboard" / "static" / "icon.svg"
ID_HEADER = "X-Request-ID"
SANE_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
UNKNOWN_ROUTE = "unknown"  # one name for all paths that lead nowhere: a caller must not make up series


def number_requests(app: Flask) -> None:
    """Number, count, time and log every request; to be called before anything else looks at requests."""

    @app.before_request
    def begin() -> None:
        given = request.headers.get(ID_HEADER, "")
        REQUEST_ID.set(given if SANE_ID.fullmatch(given) else uuid.uuid4().hex[:16])
        g.began = time.monotonic()
        IN_FLIGHT.labels(_route()).inc()

    @app.after_request
    def number(response: Response) -> Response:
        response.headers[ID_HEADER] = REQUEST_ID.get()
        # A file that is passed through as it is would be closed alone, and the answer's end never told.
        response.direct_passthrough = False
        route, method, path, began = _route(), request.method, request.path, g.began
        why = f": {refusal}" if (refusal := g.get("refusal")) else ""

        # A streamed answer ends long after this.
        @response.call_on_close
        def end() -> None:
            seconds = time.monotonic() - began
            IN_FLIGHT.labels(route).dec()
            REQUESTS.labels(route, str(response.status_code)).inc()
            REQUEST_SECONDS.labels(route).observe(seconds)
            level = logging.WARNING if response.status_code >= 400 else logging.DEBUG
            logger.log(level, "%s %s -> %d in %.0f ms%s", method, path, response.status_code, seconds * 1000, why)
            REQUEST_ID.set("")  # what this thread logs before its next request belongs to none

        return response


def operation_routes(
    serving: Serving,
    jobs: JobQueue,
    ready: Callable[[], Sequence[Check]],
    loops: Callable[[], Sequence[LoopReport]] = tuple,
) -> Blueprint:
    """/, /health, /ready and /metrics.

    Args:
        serving: which version answers for a project.
        jobs: the job queue.
        ready: checks that decide whether predictions can be answered.
        loops: the loops that look after projects.
    """
    routes = Blueprint("operations", __name__)
    shown = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector):
        collector(registry=shown)
    shown.register(State(serving, jobs, loops))

    @routes.get("/health")
    def health() -> ResponseReturnValue:
        return {"status": "UP", "name": "premask"}

    @routes.get("/")
    def root() -> ResponseReturnValue:
        # Label Studio's own backends answer as /health here; who comes with a browser wants the pages.
        wants_page = request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
        return redirect(url_for("dashboard.index")) if wants_page else health()

    @routes.get("/favicon.ico")
    def favicon() -> ResponseReturnValue:
        return send_from_directory(ICON.parent, ICON.name, mimetype="image/svg+xml", max_age=86_400)

    @routes.get("/ready")
    def is_ready() -> ResponseReturnValue:
        checks = ready()
        broken = any(check.state == BROKEN for check in checks)
        return {"ready": not broken, "checks": [check.report() for check in checks]}, 503 if broken else 200

    @routes.get("/metrics")
    def metrics() -> ResponseReturnValue:
        return Response(generate_latest(REGISTRY) + generate_latest(shown), content_type=CONTENT_TYPE_LATEST)

    return routes


class State(Collector):
    """Gauges that are looked up when Prometheus asks."""

    def __init__(self, serving: Serving, jobs: JobQueue, loops: Callable[[], Sequence[LoopReport]] = tuple) -> None:
        self._serving, self._jobs, self._loops = serving, jobs, loops

    def collect(self) -> Iterator[GaugeMetricFamily | InfoMetricFamily]:
        """The metrics, each with its samples."""
        yield InfoMetricFamily("premask_build", "This software.", {"version": version("premask")})
        models = GaugeMetricFamily("premask_model_info", "Model versions that answer.", labels=["project", "version"])
        for project, served in self._serving.served():
            models.add_metric([project, served], 1)
        yield models
        yield from self._loop_metrics()
        try:
            waiting, jobs = self._jobs.waiting(), self._jobs.store.counts()
            tasks = self._jobs.leases.waiting()
        except BackendError as error:
            logger.warning("metrics without jobs: %s", error)
            return  # the other figures are needed all the more
        depth = GaugeMetricFamily("premask_queue_depth", "Jobs that wait for a worker.")
        depth.add_metric([], waiting)
        yield depth
        due = GaugeMetricFamily("premask_tasks_waiting", "Requested tasks that no worker predicts yet.")
        due.add_metric([], tasks)
        yield due
        states = GaugeMetricFamily("premask_jobs", "Jobs on record.", labels=["kind", "state"])
        for (kind, state), count in jobs.items():
            states.add_metric([kind, state], count)
        yield states

    def _loop_metrics(self) -> Iterator[GaugeMetricFamily]:
        labels = ["loop", "host", "process"]
        age = GaugeMetricFamily(
            "premask_loop_age_seconds", "Since a loop over projects last reported: at most about 15 s.", labels=labels
        )
        failing = GaugeMetricFamily(
            "premask_loop_failing", "Projects that fail now and are tried again later.", labels=labels
        )
        projects = GaugeMetricFamily(
            "premask_loop_project_failing", "The first of those projects by name.", labels=[*labels, "project"]
        )
        for report in self._loops():
            which = [report.name, report.host, report.process]
            age.add_metric(which, max(time.time() - report.at, 0.0))
            failing.add_metric(which, report.failing)
            for project in report.reasons:
                projects.add_metric([*which, project], 1)
        yield from (age, failing, projects)


def _route() -> str:
    return request.url_rule.rule if request.url_rule is not None else UNKNOWN_ROUTE
