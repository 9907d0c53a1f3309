"""`premask evaluate | curve`: how good the masks are, with tables and pictures."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from backend.cli.data import data_options
from backend.cli.models import ModelFolder, device_option, new_folder, training_options
from backend.cli.output import figure, json_option, print_metrics, progress_bar, table_console, write_json
from models.config import METHODS, REFINERS
from models.data.reader import DataFolder, open_data_folder
from models.errors import DataError
from models.evaluation.charts import WAYS, curve_chart, mean_iou
from models.evaluation.clicks import STARTS, measure_adapted, measure_clicks, measure_objects
from models.evaluation.evaluate import measure, summarise, with_settings
from models.evaluation.grabcut import GrabCut
from models.evaluation.intervals import with_intervals
from models.evaluation.ordering import measure_ordering
from models.evaluation.planted import measure_review
from models.evaluation.report import write_report
from models.evaluation.robustness import measure_robustness
from models.evaluation.tables import classifier_row, compare_methods, effort_table, measure_with_effort
from models.families import Model, load_model
from models.masks.metrics import Mask
from models.pipeline import Pipeline
from models.prompt_model import PromptModel
from models.starter import PROMPTS, STARTER, STARTERS
from models.studies.curve import label_efficiency
from models.training.adaptation import adapted, fitted
from models.training.schedule import Progress
from models.training.spec import TrainingSpec

NO_MODEL = "none"
PROMPTED = ("network", "grabcut", "model")


class ModelOrNone(ModelFolder):
    """A model, or "none" for a project without one."""

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """The values as help shows them."""
        return "|".join(["none", "DIR", *STARTERS])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        """A name becomes its folder."""
        return value if value == NO_MODEL else super().convert(value, param, ctx)


@click.command()
@data_options
@click.option("--split", default="all", show_default=True, help="A split of split.json, such as val; or all.")
@click.option(
    "--model",
    "models",
    type=ModelOrNone(),
    multiple=True,
    help="Checkpoint folder; xception, shipped, if omitted. More of them are compared in --tables. none, with "
    "--clicks: smart tools as they are before a project has a model, object by object.",
)
@click.option("--refiner", type=click.Choice(REFINERS), help="Instead of the model's own.")
@click.option("--cam", type=click.Choice(list(METHODS)), help="Activation-map method instead of the model's own.")
@click.option(
    "--layers",
    type=click.Choice(["4", "8", "16", "32"]),
    multiple=True,
    help="Stride of a layer instead of the model's own; several are fused. 4 is the last convolution.",
)
@click.option("--tables", "with_tables", is_flag=True, help="Also the paper's tables: classifiers, effort, methods.")
@click.option(
    "--clicks",
    type=click.IntRange(1, 20),
    help="Also what this many clicks of a smart tool make of each mask, and of none.",
)
@click.option(
    "--prompts",
    type=click.Choice(PROMPTED),
    help="With --clicks: point at each object by itself, and let the shipped prompt network answer (which --model none "
    "does anyway), OpenCV's GrabCut, or the model.",
)
@click.option(
    "--adapt",
    type=click.IntRange(1, 20),
    help="With --model none: before and after this many images of each class have taught the network what its objects "
    "look like, as a project's first accepted tasks do; measured on images of other groups.",
)
@click.option(
    "--robustness",
    "with_robustness",
    is_flag=True,
    help="Also what is left when the images look otherwise: other colours, noise, size, writing on them.",
)
@click.option(
    "--ordering",
    "with_ordering",
    is_flag=True,
    help="Also how much sooner a reviewer finds what needs work by following the scores.",
)
@click.option(
    "--planted",
    "with_planted",
    is_flag=True,
    help="Also how many planted annotation errors are among the tenth of the images that a review puts first.",
)
@click.option(
    "--report",
    "report_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures with pictures here, as one HTML file.",
)
@device_option
@json_option
def evaluate(
    data: Path,
    split: str,
    models: tuple[Path | str, ...],
    refiner: str | None,
    cam: str | None,
    layers: tuple[str, ...],
    with_tables: bool,
    clicks: int | None,
    prompts: str | None,
    adapt: int | None,
    with_robustness: bool,
    with_ordering: bool,
    with_planted: bool,
    report_file: Path | None,
    skip_bad: bool,
    device: str,
    json_file: Path | None,
) -> None:
    """Measure a model on a data folder: IoU per class, presence, seconds per frame, with 95 % intervals.

    The intervals are by bootstrap over groups of images: those of DATA/groups.json ({"NAME": "PATIENT"}) if there is
    one, else blocks of neighbours by name. There are none over fewer than 5 groups.
    """
    if adapt is not None and NO_MODEL not in models:
        raise click.UsageError("--adapt is for the shipped prompt network: add --model none")
    if NO_MODEL in models or prompts is not None:
        others = {"--tables": with_tables, "--robustness": with_robustness, "--report": report_file is not None}
        others |= {
            "--ordering": with_ordering,
            "--planted": with_planted,
            "--refiner": refiner is not None,
            "--cam": cam is not None,
            "--layers": bool(layers),
        }
        _evaluate_prompts(data, split, models, clicks, prompts, adapt, others, skip_bad, device, json_file)
        return
    if len(models) > 1 and not with_tables:
        raise click.UsageError("more than one --model is for --tables")
    asked = {"refiner": refiner, "cam": cam, "layers": tuple(map(int, layers))}
    changes = {key: value for key, value in asked.items() if value}
    loaded = [load_model(Path(folder), device) for folder in models or (STARTER,)]
    labelled = open_data_folder(data, skip_bad=skip_bad)
    for model in loaded:
        _check_classes(model, labelled)
    samples, groups = labelled.split(split), labelled.groups()
    if not samples:
        raise DataError(f"there is nothing to evaluate on: split {split} of {data} is empty")
    needs_steps = with_tables or with_ordering or report_file
    # Settings, tables and reports are about the steps of networks, which models of other families do not have.
    pipelines = [with_settings(_pipeline(one), **changes) for one in loaded if changes or needs_steps]
    model = pipelines[0] if pipelines else loaded[0]
    with progress_bar(f"evaluating {model.name}") as move:
        if with_tables:
            frames, efforts = measure_with_effort(pipelines[0], samples, progress=move)
        else:
            frames = measure(model, samples, progress=move)
    metrics = with_intervals(summarise(frames, model), frames, groups)
    metrics["skipped"] = dict(labelled.skipped)
    if with_tables:
        rows = [classifier_row(metrics, pipelines[0])]
        for other in pipelines[1:]:
            with progress_bar(f"evaluating {other.name}") as move:
                rows.append(classifier_row(summarise(measure(other, samples, progress=move), other), other))
        with progress_bar("comparing map methods") as move:
            methods = compare_methods(pipelines[0], samples, progress=move)
        metrics["tables"] = {"classifiers": rows, "effort": effort_table(efforts, metrics), "methods": methods}
    if clicks is not None:
        with progress_bar("clicking") as move:
            metrics["clicks"] = measure_clicks(model, samples, clicks, progress=move)
    if with_robustness:
        with progress_bar("changing images") as move:
            metrics["robustness"] = measure_robustness(model, samples, progress=move)
    if with_ordering:
        with progress_bar("correcting") as move:
            metrics["ordering"] = measure_ordering(pipelines[0], samples, groups, progress=move)
    if with_planted:
        with progress_bar("reviewing") as move, TemporaryDirectory() as scratch:
            metrics["planted"] = measure_review(model, samples, Path(scratch), progress=move)
    print_metrics(metrics)
    _print_intervals(metrics)
    if clicks is not None:
        _print_clicks(metrics["clicks"])
    if with_robustness:
        _print_robustness(metrics["robustness"])
    if with_ordering:
        _print_ordering(metrics["ordering"])
    if with_planted:
        _print_planted(metrics["planted"])
    if with_tables:
        _print_tables(metrics["tables"])
    write_json(json_file, metrics)
    if report_file is not None:
        write_report(
            report_file, pipelines[0], samples, frames, metrics, f"{model.name} on {data.resolve().name}, {split}"
        )
        click.echo(f"report in {report_file}")


def _evaluate_prompts(
    data: Path,
    split: str,
    models: tuple[Path | str, ...],
    clicks: int | None,
    prompts: str | None,
    adapt: int | None,
    others: Mapping[str, bool],
    skip_bad: bool,
    device: str,
    json_file: Path | None,
) -> None:
    """Clicks and boxes, object by object."""
    named = "--model none" if NO_MODEL in models else f"--prompts {prompts}"
    if clicks is None:
        raise click.UsageError(f"{named} needs --clicks: without a model, smart tools are all there is to measure")
    if wrong := [option for option, given in others.items() if given]:
        raise click.UsageError(f"{named} measures clicks and boxes alone; leave out {', '.join(wrong)}")
    if len(models) > 1:
        raise click.UsageError(f"{named} measures one model; name one --model")
    if prompts == "model" and (not models or NO_MODEL in models):
        raise click.UsageError("--prompts model measures a model's own answers; name it with --model")
    labelled = open_data_folder(data, skip_bad=skip_bad)
    samples = labelled.split(split)
    if not samples:
        raise DataError(f"there is nothing to evaluate on: split {split} of {data} is empty")
    folder = models[0] if prompts == "model" else PROMPTS
    model: Model = GrabCut() if prompts == "grabcut" else load_model(Path(folder), device)
    with progress_bar(f"pointing at objects, answered by {model.name}") as move:
        if adapt is None:
            metrics = measure_objects(model, samples, labelled.classes, clicks, progress=move)
        else:
            metrics = measure_adapted(
                model, _adapted(model), samples, labelled.groups(), labelled.classes, clicks, adapt, progress=move
            )
    metrics = {"model": model.name, "skipped": dict(labelled.skipped), **metrics}
    if adapt is None:
        _print_objects(metrics, f"answered by {model.name}", clicks)
    else:
        images = "an image" if adapt == 1 else f"{adapt} images"
        _print_objects(metrics["before"], f"answered by {model.name}", clicks)
        _print_objects(metrics["after"], f"after {images} of each class", clicks)
    write_json(json_file, metrics)


@click.command()
@training_options
@click.option("--out", type=new_folder, required=True, help="Folder for curve.json, curve.png and the checkpoints.")
@click.option(
    "--sizes", default="5,10,20,40,all", show_default=True, help="Numbers of accepted images, with commas; or all."
)
@click.option(
    "--plain", is_flag=True, help="Also a plain segmentation network, trained for as long on the same images."
)
def curve(data: Path, out: Path, sizes: str, plain: bool, json_file: Path | None, **options: object) -> None:
    """Measure how masks improve with the number of accepted images.

    Trains on nested subsets of the training images and measures each model on the held-out ones. What is in
    OUT/curve.json already is not done again.
    """
    try:
        numbers = [None if size.strip() == "all" else int(size) for size in sizes.split(",")]
    except ValueError:
        raise click.BadParameter(f"numbers with commas, or all, not {sizes!r}", param_hint="--sizes") from None
    spec = TrainingSpec(data=data, out=out, name=out.name, **options)  # type: ignore[arg-type]
    with progress_bar("curve") as move:

        def report(size: int, progress: Progress) -> None:
            move(progress.done, progress.total, progress.message, f"{size} images, {progress.stage}")

        result = label_efficiency(spec, numbers, plain=plain, report=report)
    curve_chart(result, out / "curve.png")
    _print_curve(result)
    click.echo(f"{out / 'curve.json'}, {out / 'curve.png'}")
    write_json(json_file, result)


def _pipeline(model: Model) -> Pipeline:
    if not isinstance(model, Pipeline):
        options = "--refiner, --cam, --layers, --tables, --ordering and --report"
        raise click.UsageError(f"{options} need a model of the family cam; {model.name} is of another")
    return model


def _check_classes(model: Model, labelled: DataFolder) -> None:
    if set(model.classes).isdisjoint(labelled.classes):
        known, offered = ", ".join(model.classes) or "no class", ", ".join(labelled.classes)
        raise DataError(f"{model.name} knows {known}, but {labelled.root} has only {offered}; name another --model")


def _table(title: str, *columns: str, text: int = 1) -> Table:
    """A table whose first `text` columns are text and are not broken."""
    table = Table(box=SIMPLE_HEAD, title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < text else "right", no_wrap=number < text)
    return table


def _print_intervals(metrics: Mapping[str, Any]) -> None:
    """Print the intervals of the classes that have any, and why the others have none."""
    table = _table(
        f"95 % intervals over {metrics['groups']} groups of images", "class", "IoU", "map", "refiner adds", "accuracy"
    )
    keys = ("iou_ci", "coarse_iou_ci", "refiner_gain_ci", "accuracy_ci")
    for label, known in metrics["classes"].items():
        if any(known[key] is not None for key in keys):
            table.add_row(label, *("–" if known[key] is None else "{:.3f}, {:.3f}".format(*known[key]) for key in keys))
    if table.row_count:
        table_console().print(table)
    for label, known in metrics["classes"].items():
        if known["no_interval"]:
            click.echo(f"No interval of the IoU of {label}: {known['no_interval']}.")


def _print_clicks(clicks: Mapping[str, Any]) -> None:
    columns = ["class", "from", *map(str, range(clicks["count"] + 1))]
    table = _table("IoU after that many clicks, each on the worst error", *columns, text=2)
    for label, known in clicks["classes"].items():
        for start in STARTS:
            table.add_row(label if start == STARTS[0] else "", start, *map(figure, known[start]))
    table_console().print(table)


def _adapted(model: Model) -> Callable[[Sequence[tuple[NDArray[np.uint8], list[Mask]]]], Model]:
    """Makes a prompt network know a class by examples."""
    if not isinstance(model, PromptModel):
        raise click.UsageError("--adapt is for the shipped prompt network: leave out --prompts")

    def adapt(examples: Sequence[tuple[NDArray[np.uint8], list[Mask]]]) -> Model:
        network = adapted(model.network, [fitted(image, objects) for image, objects in examples])
        return PromptModel(network, model.refiner, name=model.name, device=str(model.device))

    return adapt


def _print_objects(metrics: Mapping[str, Any], title: str, clicks: int) -> None:
    columns = ["class", "objects", *(f"{n} click{'s' if n > 1 else ''}" for n in range(1, clicks + 1)), "a box"]
    table = _table(f"IoU of objects, {title}", *columns)
    for label, known in metrics["classes"].items():
        table.add_row(label, str(known["objects"]), *map(figure, [*known["clicks"], known["box"]]))
    if metrics["clicks"] is None:
        click.echo("There is no object that covers 0.1 % of its image or more: nothing to point at.")
        return
    total = sum(known["objects"] for known in metrics["classes"].values())
    table.add_row("all objects", str(total), *map(figure, [*metrics["clicks"], metrics["box"]]))
    table_console().print(table)


def _print_robustness(robustness: Mapping[str, Any]) -> None:
    table = _table("IoU (recall) on images that look otherwise", "images", *next(iter(robustness.values())))
    for change, classes in robustness.items():
        table.add_row(change, *(f"{figure(known['iou'])} ({figure(known['recall'], 2)})" for known in classes.values()))
    table_console().print(table)


def _print_ordering(found: Mapping[str, Any]) -> None:
    title = f"{found['need_correction']} of {found['images']} images need a correction: strokes found by order"
    table = _table(title, "images in the order of", "area under the curve", "in the first half", "squared error")
    for name, order in found["orders"].items():
        figures = ["–", "–"] if order is None else [figure(order["area"]), f"{order['half']:.0%}"]
        table.add_row(name, *figures, figure(found["brier"].get(name)))
    table_console().print(table)


def _print_planted(found: Mapping[str, Any]) -> None:
    kinds = ", ".join(f"{kind} {seen} of {of}" for kind, (seen, of) in found["kinds"].items())
    click.echo(
        f"Of {found['planted']} planted errors in {found['images']} images the first {found['reviewed']} of the review "
        f"hold {found['recall']:.0%}: {kinds}."
    )


def _print_tables(tables: Mapping[str, Any]) -> None:
    console = table_console()
    classifiers = _table(
        "Classifiers: presence, means over classes", "model", "backbone", "acc.", "prec.", "rec.", text=2
    )
    for row in tables["classifiers"]:
        values = (figure(row[key]) for key in ("accuracy", "precision", "recall"))
        classifiers.add_row(row["model"], row["backbone"], *values)
    console.print(classifiers)
    effort = tables["effort"]
    ways = _table("Masks by hand and by machine", "", "IoU", "strokes an image", "machine, s an image")
    for way in effort["ways"]:
        ways.add_row(way["way"], figure(way["iou"]), figure(way["strokes"], 1), figure(way["seconds"]))
    console.print(ways)
    starts = {"from_nothing": "nothing", "from_model": "model"}
    columns = [f"{name}\nto {target}" for target in effort["targets"] for name in starts.values()]
    strokes = _table("Strokes a mask, from nothing or the model (gave up)", "class", *columns, "false\nmasks")
    for label, known in effort["classes"].items():
        counts = [known[start][str(target)] for target in effort["targets"] for start in starts]
        cells = [figure(count["mean"], 1) + (f" ({count['never']})" if count["never"] else "") for count in counts]
        strokes.add_row(label, *cells, str(known["false_masks"]))
    console.print(strokes)
    classes = list(next(iter(tables["methods"].values())))
    methods = _table("IoU of the thresholded map (best threshold)", "method", *classes)
    for method, known in tables["methods"].items():
        methods.add_row(method, *(f"{figure(one['iou'])} ({figure(one['threshold'], 1)})" for one in known.values()))
    console.print(methods)


def _print_curve(result: Mapping[str, Any]) -> None:
    sizes = {int(size): point for size, point in result["sizes"].items()}
    classes = list(next(iter(sizes.values()))["present"])
    title = f"IoU on {result['frames']} held-out images, and seconds of training"
    table = _table(title, "images", "masks", *classes, "mean", "s", text=2)
    for size, point in sorted(sizes.items()):
        for way, (name, *_) in WAYS.items():
            if way in point["results"]:
                known = point["results"][way]
                ious = [known[label]["iou"] for label in classes] + [mean_iou(known)]
                table.add_row(str(size), name, *map(figure, ious), figure(point["seconds"], 0))
    table_console().print(table)
