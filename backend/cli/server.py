"""`premask serve`, `worker`, `connect` and `versions`: running the backend."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Column, Table

from backend.cli.device import Device
from backend.cli.output import figure, json_option, table_console, write_json
from backend.settings import Settings

if TYPE_CHECKING:
    from backend.versions.registry import Registry

project_option = click.option("--project", required=True, help="Label Studio's project id.")


@click.command()
@click.option("--host", help="Address to listen on; otherwise PREMASK_HOST or 127.0.0.1.")
@click.option("--port", help="Port to listen on; otherwise PREMASK_PORT or 9090.")
@click.option("--worker/--no-worker", "with_worker", default=True, help="Without one, run `premask worker` elsewhere.")
@json_option
def serve(host: str | None, port: str | None, with_worker: bool, json_file: Path | None) -> None:
    """Run the backend with its job worker until Ctrl-C or SIGTERM; SIGHUP takes up changed code without a gap."""
    from backend.entrypoints.supervisor import WORKER, Supervisor
    from backend.jobs.queue import close
    from backend.system.logs import configure_logging
    from backend.system.ports import url_of
    from backend.wiring import assemble

    given = {"PREMASK_HOST": host, "PREMASK_PORT": port}
    environ = {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    settings = Settings.from_environ(environ)
    configure_logging(settings.log_level, settings.log_format, settings.secrets)
    # What cannot be used is told once, by this process, and nothing is started.
    parts = assemble(settings)
    parts.database.close()
    close(parts.queues)
    url = url_of(settings.host, settings.port)
    supervisor = Supervisor(settings, environ, worker=WORKER if with_worker else None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    signal.signal(signal.SIGHUP, lambda *_: supervisor.reload())

    def ready(server: int, worker: int | None) -> None:
        click.echo(f"premask serves at {url} and keeps its data in {settings.data_dir}; Ctrl-C stops it")
        write_json(json_file, {"url": url, "server": server, "worker": worker})

    supervisor.run(ready)


@click.command()
@click.option(
    "--device", type=Device(), help="In place of PREMASK_DEVICE: run a worker for each GPU, cuda:0, cuda:1 ..."
)
def worker(device: str | None) -> None:
    """Run a job worker alone, beside others that share the same data folder, or the same PostgreSQL and models."""
    from backend.entrypoints.worker import main

    if device is not None:
        os.environ["PREMASK_DEVICE"] = device  # the processes of its jobs read it there

    sys.exit(main(os.environ))


@click.command()
@click.option("--url", envvar="LABEL_STUDIO_URL", show_envvar=True, required=True, help="Label Studio's address.")
@click.option(
    "--api-key", envvar="LABEL_STUDIO_API_KEY", show_envvar=True, required=True, help="Token of a Label Studio user."
)
@project_option
@click.option(
    "--backend-url",
    default="http://127.0.0.1:9090",
    show_default=True,
    help="This backend's address as Label Studio's own machine or container reaches it.",
)
@click.option("--backend-user", envvar="PREMASK_BASIC_AUTH_USER", show_envvar=True, help="If the backend asks for it.")
@click.option("--backend-password", envvar="PREMASK_BASIC_AUTH_PASSWORD", show_envvar=True, help="As above.")
@click.option(
    "--webhook-token",
    envvar="PREMASK_WEBHOOK_TOKEN",
    show_envvar=True,
    help="Webhooks send it instead of the password.",
)
@click.option("--public-url", envvar="PREMASK_PUBLIC_URL", show_envvar=True, help="Where people open it, if elsewhere.")
@click.option(
    "--min-accepted",
    envvar="PREMASK_MIN_ACCEPTED",
    show_envvar=True,
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Accepted tasks that the backend asks for before a first training.",
)
@click.option(
    "--status-label",
    is_flag=True,
    help="Add a text to the labelling config that tells annotators why a task they open has no masks.",
)
@json_option
def connect(
    url: str,
    api_key: str,
    project: str,
    backend_url: str,
    backend_user: str | None,
    backend_password: str | None,
    webhook_token: str | None,
    public_url: str | None,
    min_accepted: int,
    status_label: bool,
    json_file: Path | None,
) -> None:
    """Register the backend with a Label Studio project and say what Label Studio must allow."""
    from backend.label_studio.client import LabelStudio
    from backend.label_studio.connect import connect as register
    from backend.system.login import Login

    if (backend_user is None) != (backend_password is None):
        raise click.UsageError("--backend-user and --backend-password go together: give both or neither")
    login = Login(backend_user, backend_password, webhook_token) if backend_user and backend_password else None
    connected = register(
        LabelStudio(url, api_key),
        project,
        backend_url,
        click.echo,
        login=login,
        needed=min_accepted,
        dashboard=public_url,
        status_label=status_label,
    )
    write_json(json_file, asdict(connected))


@click.group()
def versions() -> None:
    """Look at a project's model versions, and choose which is served."""


@versions.command("list")
@click.option("--project", help="Label Studio's project id; all projects if omitted.")
@json_option
def list_versions(project: str | None, json_file: Path | None) -> None:
    """List the versions of a project, or of all, oldest first."""
    from backend.web.reports import version_report

    registry = _registry()
    projects = registry.projects() if project is None else [project]
    reports = [version_report(info) for one in projects for info in registry.versions(one)]
    table = Table(Column("version", no_wrap=True), "state", "created", "mean IoU", Column("classes", overflow="fold"))
    for report in reports:
        iou = (report.get("metrics") or {}).get("mean_iou")
        classes = ", ".join(report.get("classes") or [report.get("error", "")])
        table.add_row(report["version"], report["state"], report.get("created", ""), figure(iou), classes)
    if reports:
        table_console().print(table)
    else:
        none = "no project has" if project is None else f"project {project} has"
        click.echo(
            f"{none} {'a version' if project is None else 'no version'} of its own in {registry.store.name} yet: press "
            "Start Training in Label Studio"
        )
    write_json(json_file, {"project": project, "versions": reports})


@versions.command()
@project_option
@click.argument("version")
@json_option
def show(project: str, version: str, json_file: Path | None) -> None:
    """Show what is known of one version."""
    from backend.web.reports import version_report

    report = version_report(_registry().version(project, version))
    click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    write_json(json_file, report)


@versions.command()
@project_option
@click.argument("version")
@json_option
def promote(project: str, version: str, json_file: Path | None) -> None:
    """Serve a version from now on; a running server takes it up by itself."""
    info = _registry().promote(project, version)
    click.echo(f"project {project} is served {info.version} from now on")
    write_json(json_file, {"project": project, "current": info.version})


@versions.command()
@project_option
@json_option
def rollback(project: str, json_file: Path | None) -> None:
    """Serve what was served before the current version."""
    info = _registry().rollback(project)
    click.echo(f"project {project} is served {info.version if info else 'the starter'} from now on")
    write_json(json_file, {"project": project, "current": info.version if info else None})


def _registry() -> Registry:
    from backend.database.opening import open_database
    from backend.versions.opening import open_registry

    settings = Settings.from_environ(os.environ)
    return open_registry(settings, open_database(settings)[0])
