"""`premask predict-project` and `premask jobs`: predictions for whole projects, and the jobs of the backend."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from backend.cli.output import json_option, progress_bar, table_console, write_json
from backend.errors import JobError
from backend.settings import Settings

if TYPE_CHECKING:  # loading them takes longer than `--help` should
    from backend.database.jobs import Job
    from backend.jobs.queue import JobQueue
    from backend.jobs.running import Runner

POLL_SECONDS = 0.5


@click.command("predict-project")
@click.option("--url", envvar="LABEL_STUDIO_URL", show_envvar=True, required=True, help="Label Studio's address.")
@click.option(
    "--api-key", envvar="LABEL_STUDIO_API_KEY", show_envvar=True, required=True, help="Token of a Label Studio user."
)
@click.option("--project", required=True, type=int, help="Label Studio's project id.")
@click.option(
    "--all/--unlabelled", "all_tasks", default=True, help="Every task (the default), or those not labelled yet."
)
@json_option
def predict_project(url: str, api_key: str, project: int, all_tasks: bool, json_file: Path | None) -> None:
    """Predict a project's tasks with its served version and store the predictions in Label Studio.

    Tasks that have a prediction of that version are passed over, so it may be interrupted and run again. It is a job
    like those of the backend: where that runs on the same data folder, it shows it, and goes on with it after a crash.
    """
    from backend.database.leases import ALL, UNLABELLED
    from backend.entrypoints.worker import build_runner
    from backend.jobs.queue import JobQueue
    from backend.label_studio.client import LabelStudio
    from backend.system.logs import configure_logging
    from backend.wiring import assemble

    # The job's process reads them there.
    os.environ.update(LABEL_STUDIO_URL=url, LABEL_STUDIO_API_KEY=api_key)
    settings = Settings.from_environ(os.environ)
    configure_logging("ERROR", settings.log_format, settings.secrets)
    LabelStudio(url, api_key).project(project)  # a wrong address or key is better said at once
    parts = assemble(settings)
    queue = JobQueue(parts.store, parts.leases, parts.queues)
    job = run_prediction(queue, build_runner(settings, parts), str(project), ALL if all_tasks else UNLABELLED)
    write_json(json_file, {"project": str(project), "job": job.id, "state": job.state, **job.report})
    if job.state != "done":
        raise JobError(job.reason)
    click.echo(job.message)


def run_prediction(queue: JobQueue, runner: Runner, project: str, tasks: str) -> Job:
    """Run a prediction job of a project in this process, beside the workers that help it; returns it at its end.

    Args:
        queue: of jobs.
        runner: runs the job.
        project: Label Studio's project id.
        tasks: "all" or "unlabelled".

    Raises:
        JobError: it was interrupted by Ctrl-C, which cancels the job.
    """
    from backend.database.jobs import FINISHED, PREDICTION
    from backend.jobs.worker import worker_name

    store = queue.store
    queue.leases.request(project, [tasks])
    job, is_new = store.submit(PREDICTION, project)
    if not is_new and job.state != "queued":
        click.echo(f"job {job.id} is at it already; this process helps", err=True)
    me = worker_name()
    thread = threading.Thread(target=runner.help, args=(me, job.id))
    thread.start()
    try:
        with progress_bar(f"project {project}") as move:
            while (job := store.get(job.id)).state not in FINISHED:
                move(job.figures.get("done", 0), job.figures.get("total", 0), job.message.partition(": ")[2])
                if not thread.is_alive():  # its process was killed, or others do the rest
                    runner.recover(me)
                    thread = threading.Thread(target=runner.help, args=(me, job.id))
                    thread.start()
                runner.shares.beat(me)
                thread.join(POLL_SECONDS)
                if not thread.is_alive():
                    time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        queue.cancel(job.id)
        thread.join()
        raise JobError(f"stopped after {job.figures.get('done', 0)} tasks; run it again to go on") from None
    return job


@click.group()
def jobs() -> None:
    """Look at jobs, and cancel them."""


@jobs.command("list")
@click.option("--project", help="Only of this project.")
@json_option
def list_jobs(project: str | None, json_file: Path | None) -> None:
    """List jobs, newest first."""
    from backend.web.reports import job_report

    reports = [job_report(job) for job in _queue().store.find(project)]
    table = Table(Column("job", no_wrap=True), "kind", "project", "state", "progress", Column("", overflow="fold"))
    for report in reports:
        says = report["reason"] if report["state"] == "failed" else report["message"]
        progress = f"{report['progress']:.0%}"
        table.add_row(report["id"], report["kind"], report["project"], report["state"], progress, says)
    if reports:
        table_console().print(table)
    else:
        click.echo("there are no jobs")
    write_json(json_file, {"jobs": reports})


@jobs.command()
@click.argument("job")
@json_option
def show(job: str, json_file: Path | None) -> None:
    """Show one job with the end of its log."""
    from backend.web.reports import job_report

    store = _queue().store
    report = job_report(store.get(job)) | {"log": store.log_tail(job)}
    click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    write_json(json_file, report)


@jobs.command()
@click.argument("job")
@json_option
def cancel(job: str, json_file: Path | None) -> None:
    """End a waiting or running job."""
    ended = _queue().cancel(job)
    click.echo(f"job {ended.id} is {ended.state}")
    write_json(json_file, {"job": ended.id, "state": ended.state})


def _queue() -> JobQueue:
    from backend.jobs.queue import JobQueue
    from backend.wiring import assemble

    parts = assemble(Settings.from_environ(os.environ))
    return JobQueue(parts.store, parts.leases, parts.queues)
