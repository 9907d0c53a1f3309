"""`premask inspect`: what premask makes of a source, before anything is trained on it."""

import os
import tempfile
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from backend.cli.data import FOLDER
from backend.cli.output import json_option, progress_bar, table_console, write_json
from backend.errors import BackendError
from backend.sources.inspection import Inspection, Progress, inspect_data_folder, inspect_source
from models.errors import DataError

MAX_ROWS = 40  # of the table; the JSON has all


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="A data folder, an export (file, folder or archive), or images without labels.",
)
@click.option("--project", help="Instead: Label Studio's project id, read as its next training will.")
@click.option("--images", type=FOLDER, help="Where the images of an export are, if not beside it.")
@click.option(
    "--pictures",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write the images to, as the networks see them.",
)
@click.option("--skip-bad", is_flag=True, help="For a training with --skip-bad: what is left out does not stop it.")
@json_option
def inspect(
    data: Path | None,
    project: str | None,
    images: Path | None,
    pictures: Path | None,
    skip_bad: bool,
    json_file: Path | None,
) -> None:
    """Show what premask reads in a source: images, classes, masks, splits, and what is left out and why."""
    if (data is None) == (project is None):
        raise click.UsageError("give either --data or --project")
    if project is not None and not project.isdigit():
        raise click.BadParameter(f"expected a number such as 3, got {project!r}", param_hint="--project")
    with progress_bar("inspecting") as move:

        def progress(done: int, total: int, text: str) -> None:
            move(done, total, text)

        try:
            if data is not None:
                found = inspect_source(data, images=images, pictures=pictures, progress=progress)
            else:
                found = _inspect_project(str(project), pictures, progress)
        except OSError as error:
            raise DataError(f"{data or 'the project'} cannot be read: {error}") from error
    if found.left_out and not skip_bad:
        found.notes.append("premask train stops at images that do not fit unless it is given --skip-bad")
    _print(found)
    write_json(json_file, found.as_json())


def _inspect_project(project: str, pictures: Path | None, progress: Progress) -> Inspection:
    """A project's accepted annotations, read as a training reads them.

    Raises:
        BackendError: Label Studio cannot be reached, or no task has an accepted annotation.
    """
    from backend.label_studio.annotations import write_data_folder
    from backend.label_studio.label_config import parse_label_config
    from backend.label_studio.task_data import group_field
    from backend.settings import Settings
    from backend.wiring import assemble

    settings = Settings.from_environ(os.environ)
    connections = assemble(settings).connections
    client = connections.client(project)
    config = parse_label_config(client.project(project)["label_config"])
    tasks = client.export(project)
    field = group_field((task.get("data") for task in tasks), settings.group_field)
    with tempfile.TemporaryDirectory(prefix="premask-") as temporary:
        out = Path(temporary) / "data"
        report = write_data_folder(tasks, config, connections.images(project), out, group_field=field)
        if not report.used:
            raise BackendError(f"project {project} has nothing to learn from: {report.text}")
        return inspect_data_folder(out, "project", notes=report.text.splitlines(), pictures=pictures, progress=progress)


def _print(found: Inspection) -> None:
    """The inspection for people: an image a line, then sentences."""
    table = Table(box=SIMPLE_HEAD, title=f"{found.kind}: {len(found.images)} images")
    for column in ("image", "size", "classes (pixels of the mask; ? unknown)", "group"):
        table.add_column(column, overflow="fold")
    for image in found.images[:MAX_ROWS]:
        named = [
            f"{label} {image['masks'][label]['pixels']}"
            if label in image["masks"]
            else f"{label}{'?' * (known is None)}"
            for label, known in image["presence"].items()
            if known is not False
        ]
        cells = image["name"], f"{image['width']}x{image['height']}", ", ".join(named), image["group"] or ""
        table.add_row(*(escape(cell) for cell in cells))
    console = table_console()
    console.print(table)
    if len(found.images) > MAX_ROWS:
        click.echo(f"... and {len(found.images) - MAX_ROWS} more images; --json has all")
    for side, names in found.splits.items():
        click.echo(f"{side}: {len(names)} images")
    for note in found.notes:
        click.echo(note)
    for row in found.left_out[:MAX_ROWS]:
        click.echo(f"Left out: {row.what}: {row.why}")
    if len(found.left_out) > MAX_ROWS:
        click.echo(f"... and {len(found.left_out) - MAX_ROWS} more left out; --json has all")
