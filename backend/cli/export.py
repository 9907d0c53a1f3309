"""`premask export`: labels in the formats that other tools read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backend.cli.data import FOLDER, KINDS
from backend.cli.output import Move, json_option, progress_bar, write_json
from backend.exports.formats import FORMATS, Format
from backend.settings import Settings

if TYPE_CHECKING:  # loading them takes longer than `--help` should
    from backend.exports.export import Origin, Result
    from models.data.reader import DataFolder


@dataclass
class Input:
    """Labels that are to be exported.

    Attributes:
        folder: accepted ones.
        notes: sentences about what was read and left out.
        drawn: classes that masks are drawn of; None where only the masks tell.
        origins: name of a sample -> where it comes from.
        predicted: predictions of the tasks without an accepted annotation; None for none.
        predicted_origins: as `origins`, for them.
        version: model version of the predictions.
    """

    folder: DataFolder
    notes: list[str]
    drawn: list[str] | None = None
    origins: dict[str, Origin] = field(default_factory=dict)
    predicted: DataFolder | None = None
    predicted_origins: dict[str, Origin] = field(default_factory=dict)
    version: str | None = None


@click.command()
@click.option("--project", type=int, help="Label Studio's project id: its accepted annotations are exported.")
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help=f"Instead: a data folder, or an export: {KINDS}."
)
@click.option("--images", type=FOLDER, help="Where the images of --data are, if not beside it.")
@click.option("--skip-bad", is_flag=True, help="Leave out inconsistent files of --data instead of stopping.")
@click.option("--format", "format_name", type=click.Choice(list(FORMATS)), required=True, help="What to write.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must be empty or not exist."
)
@click.option(
    "--with",
    "extras",
    type=click.Choice(["predictions"]),
    multiple=True,
    help="Also the served version's predictions of tasks without an accepted annotation, in OUT/predicted.zip.",
)
@click.option(
    "--annotators",
    type=click.Choice(["newest", "all"]),
    default="newest",
    show_default=True,
    help="Of each task the newest accepted annotation, as training takes it; or each as an image of its own.",
)
@click.option("--dicom", type=FOLDER, help="For dicom-seg: the folder with the DICOM files that were annotated.")
@click.option("--url", envvar="LABEL_STUDIO_URL", show_envvar=True, help="Label Studio's address.")
@click.option("--api-key", envvar="LABEL_STUDIO_API_KEY", show_envvar=True, help="Token of a Label Studio user.")
@json_option
def export(
    project: int | None,
    data: Path | None,
    images: Path | None,
    skip_bad: bool,
    format_name: str,
    out: Path,
    extras: tuple[str, ...],
    annotators: str,
    dicom: Path | None,
    url: str | None,
    api_key: str | None,
    json_file: Path | None,
) -> None:
    """Write accepted annotations as COCO, YOLO, nnU-Net, PNG, CVAT or DICOM Segmentation.

    Images of one group (patient, study, series) stay on one side of train and val. What is unknown of an image is never
    written as absent: where a format has no place for it, the image is left out and named. OUT is complete or absent.
    """
    from backend.exports.folder import check_free, new_folder

    if (project is None) == (data is None):
        raise click.UsageError("name either --project or --data")
    if project is None and (extras or annotators == "all"):
        raise click.UsageError("--with and --annotators all are for --project")
    if project is not None and (not url or not api_key):
        raise click.UsageError("--project needs --url and --api-key, or LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
    if dicom is not None and format_name != "dicom-seg":
        raise click.UsageError("--dicom is for --format dicom-seg")
    check_free(out)
    with ExitStack() as stack:
        move = stack.enter_context(progress_bar("export"))
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="premask-")))
        if data is not None:
            found = _from_files(stack, data, images, skip_bad)
        else:
            found = _from_project(str(project), str(url), str(api_key), annotators, bool(extras), temporary, move)
        with new_folder(out) as folder:
            chosen = FORMATS[format_name]
            summary = _write(chosen, found.folder, folder, move, found.drawn, found.origins, dicom)
            if found.predicted is not None:
                beside = temporary / "predicted"
                beside.mkdir()
                origins = found.predicted_origins
                predicted = _write(chosen, found.predicted, beside, move, found.drawn, origins, dicom, found.version)
                shutil.make_archive(str(folder / "predicted"), "zip", beside)
                summary["predicted"] = {"version": found.version, **predicted}
    report = {"format": format_name, "out": str(out), **summary, "notes": [*found.notes, *summary["notes"]]}
    write_json(json_file, report)
    _print(report)


def _from_files(stack: ExitStack, data: Path, images: Path | None, skip_bad: bool) -> Input:
    """The labels of a data folder or an export, which last as long as `stack`."""
    from backend.sources.source import open_source
    from models.data.reader import open_data_folder

    source = stack.enter_context(open_source(data, images=images, skip_bad=skip_bad))
    return Input(open_data_folder(source.folder, skip_bad=skip_bad), list(source.notes))


def _from_project(
    project: str, url: str, api_key: str, annotators: str, with_predictions: bool, temporary: Path, move: Move
) -> Input:
    """The labels of a project of Label Studio, as data folders in `temporary`."""
    from backend.errors import ExportError
    from backend.exports.project import all_annotations, has_accepted, newest_annotations, predictions, report_notes
    from backend.label_studio.client import LabelStudio
    from backend.label_studio.images import ImageLoader
    from backend.label_studio.label_config import parse_label_config
    from backend.pullbacks.origins import read_origins
    from models.data.reader import open_data_folder

    settings = Settings.from_environ(os.environ)
    client = LabelStudio(url, api_key)
    config = parse_label_config(client.project(project)["label_config"])
    move(0, 0, "fetching annotations from Label Studio")
    tasks = client.export(project, all_tasks=with_predictions)
    accepted = [task for task in tasks if has_accepted(task)]
    if not accepted:
        raise ExportError(f"project {project} has no accepted annotation; annotate and submit some tasks first")
    images = ImageLoader(client, allowed_hosts=settings.image_hosts)
    write = newest_annotations if annotators == "newest" else all_annotations
    move(0, 0, "fetching images")
    record_of = cache(partial(read_origins, settings.data_dir / "pullbacks"))
    group = settings.group_field
    labels = write(accepted, config, images, temporary / "accepted", named_group=group, record_of=record_of)
    if not labels.report.used:
        raise ExportError(f"no annotation of project {project} can be read: {labels.report.text}")
    drawn = [label for control in config.region_controls for label in control.labels]
    found = Input(open_data_folder(labels.folder), report_notes(labels.report), drawn, labels.origins)
    if with_predictions:
        found.version = _served_version(settings, project, config.training_classes)
        if found.version is None:
            found.notes.append("no model version is served for this project, so there are no predictions")
            return found
        move(0, 0, "fetching predictions")
        stored = client.predictions(project)
        drafts = predictions(
            tasks, stored, found.version, config, images, temporary / "predictions", record_of=record_of
        )
        if drafts.report.used:
            found.predicted, found.predicted_origins = open_data_folder(drafts.folder), drafts.origins
        else:
            found.notes.append(
                f"no task without an accepted annotation has a prediction of {found.version}; "
                f"premask predict-project --project {project} makes them"
            )
        found.notes += [f"predictions: {note}" for note in report_notes(drafts.report)]
    return found


def _served_version(settings: Settings, project: str, classes: Any) -> str | None:
    from backend.wiring import assemble, serving_of

    resolved = serving_of(settings, assemble(settings)).resolve(project, classes)
    return None if resolved is None else resolved.version


def _write(
    chosen: Format,
    labelled: DataFolder,
    out: Path,
    move: Move,
    drawn: list[str] | None,
    origins: dict[str, Origin],
    dicom: Path | None,
    version: str | None = None,
) -> dict[str, Any]:
    """Write a data folder in a format; returns the summary for `--json`."""
    from backend.exports.export import make_export

    made, left_out = make_export(labelled, chosen.problem, drawn=drawn, origins=origins, version=version, dicom=dicom)
    stage = "writing" if version is None else "writing predictions"
    result: Result = chosen.write(made, out, lambda done, total: move(done, total, stage=stage))
    missing = {**labelled.skipped, **left_out, **result.left_out}
    undrawn = [label for label in made.classes if label not in made.drawn]
    return {
        "images": result.images,
        "subsets": dict(Counter(image.subset for image in made.images if image.name not in result.left_out)),
        "classes": list(made.classes),
        "classes_without_masks": undrawn,
        "objects": result.objects,
        "left_out": [{"what": what, "why": why} for what, why in missing.items()],
        "notes": result.notes,
        **result.figures,
    }


def _print(report: dict[str, Any]) -> None:
    for note in report["notes"]:
        click.echo(note)
    _print_summary(report, "")
    if report.get("predicted"):
        for note in report["predicted"]["notes"]:
            click.echo(f"predictions: {note}")
        _print_summary(report["predicted"], f"predictions of {report['predicted']['version']}, in predicted.zip: ")
    click.echo(f"written to {report['out']}")


def _print_summary(summary: dict[str, Any], title: str) -> None:
    subsets = ", ".join(f"{count} {subset}" for subset, count in summary["subsets"].items())
    objects = ", ".join(f"{label} {count}" for label, count in summary["objects"].items()) or "none"
    click.echo(f"{title}{summary['images']} images ({subsets}); objects: {objects}")
    if summary["left_out"]:
        first = summary["left_out"][0]
        count = len(summary["left_out"])
        click.echo(f"{title}{count} left out, the first: {first['what']}: {first['why']}", err=True)
