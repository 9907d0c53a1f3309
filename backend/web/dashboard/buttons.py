"""The buttons of the pages: each does one thing and comes back with a message.

POST /dashboard/projects/ID/...  train, predict, rollback, versions/VERSION/promote, jobs/ID/cancel, review,
                                 review/TASK/fine
"""

from flask import Blueprint, abort, flash, redirect, request, url_for
from flask.typing import ResponseReturnValue

from backend.database.jobs import PREDICTION, REVIEW, TRAINING
from backend.database.leases import UNLABELLED
from backend.database.reviews import Reviews
from backend.errors import UnknownTask
from backend.jobs.outlook import Outlook, Outlooks
from backend.jobs.queue import JobQueue
from backend.label_studio.readiness import too_few
from backend.versions.registry import Registry
from backend.web.dashboard.projects import Projects

CANCELLED = {
    TRAINING: "The training is cancelled; nothing was published, and what is served stays.",
    PREDICTION: "Pre-annotation is cancelled; those that are in Label Studio stay. Press Pre-annotate to go on.",
    REVIEW: "The review is cancelled; the queue is as it was.",
}


def add_buttons(
    pages: Blueprint,
    projects: Projects,
    registry: Registry,
    jobs: JobQueue,
    reviews: Reviews,
    outlooks: Outlooks | None = None,
) -> None:
    """Add the routes to the pages."""

    def outlook(project: str) -> Outlook | None:
        """What there is to learn right now."""
        if outlooks is None:
            return None
        outlooks.forget(project)
        found = outlooks.of(project)
        return None if found is None or found.problem else found

    @pages.post("/projects/<project>/train")
    def train(project: str) -> ResponseReturnValue:
        projects.jobs_of(project)
        known = outlook(project)
        if known is not None and known.accepted < known.needed:
            flash(f"Nothing was begun: {too_few(project, known.accepted, known.needed)}.", "error")
            return back(project)
        job, joined = jobs.submit(project)
        flash(
            f"Training {job.id} {'is waiting or running already' if joined else 'is queued'}. It fetches the accepted "
            "tasks and trains. The new version is served if enough corrected tasks say that it helps; otherwise it is "
            "a candidate, and this page says what is missing."
        )
        return back(project)

    @pages.post("/projects/<project>/jobs/<job>/cancel")
    def cancel(project: str, job: str) -> ResponseReturnValue:
        kind = jobs.cancel(job).kind
        flash(CANCELLED[kind])
        return back(project)

    @pages.post("/projects/<project>/versions/<version>/promote")
    def promote(project: str, version: str) -> ResponseReturnValue:
        registry.promote(project, version)
        outlook(project)
        flash(f"{version} is served from now on. Press Pre-annotate to have it predict the unlabelled tasks.")
        return back(project)

    @pages.post("/projects/<project>/rollback")
    def rollback(project: str) -> ResponseReturnValue:
        # Pressed twice, or on an old page, it would go back further than it said.
        if request.form.get("to") != registry.rollback_target(project):
            flash("What is served has changed since this page was loaded, so nothing was done. Look again.", "error")
            return back(project)
        info = registry.rollback(project)
        known = outlook(project)
        if info is not None:
            name: str | None = info.version
        elif outlooks is None:
            name = "The starter"
        else:  # whether the starter knows the classes is not known while Label Studio does not answer
            name = known.served if known is not None else None
        if name is None:
            flash(f"No version is served any more. {known.sentence}." if known else "No version is served any more.")
            return back(project)
        flash(f"{name} is served again. Press Pre-annotate to have it predict the unlabelled tasks.")
        return back(project)

    @pages.post("/projects/<project>/review")
    def look(project: str) -> ResponseReturnValue:
        projects.jobs_of(project)
        _, joined = jobs.submit(project, REVIEW)
        flash(
            "Accepted tasks are being looked at already."
            if joined
            else "A job looks at all accepted tasks; those that are worth a second look are listed when it is done."
        )
        return redirect(url_for("dashboard.review", project=project), 303)

    # A converter in the address would leave other texts to the page that says "There is no page", which takes no post.
    @pages.post("/projects/<project>/review/<task>/fine")
    def fine(project: str, task: str) -> ResponseReturnValue:
        projects.jobs_of(project)
        if not (task.isascii() and task.isdigit()):
            abort(404, f"There is no task {task!r}: expected a number.")
        try:
            reviews.fine(project, task)
            flash(f"Task {task} is fine; it comes back only if its annotations change.")
        except UnknownTask:
            flash(f"Task {task} had left the queue already.")
        return redirect(url_for("dashboard.review", project=project), 303)

    @pages.post("/projects/<project>/predict")
    def predict(project: str) -> ResponseReturnValue:
        projects.jobs_of(project)
        known = outlook(project)
        if known is not None and known.served is None:
            flash(f"Nothing was begun: there is no model to pre-annotate with. {known.sentence}.", "error")
            return back(project)
        _, joined = jobs.predict(project, UNLABELLED)
        flash(
            "The unlabelled tasks are being pre-annotated already; new ones are taken in."
            if joined
            else "Pre-annotation is queued: the served version predicts the unlabelled tasks that lack its masks."
        )
        return back(project)


def back(project: str) -> ResponseReturnValue:
    """To the project's page."""
    return redirect(url_for("dashboard.project", project=project), 303)
