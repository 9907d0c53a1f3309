"""The dashboard: pages that read reports, and buttons that do one thing each and come back with what happened.

GET  /dashboard                  every project
GET  /dashboard/projects/ID      one of them; below it versions/VERSION/gallery/FILE, the pictures
POST /dashboard/projects/ID/...  train, predict, rollback, versions/VERSION/promote, jobs/ID/cancel
"""

import logging
import secrets
from collections.abc import Sequence
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, send_from_directory, url_for
from flask.blueprints import BlueprintSetupState
from werkzeug.exceptions import HTTPException

from backend.database.credentials import Credentials
from backend.database.jobs import ACTIVE, TRAINING, Job
from backend.database.leases import UNLABELLED
from backend.errors import BackendError, JobConflict, JobError, RegistryError, UnknownJob, UnknownVersion
from backend.jobs.queue import JobQueue
from backend.system.logs import REQUEST_ID
from backend.versions.registry import STARTER, Registry
from backend.versions.serving import Serving
from backend.web.csrf import protect_forms
from backend.web.dashboard import formats, overview
from backend.web.reports import MAX_JOBS, history, job_report

logger = logging.getLogger(__name__)

LOG_LINES = 12
RECENT_JOBS = 8
GALLERY = "gallery"  # folder of a checkpoint
STATUS: dict[type[BackendError], int] = {
    UnknownVersion: 404,
    UnknownJob: 404,
    JobConflict: 409,
    JobError: 503,
    RegistryError: 503,
}


def dashboard(
    registry: Registry,
    serving: Serving,
    jobs: JobQueue,
    credentials: Credentials,
    minutes_per_mask: float | None = None,
) -> Blueprint:
    """The pages as a blueprint.

    Args:
        registry: model versions.
        serving: which of them answer right now.
        jobs: the job queue.
        credentials: knows the projects that have called, and where people find them.
        minutes_per_mask: what drawing a mask by hand takes; None, and no minutes are reckoned.
    """
    pages = Blueprint(
        "dashboard", __name__, url_prefix="/dashboard", template_folder="templates", static_folder="static"
    )
    protect_forms(pages)

    @pages.record_once
    def keep_messages(state: BlueprintSetupState) -> None:
        # What a button did is told by the page after it: a signed cookie that a restart may forget.
        state.app.secret_key = state.app.secret_key or secrets.token_bytes(32)
        state.app.config.update(
            SESSION_COOKIE_NAME="premask_message", SESSION_COOKIE_PATH="/dashboard", SESSION_COOKIE_SAMESITE="Strict"
        )

    @pages.get("/")
    @pages.get("")
    def projects() -> Any:
        known = jobs.store.find(limit=MAX_JOBS)
        ordered = sorted(_projects(known), key=lambda project: (len(project), project))
        return render_template("dashboard/projects.html", projects=[_summary(project, known) for project in ordered])

    @pages.get("/projects/<project>")
    def project(project: str) -> Any:
        summary = _summary(project, _jobs_of(project))
        versions, reports = summary["versions"], summary["jobs"]
        names = overview.class_names(versions, reports)
        kept = overview.kept_rows(reports)
        in_all = overview.kept_in_all(kept)
        shown = [version for version in (summary["served"], *reversed(versions)) if version and version.get("gallery")]
        return render_template(
            "dashboard/project.html",
            **summary,
            starter=STARTER,
            recent=reports[:RECENT_JOBS],
            log={job["id"]: jobs.store.log_tail(job["id"], LOG_LINES) for job in summary["active"]},
            gallery_of=shown[0] if shown else None,
            names=names,
            classes=overview.class_rows(names, summary["served"] or (versions[-1] if versions else None), reports),
            kept=kept,
            kept_in_all=in_all,
            minutes_per_mask=minutes_per_mask,
            minutes_saved=overview.minutes_saved(in_all, minutes_per_mask),
            iou_by_version=overview.iou_by_version(names, versions),
            iou_by_tasks=overview.iou_by_tasks(names, versions),
            kept_by_version=overview.kept_by_version(names, kept),
        )

    def _projects(known: Sequence[Job]) -> set[str]:
        return {*registry.projects(), *(job.project for job in known), *credentials.addresses()}

    def _jobs_of(project: str) -> list[Job]:
        """A project's jobs, newest first; raises UnknownVersion if nobody has ever heard of it."""
        known = jobs.store.find(project, limit=MAX_JOBS)
        if project not in _projects(known):
            raise UnknownVersion(
                f"project {project} is not known here; `premask connect --project {project}` introduces it"
            )
        return known

    def _summary(project: str, known: Sequence[Job]) -> dict[str, Any]:
        """What both pages say about a project, given jobs, its own among them."""
        versions = history(registry, known, project)
        reports = [job_report(job) for job in known if job.project == project]
        current = registry.current(project)
        address = credentials.addresses().get(project)
        title = next((title for job in reports if (title := job["report"].get("title"))), "")
        return {
            "id": project,
            "title": title or f"Project {project}",
            "address": address and f"{address}/projects/{project}/data",
            "versions": versions,
            "served": next((v for v in versions if current is not None and v["version"] == current.version), None),
            "answering": serving.active(project),
            "rollback_target": registry.rollback_target(project),
            "jobs": reports,
            "active": [job for job in reports if job["state"] in ACTIVE],
            "last_training": next((job for job in reports if job["kind"] == TRAINING), None),
        }

    @pages.get("/projects/<project>/versions/<version>/gallery/<name>")
    def picture(project: str, version: str, name: str) -> Any:
        # Refuses names that lead out of the folder.
        return send_from_directory(registry.version(project, version).directory / GALLERY, name)

    @pages.post("/projects/<project>/train")
    def train(project: str) -> Any:
        _jobs_of(project)
        job, joined = jobs.submit(project)
        flash(
            f"Training {job.id} {'is waiting or running already' if joined else 'is queued'}. It fetches the accepted "
            "tasks, trains, and serves the new version if that is not worse; this page shows how far it is."
        )
        return _back(project)

    @pages.post("/projects/<project>/jobs/<job>/cancel")
    def cancel(project: str, job: str) -> Any:
        kind = jobs.cancel(job).kind
        flash(
            "The training is cancelled; nothing was published, and what is served stays."
            if kind == TRAINING
            else "Pre-annotation is cancelled; those that are in Label Studio stay. Press Pre-annotate to go on."
        )
        return _back(project)

    @pages.post("/projects/<project>/versions/<version>/promote")
    def promote(project: str, version: str) -> Any:
        registry.promote(project, version)
        flash(f"{version} is served from now on. Press Pre-annotate to have the unlabelled tasks drawn by it.")
        return _back(project)

    @pages.post("/projects/<project>/rollback")
    def rollback(project: str) -> Any:
        # Pressed twice, or on an old page, it would go back further than it said.
        if request.form.get("to") != registry.rollback_target(project):
            flash("What is served has changed since this page was loaded, so nothing was done. Look again.", "error")
            return _back(project)
        info = registry.rollback(project)
        name = "The starter" if info is None else info.version
        flash(f"{name} is served again. Press Pre-annotate to have the unlabelled tasks drawn by it.")
        return _back(project)

    @pages.post("/projects/<project>/predict")
    def predict(project: str) -> Any:
        _jobs_of(project)
        _, joined = jobs.predict(project, UNLABELLED)
        flash(
            "The unlabelled tasks are being drawn already; new ones are taken in."
            if joined
            else "The unlabelled tasks are going to be drawn by the served version; those that have its masks are left."
        )
        return _back(project)

    def _back(project: str) -> Any:
        return redirect(url_for("dashboard.project", project=project), 303)

    @pages.get("/<path:elsewhere>")
    def nowhere(elsewhere: str) -> Any:
        # Otherwise the application's own answer, which is JSON.
        abort(404, f"There is no page {request.path}.")

    @pages.errorhandler(BackendError)
    def expected(error: BackendError) -> Any:
        return _error(next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500), str(error))

    @pages.errorhandler(HTTPException)
    def http(error: HTTPException) -> Any:
        response = error.get_response()  # with what belongs to the status: WWW-Authenticate, Allow ...
        page, _ = _error(error.code or 500, error.description or error.name)
        response.set_data(page)
        return response

    @pages.errorhandler(Exception)
    def unexpected(error: Exception) -> Any:
        logger.exception("%s %s failed", request.method, request.path)
        return _error(500, f"The page failed; the backend's log says more about request {REQUEST_ID.get()}.")

    def _error(status: int, text: str) -> tuple[str, int]:
        project = (request.view_args or {}).get("project")
        known = project is not None and status != 404
        back = url_for("dashboard.project", project=project) if known else url_for("dashboard.projects")
        return render_template("dashboard/error.html", status=status, text=text, back=back, known=known), status

    for name in ("figure", "change", "percent", "duration", "moment"):
        pages.add_app_template_filter(getattr(formats, name), name)
    pages.add_app_template_global(formats.seconds_between, "seconds_between")
    pages.add_app_template_global(overview.accepted_tasks, "accepted_tasks")
    pages.add_app_template_global(overview.mean_iou, "mean_iou")
    return pages
