"""`premask doctor`: is everything there?"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from backend.cli.output import json_option, write_json
from backend.diagnosis.checks import BROKEN, DOUBTFUL, FINE, Check, data_folder
from backend.diagnosis.doctor import examine
from backend.errors import BackendError, DatabaseError, SettingsError
from backend.settings import Settings
from backend.wiring import assemble

MARKS = {FINE: "[green]ok[/]", DOUBTFUL: "[yellow]look[/]", BROKEN: "[red]BROKEN[/]"}


@click.command()
@click.option("--project", help="Label Studio's project id: look at its backend, its webhook and an image too.")
@click.option("--fetch", is_flag=True, help="Compare the checksums of served versions in a bucket, too: fetches them.")
@json_option
def doctor(project: str | None, fetch: bool, json_file: Path | None) -> None:
    """Look at everything the backend needs and say the remedy for what it lacks; exit code 1 if something is broken."""
    if project is not None and not project.isdigit():
        raise click.BadParameter(f"expected a number such as 3, got {project!r}", param_hint="--project")
    console, seen = Console(), list[Check]()
    try:
        settings = Settings.from_environ(os.environ)
    except SettingsError as error:
        seen = [Check("settings", BROKEN, line.strip(), "") for line in str(error).splitlines()[1:]]
    else:
        seen.append(Check("settings", FINE, "can be used"))
    for check in seen:
        _show(console, check)
    if seen[0].state == FINE:
        for check in _looks(settings, project, fetch):
            seen.append(check)
            _show(console, check)
    broken = [check.name for check in seen if check.state == BROKEN]
    console.print(f"Broken: {', '.join(broken)}" if broken else "Nothing is broken.", highlight=False, soft_wrap=True)
    write_json(json_file, {"broken": len(broken), "checks": [check.report() for check in seen]})
    sys.exit(1 if broken else 0)


def _looks(settings: Settings, project: str | None, fetch: bool) -> Iterator[Check]:
    try:
        parts = assemble(settings)
    except BackendError as error:  # nothing else can be looked at without these parts
        yield data_folder(settings.data_dir)
        name = "database" if isinstance(error.__cause__, DatabaseError) else "start"
        yield Check(name, BROKEN, error.cause, error.remedy)
    else:
        yield from examine(settings, parts, project, fetch=fetch)


def _show(console: Console, check: Check) -> None:
    console.print(f"{MARKS[check.state]} {escape(check.name)}: {escape(check.found)}", highlight=False, soft_wrap=True)
    if check.remedy:
        console.print(f"    {escape(check.remedy)}", highlight=False, soft_wrap=True)
