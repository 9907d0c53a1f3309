"""`premask import`: pullbacks, films and folders of images as tasks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from backend.cli.output import Number, json_option, progress_bar, write_json
from backend.settings import Settings


class BoxType(click.ParamType[tuple[int, ...]]):
    """X0,Y0,X1,Y1 in pixels."""

    name = "X0,Y0,X1,Y1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """As four numbers; wrong ones are wrong usage."""
        from backend.pullbacks.run import parse_box

        try:
            return value if isinstance(value, tuple) else parse_box(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("import")
@click.argument(
    "pullbacks", nargs=-1, required=True, metavar="PULLBACK...", type=click.Path(exists=True, path_type=Path)
)
@click.option("--url", envvar="LABEL_STUDIO_URL", show_envvar=True, help="Label Studio's address.")
@click.option("--api-key", envvar="LABEL_STUDIO_API_KEY", show_envvar=True, help="Token of a Label Studio user.")
@click.option("--project", type=int, help="Label Studio's project id: the tasks are created there.")
@click.option(
    "--storage",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the images and tasks.json into this folder instead of uploading.",
)
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Take one frame of so many.")
@click.option("--series", default="", help="Name of the series instead of a pseudonym.")
@click.option("--patient", default="", help="The patient of all of them, for files that do not say.")
@click.option("--mm-per-pixel", type=Number(min=0, min_open=True), help="For files that do not say.")
@click.option("--keep-names", is_flag=True, help="Patients and file names as they are, no pseudonyms.")
@click.option("--black-out", type=BoxType(), multiple=True, help="Make a box of every frame black; may be repeated.")
@json_option
def import_(
    pullbacks: tuple[Path, ...],
    url: str | None,
    api_key: str | None,
    project: int | None,
    storage: Path | None,
    every: int,
    series: str,
    patient: str,
    mm_per_pixel: float | None,
    keep_names: bool,
    black_out: tuple[tuple[int, int, int, int], ...],
    json_file: Path | None,
) -> None:
    """Make each frame a task: of DICOM files and series, AVI and MP4 films, TIFF stacks, folders of images.

    Frames go as lossless PNG, in order, with series, frame, patient and mm_per_pixel. Nothing else of the files is
    sent. What is there already is passed over, so it may be interrupted and run again.
    """
    from backend.label_studio.client import LabelStudio
    from backend.pullbacks.destination import Destination
    from backend.pullbacks.find import find_pullbacks
    from backend.pullbacks.run import Plan, import_pullbacks

    if project is None and storage is None:
        raise click.UsageError("name --project, --storage, or both")
    if project is not None and (not url or not api_key):
        raise click.UsageError("--project needs --url and --api-key, or LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    settings = Settings.from_environ(os.environ)
    client = LabelStudio(url, api_key) if url and api_key and project is not None else None
    if storage is not None:
        storage.mkdir(parents=True, exist_ok=True)
        storage = storage.resolve()
    destination = Destination(client, project, storage)
    plan = Plan(every, series.strip(), patient.strip(), mm_per_pixel, keep_names, black_out)
    with progress_bar("import") as move:
        move(0, 0, "looking at the files")
        found = find_pullbacks(pullbacks)
        report = import_pullbacks(found, destination, settings.data_dir / "pullbacks", plan, move)
    for line in _left_out(report.left_out):
        click.echo(line, err=True)
    for note in report.notes:
        click.echo(note, err=True)
    write_json(json_file, {"project": project, "storage": str(storage) if storage else None, **report.as_json()})
    for one in report.pullbacks:
        click.echo(f"{one.series}: {one.chosen} of {one.frames} frames, {one.created} new")
    names = "patients and file names as they are (--keep-names)" if keep_names else "no other tag and no file name"
    click.echo(
        f"{report.created} tasks created, {report.present} were there. Written: pixels with any text in them, series, "
        f"frame, patient, mm_per_pixel; {names}"
    )
    if storage is not None and project is None:
        click.echo(
            f"serve {storage.parent} by LOCAL_FILES_DOCUMENT_ROOT, add a Local Files storage of {storage} to the "
            f"project, and import {storage / 'tasks.json'}"
        )


def _left_out(left_out: dict[str, str]) -> list[str]:
    """A line for each reason, with the first file or frame that it holds for; all of them are in the JSON."""
    reasons: dict[str, list[str]] = {}
    for what, why in left_out.items():
        reasons.setdefault(why, []).append(what)
    return [
        f"left out: {whats[0]}{f' and {len(whats) - 1} more' if len(whats) > 1 else ''}: {why}"
        for why, whats in reasons.items()
    ]
