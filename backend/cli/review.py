"""`premask review`: accepted tasks that are worth a second look."""

from __future__ import annotations

import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from backend.cli.output import figure, json_option, progress_bar, table_console, write_json
from backend.errors import JobError
from backend.settings import Settings

if TYPE_CHECKING:  # loading them takes longer than `--help` should
    from backend.database.jobs import Job, JobStore
    from backend.jobs.running import Runner

POLL_SECONDS = 0.5


@click.command()
@click.option("--project", required=True, help="Label Studio's project id.")
@click.option("--look", is_flag=True, help="Compare all accepted tasks with models that have not learnt them, first.")
@click.option("--fine", multiple=True, metavar="TASK", help="Nothing is wrong with it: it leaves the queue.")
@json_option
def review(project: str, look: bool, fine: tuple[str, ...], json_file: Path | None) -> None:
    """List the accepted tasks of a project that are worth a second look, the likeliest errors first.

    Likely misses, wrong labels and masks that differ: a model that has not learnt the annotation sees something else.
    """
    from backend.system.logs import configure_logging
    from backend.wiring import assemble

    settings = Settings.from_environ(os.environ)
    configure_logging("ERROR", settings.log_format, settings.secrets)
    parts = assemble(settings)
    for task in fine:
        parts.reviews.fine(project, task)
        click.echo(f"task {task} is fine and has left the queue")
    if look:
        from backend.entrypoints.worker import build_runner

        job = run_review(parts.store, build_runner(settings, parts), project)
        if job.state != "done":
            raise JobError(job.reason)
        click.echo(job.message)
    waiting = parts.reviews.waiting(project)
    table = Table(Column("task", no_wrap=True), "kind", "suspicion", Column("reason", overflow="fold"), "compared with")
    for doubt in waiting:
        reason = f"{doubt.image}: {doubt.sentence}" if doubt.image else doubt.sentence
        compared = f"{doubt.version}, which has learnt it" if doubt.learnt else doubt.version
        table.add_row(doubt.task, doubt.kind, figure(doubt.suspicion, 2), reason, compared)
    if waiting:
        table_console().print(table)
    else:
        click.echo(f"no task of project {project} is queued; --look compares its accepted tasks")
    write_json(json_file, {"project": project, "tasks": [asdict(doubt) for doubt in waiting]})


def run_review(store: JobStore, runner: Runner, project: str) -> Job:
    """Run a review job of a project in this process, or follow the one that a worker runs; returns it at its end."""
    from backend.database.jobs import FINISHED, REVIEW
    from backend.jobs.worker import worker_name

    job, _ = store.submit(REVIEW, project)
    thread = threading.Thread(target=runner.run, args=(job.id, worker_name()))
    thread.start()
    try:
        with progress_bar(f"project {project}") as move:
            while (job := store.get(job.id)).state not in FINISHED and (thread.is_alive() or job.state != "queued"):
                move(job.figures.get("done", 0), job.figures.get("total", 0), job.message)
                thread.join(POLL_SECONDS)
    except KeyboardInterrupt:
        store.cancel(job.id)
        thread.join()
        raise JobError("stopped; the queue is as it was") from None
    if job.state == "queued":
        raise JobError(f"the review of project {project} was interrupted: {job.reason}; run it again")
    return job
