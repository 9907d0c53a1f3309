"""`premask database`: from one machine's file to a PostgreSQL for several."""

from __future__ import annotations

import os
from pathlib import Path

import click

from backend.cli.output import json_option, progress_bar, write_json
from backend.errors import SettingsError
from backend.settings import Settings


@click.group()
def database() -> None:
    """Carry jobs, leases, versions and tokens from the data folder's file into a PostgreSQL."""


@database.command()
@click.option("--to", "url", metavar="URL", help="An empty PostgreSQL; PREMASK_DATABASE_URL if omitted.")
@json_option
def copy(url: str | None, json_file: Path | None) -> None:
    """Copy the database in the data folder into an empty PostgreSQL, all of it or nothing.

    Stop server and workers first; while one of them uses the file nothing is copied. The file stays as it is.
    Afterwards start them with PREMASK_DATABASE_URL.
    """
    from backend.database.copying import copy_database
    from backend.database.engine import Database
    from backend.database.opening import FILE
    from backend.database.vault import KEY_FILE
    from backend.system.logs import configure_logging

    settings = Settings.from_environ(os.environ | ({} if url is None else {"PREMASK_DATABASE_URL": url}))
    configure_logging("ERROR", settings.log_format, settings.secrets)
    if settings.database_url is None:
        raise SettingsError("no PostgreSQL is named", "name one by --to or PREMASK_DATABASE_URL")
    target = Database.postgresql(settings.database_url.get_secret_value())
    with progress_bar("copy") as move:
        rows = copy_database(
            settings.data_dir / FILE, target, lambda table, done, all_: move(done, all_, "rows", table)
        )
    name = target.name
    target.close()
    write_json(json_file, {"database": name, "rows": rows})
    click.echo(f"{sum(rows.values())} rows of {settings.data_dir / FILE} are in the database {name}")
    if settings.secret_key is None:
        click.echo(
            f"tokens are encrypted with {settings.data_dir / KEY_FILE}: other data folders need its text as "
            "PREMASK_SECRET_KEY"
        )
