"""`premask predict | train | phantom`: the models on files and data folders, without a server."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from backend.cli.data import data_options
from backend.cli.device import Device
from backend.cli.output import Number, json_option, print_metrics, progress_bar, write_json
from backend.web.dashboard.formats import duration
from models.checkpoint import read_card
from models.config import BACKBONES
from models.data.files import IMAGE_SUFFIXES, read_image
from models.data.names import file_name
from models.data.png import write_png
from models.data.reader import open_data_folder
from models.data.report import data_report
from models.errors import DataError
from models.evaluation.figures import overlay, step_pictures
from models.families import load_model, steps_of
from models.phantom import KINDS, write_phantoms
from models.starter import STARTER, STARTERS, model_folder
from models.training.presets import PRESETS
from models.training.pretrained import shipped_parent
from models.training.schedule import Progress
from models.training.spec import TrainingSpec
from models.training.train import train as train_model

folder = click.Path(exists=True, file_okay=False, path_type=Path)
new_folder = click.Path(file_okay=False, path_type=Path)


class ModelFolder(click.Path):
    """A checkpoint folder that exists, or the name of one that premask ships."""

    def __init__(self) -> None:
        super().__init__(exists=True, file_okay=False, path_type=Path)

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """The values as help shows them."""
        return "|".join(["DIR", *STARTERS])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """A name becomes its folder."""
        return Path(os.fsdecode(super().convert(model_folder(str(value)), param, ctx)))


class Parent(ModelFolder):
    """The start of a training: a model, or "auto", or "none"."""

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """The values as help shows them."""
        return "|".join(["auto", "none", "DIR", *STARTERS])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """A model becomes its folder."""
        return value if value in ("auto", "none") else super().convert(value, param, ctx)


existing_model = ModelFolder()
model_option = click.option("--model", type=existing_model, help="Checkpoint folder; xception, shipped, if omitted.")
device_option = click.option("--device", type=Device(), default="cpu", show_default=True)


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=new_folder, required=True, help="Folder for the masks: OUT/CLASS/NAME.png, 0 or 255.")
@model_option
@click.option("--overlay", "with_overlay", is_flag=True, help="Also OUT/overlay/NAME.png: the masks over the image.")
@click.option("--steps", "with_steps", is_flag=True, help="Also OUT/steps/NAME/CLASS-*.png: map, trimap, boundary ...")
@device_option
@json_option
def predict(
    images: tuple[Path, ...],
    out: Path,
    model: Path | None,
    with_overlay: bool,
    with_steps: bool,
    device: str,
    json_file: Path | None,
) -> None:
    """Draw a mask per class for each IMAGE (a file, or a folder of them)."""
    files = [file for path in images for file in (sorted(path.glob("*")) if path.is_dir() else [path])]
    files = [file for file in files if file in images or file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise DataError(f"{', '.join(map(str, images))} holds no {', '.join(IMAGE_SUFFIXES)} files")
    if len({file.stem for file in files}) < len(files):
        raise DataError("two of the images have the same name, so their masks would overwrite each other; rename one")
    loaded = load_model(model or STARTER, device)
    if not loaded.classes:
        raise DataError(f"{loaded.name} knows no class, it answers clicks and boxes alone; name another --model")
    results, failed = {}, []
    with progress_bar("predicting") as move:
        for index, file in enumerate(files):
            move(index, len(files), file.name)
            try:
                image = read_image(file)
            except DataError as error:
                failed.append(str(error))
                continue
            (found,) = loaded.predict([image])
            for segment in found.segments:
                write_image(out / file_name(segment.label) / f"{file.stem}.png", segment.mask)
            if with_overlay:
                write_image(out / "overlay" / f"{file.stem}.png", overlay(image, found.segments, loaded.classes))
            if with_steps:
                for step in steps_of(loaded, [image])[0]:
                    for name, picture in step_pictures(image, step).items():
                        write_image(out / "steps" / file.stem / f"{file_name(step.label)}-{name}.png", picture)
            results[str(file)] = {
                "presence": found.presence,
                "score": found.score,
                "segments": [{"class": s.label, "score": s.score, "pixels": int(s.mask.sum())} for s in found.segments],
            }
            move(index + 1, len(files), file.name)
    write_json(json_file, {"model": loaded.name, "images": results, "failed": failed})
    click.echo(f"{len(results)} of {len(files)} images predicted with {loaded.name}; masks in {out}")
    if failed:
        raise DataError("\n".join(failed))


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a training, for `train` and `curve`."""
    weights = click.Path(exists=True, dir_okay=False, path_type=Path)
    options = (
        click.option(
            "--backbone", default="auto", show_default=True, help=f"A timm name, such as {', '.join(BACKBONES)}."
        ),
        click.option("--weights", type=weights, help="Backbone weights, safetensors."),
        click.option("--from-scratch", is_flag=True, help="Go on where there are no pretrained weights."),
        click.option("--preset", type=click.Choice(list(PRESETS)), default="fast", show_default=True),
        click.option("--epochs", type=click.IntRange(min=1), help="Instead of the preset's."),
        click.option(
            "--minutes",
            type=Number(min=0, min_open=True),
            help="Limit on each training; fast: 10, or 20 if heavy.",
        ),
        click.option(
            "--wall",
            default="auto",
            show_default=True,
            help="Class whose wall is unrolled to read the others on it, such as Lumen; auto: as the model begun from.",
        ),
        click.option(
            "--contrast",
            type=Number(min=0),
            default=0.0,
            show_default=True,
            help="Weight of the term by which images without masks help the refiner.",
        ),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        device_option,
        click.option(
            "--processes",
            type=click.IntRange(min=1),
            help="Share each batch; one for each GPU if omitted, with cuda and auto.",
        ),
        json_option,
    )
    for option in reversed(options):
        command = option(command)
    return data_options(command)


@click.command()
@training_options
@click.option("--out", type=new_folder, required=True, help="Checkpoint folder to write; must not exist.")
@click.option(
    "--from",
    "parent",
    type=Parent(),
    default="auto",
    show_default=True,
    help="Model to begin from; auto: a shipped one that knows a class of the data, else, and with none, ImageNet.",
)
def train(data: Path, out: Path, parent: Path | str, json_file: Path | None, **options: Any) -> None:
    """Train classifier and refiner on a data folder."""
    spec = TrainingSpec(data=data, out=out, name=out.name, **options)
    opened = open_data_folder(data, skip_bad=spec.skip_bad)
    found = data_report(opened)
    click.echo("\n".join([*found.sentences, *(f"Note: {warning}" for warning in found.warnings)]))
    if parent == "auto" and not spec.from_scratch and spec.weights is None:
        parent = shipped_parent(opened.classes, spec.backbone) or "none"
    if isinstance(parent, Path):
        spec = replace(spec, parent=parent)
        click.echo(f"It begins from {read_card(parent).name}.")
    with progress_bar("training") as move:

        def report(progress: Progress) -> None:
            text = progress.message
            if progress.metrics:
                text = ", ".join(f"{k} {v:.4g}" for k, v in progress.metrics.items()) + f", {text}"
            if progress.left is not None:
                text += f", about {duration(progress.left)} left"
            move(progress.done, progress.total, text, progress.stage)

        result = train_model(spec, report)
    print_metrics(result.metrics)
    verdict = result.verdict
    click.echo(f"{out}: {'; '.join(filter(None, [verdict.reason, verdict.missing]))}")
    write_json(json_file, asdict(result.card) | {"promote": verdict.promote, "reason": verdict.reason})


@click.command()
@click.option("--out", type=new_folder, required=True, help="Data folder to write; must be empty or not exist.")
@click.option("--kind", type=click.Choice(list(KINDS)), default="oct", show_default=True)
@click.option("--count", type=click.IntRange(min=1), required=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--size", type=click.IntRange(min=64), help="Longer side of the largest images, pixels.")
@click.option("--difficulty", type=Number(0, 1), default=0.5, show_default=True)
@json_option
def phantom(
    out: Path, kind: str, count: int, seed: int, size: int | None, difficulty: float, json_file: Path | None
) -> None:
    """Write synthetic images with exact masks: OCT frames (oct, vessel), leaf lesions, surface defects, ultrasound."""
    with progress_bar("rendering") as move:
        write_phantoms(out, count, seed, size, difficulty, progress=move, kind=kind)
    click.echo(f"{count} images in {out}")
    chosen = {"kind": kind, "count": count, "seed": seed, "size": size or KINDS[kind].size, "difficulty": difficulty}
    write_json(json_file, {"out": str(out)} | chosen)


def write_image(path: Path, picture: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write a PNG, grey or RGB, making its folder. Raises DataError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, picture)
    except OSError as error:
        cause = f"{path} cannot be written: {error.strerror}"
        raise DataError(cause, "make room, or choose a folder that this user may write to") from error
