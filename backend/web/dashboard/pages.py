"""The dashboard: pages that read reports.

GET  /dashboard                  every project
GET  /dashboard/projects/ID      one of them; below it versions/VERSION/gallery/FILE, the pictures, and review, the
                                 accepted tasks that are worth a second look
POST /dashboard/projects/ID/...  see `backend.web.dashboard.buttons`
"""

from io import BytesIO
from typing import Any

from flask import Blueprint, abort, render_template, request, send_file, url_for
from flask.typing import ResponseReturnValue

from backend.database.credentials import Credentials
from backend.database.jobs import ACTIVE, REVIEW
from backend.database.reviews import Reviews
from backend.jobs.outlook import Outlooks
from backend.jobs.queue import JobQueue
from backend.versions.registry import STARTER, Registry
from backend.versions.serving import Serving
from backend.web.dashboard import formats, overview
from backend.web.dashboard.buttons import add_buttons
from backend.web.dashboard.projects import Projects
from backend.web.responses import answer_errors
from backend.web.security import protect_forms

LOG_LINES = 12
RECENT_JOBS = 8
MAX_DOUBTS = 100  # tasks on one page
GALLERY = "gallery"  # folder of a checkpoint


def dashboard(
    registry: Registry,
    serving: Serving,
    jobs: JobQueue,
    credentials: Credentials,
    reviews: Reviews,
    minutes_per_mask: float | None,
    outlooks: Outlooks | None = None,
    form_key: bytes | None = None,
) -> Blueprint:
    """The pages as a blueprint.

    Args:
        registry: model versions.
        serving: which of them answer right now.
        jobs: the job queue.
        credentials: knows the projects that have called, and where people find them.
        reviews: accepted tasks that are worth a second look.
        minutes_per_mask: minutes of drawing a mask by hand; None, and no saving is shown.
        outlooks: what was accepted since the served version; None, and nothing is shown of it.
        form_key: signs the pages' forms, as in `protect_forms`.
    """
    pages = Blueprint(
        "dashboard", __name__, url_prefix="/dashboard", template_folder="templates", static_folder="static"
    )
    protect_forms(pages, form_key)
    answer_errors(pages, _error_page, "text/html; charset=utf-8")
    _add_formats(pages)
    projects = Projects(registry, serving, jobs, credentials, outlooks)
    add_buttons(pages, projects, registry, jobs, reviews, outlooks)

    @pages.get("/")
    @pages.get("")
    def index() -> ResponseReturnValue:
        return render_template("dashboard/projects.html", projects=projects.summaries())

    @pages.get("/projects/<project>")
    def project(project: str) -> ResponseReturnValue:
        summary = projects.summary(project)
        log = {job["id"]: jobs.store.log_tail(job["id"], LOG_LINES) for job in summary["active"]}
        shown = {"log": log, "outlooks_known": outlooks is not None, "review": reviews.waiting(project)}
        return render_template("dashboard/project.html", **summary, **shown, **_figures(summary, minutes_per_mask))

    @pages.get("/projects/<project>/review")
    def review(project: str) -> ResponseReturnValue:
        summary = projects.summary(project)
        names = overview.class_names(summary["versions"], summary["jobs"])
        colours = overview.colours(names, summary["outlook"], summary["jobs"])
        looked = next((job for job in summary["jobs"] if job["kind"] == REVIEW and job["state"] == "done"), None)
        doubts = reviews.waiting(project)
        shown = {"doubts": doubts[:MAX_DOUBTS], "more": max(len(doubts) - MAX_DOUBTS, 0), "looked": looked}
        return render_template("dashboard/review.html", **summary, **shown, names=names, colours=colours)

    @pages.get("/projects/<project>/versions/<version>/gallery/<name>")
    def picture(project: str, version: str, name: str) -> ResponseReturnValue:
        info, file = registry.version(project, version), f"{GALLERY}/{name}"
        content = info.read(file)  # raises for a name that is no file of the version, wherever it would lead
        return send_file(BytesIO(content), download_name=name, etag=info.files[file].sha256)

    @pages.get("/<path:elsewhere>")
    def nowhere(elsewhere: str) -> ResponseReturnValue:
        # Otherwise the application's own answer, which is JSON.
        abort(404, f"There is no page {request.path}.")

    return pages


def _figures(summary: dict[str, Any], minutes_per_mask: float | None) -> dict[str, Any]:
    """The tables and charts of a project's page."""
    versions, reports = summary["versions"], summary["jobs"]
    names = overview.class_names(versions, reports)
    kept = overview.kept_rows(reports)
    outlook = summary["outlook"]
    in_all = overview.kept_in_all(kept)
    shown = [version for version in (summary["served"], *reversed(versions)) if version and version.get("gallery")]
    return {
        "starter": STARTER,
        "recent": [job for job in reports if job["state"] not in ACTIVE][:RECENT_JOBS],
        "gallery_of": shown[0] if shown else None,
        "compared": overview.compared(versions),
        "names": names,
        "colours": overview.colours(names, outlook, reports),
        "gain": overview.expected_gain(versions, outlook.new) if outlook else None,
        "annotators": overview.annotator_rows(reports),
        "kept_by_class": overview.kept_by_class(names, kept),
        "classes": overview.class_rows(names, summary["served"] or (versions[-1] if versions else None), reports),
        "kept": kept,
        "kept_in_all": in_all,
        "minutes_per_mask": minutes_per_mask,
        "minutes_saved": overview.minutes_saved(in_all, minutes_per_mask),
        "iou_by_version": overview.iou_by_version(names, versions),
        "iou_by_tasks": overview.iou_by_tasks(names, versions),
        "kept_by_version": overview.kept_by_version(names, kept),
    }


def _error_page(status: int, text: str) -> str:
    project = (request.view_args or {}).get("project")
    known = project is not None and status != 404
    back = url_for("dashboard.project", project=project) if known else url_for("dashboard.index")
    return render_template("dashboard/error.html", status=status, text=text, back=back, known=known)


def _add_formats(pages: Blueprint) -> None:
    for name in ("figure", "change", "percent", "duration", "time_left", "moment", "age"):
        pages.add_app_template_filter(getattr(formats, name), name)
    pages.add_app_template_global(formats.seconds_between, "seconds_between")
    pages.add_app_template_global(overview.standing, "standing")
    pages.add_app_template_global(overview.doubts, "doubts")
    pages.add_app_template_global(overview.minutes_saved, "saved")
    pages.add_app_template_global(overview.accepted_tasks, "accepted_tasks")
    pages.add_app_template_global(overview.mean_iou, "mean_iou")
