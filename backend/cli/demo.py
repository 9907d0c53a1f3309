"""`premask demo`: what `make run` calls."""

import os
import sys
from pathlib import Path

import click
from rich.console import Console

from backend.demo.run import Options, run


@click.command()
@click.option("--port", default=9090, show_default=True, help="Port of the backend.")
@click.option("--label-studio-port", default=8080, show_default=True, help="Port of Label Studio.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("premask-data"),
    show_default=True,
    help="Folder that keeps everything; a second run with it resumes.",
)
@click.option(
    "--label-studio",
    type=click.Path(path_type=Path),
    default=Path(".venv-label-studio/bin/label-studio"),
    show_default=True,
    help="Label Studio's command, in an environment of its own.",
)
@click.option("--no-wait", is_flag=True, help="Stop everything after the summary.")
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path), help="Write the summary here.")
def demo(port: int, label_studio_port: int, data: Path, label_studio: Path, no_wait: bool, report: Path | None) -> None:
    """Start Label Studio and the backend with a sample project, show what was drawn, stay until Ctrl-C."""
    # Everything is on this machine, where a proxy cannot reach: neither from here nor from the backend.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))
    ready = run(
        Options(data, port, label_studio_port, label_studio, os.environ), Console(), wait=not no_wait, report=report
    )
    if not ready:
        sys.exit(130)  # as a shell reports a command that Ctrl-C ended
