"""`premask bench`: how fast it is on this machine, side by side with other ways."""

import os
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from backend.bench.cases import CASES
from backend.bench.measure import figures, machine
from backend.bench.setting import Setting
from backend.cli.data import FOLDER
from backend.cli.models import device_option, model_option
from backend.cli.output import json_option, progress_bar, table_console, write_json
from models.data.reader import open_data_folder
from models.data.sample import Sample
from models.errors import DataError
from models.starter import STARTER

SYNTHETIC = "synthetic"


@click.command()
@click.argument("cases", nargs=-1, type=click.Choice(list(CASES)), metavar="[CASE]...")
@model_option
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True, help="Runs of each side.")
@click.option("--size", type=click.IntRange(min=64), default=512, show_default=True, help="Side of the frames, pixels.")
@click.option(
    "--images", type=click.IntRange(min=2), default=4, show_default=True, help="Frames, in turn or as a batch."
)
@click.option("--data", type=FOLDER, help="Data folder whose images are measured on instead of synthetic frames.")
@click.option("--split", default="all", show_default=True, help="Of --data: a split of its split.json; or all.")
@click.option("--clients", type=click.IntRange(min=1), help="That keep the server busy; the cores and two if omitted.")
@device_option
@click.option("--rows", type=click.IntRange(min=1000), default=1_000_000, show_default=True, help="Of a large job.")
@click.option("--tasks", type=click.IntRange(min=2), default=400, show_default=True, help="Of the job of `workers`.")
@click.option("--database", metavar="URL", help="A PostgreSQL to measure besides SQLite, in a schema of its own.")
@json_option
def bench(
    cases: tuple[str, ...],
    model: Path | None,
    rounds: int,
    size: int,
    images: int,
    data: Path | None,
    split: str,
    clients: int | None,
    device: str,
    rows: int,
    tasks: int,
    database: str | None,
    json_file: Path | None,
) -> None:
    """Measure the chosen CASEs, or all of them, side by side in one run.

    The sides of a case take turns (A B A B), so other work on the machine slows them alike: trust the ratios, and the
    milliseconds only on a quiet machine.
    """
    chosen = list(dict.fromkeys(cases)) or list(CASES)
    result: dict[str, Any] = {"machine": machine(), "model": (model or STARTER).name, "frames": SYNTHETIC, "cases": {}}
    samples: list[Sample] = []
    if data is not None:
        samples, result["frames"] = open_data_folder(data).split(split), f"{data.resolve().name}, {split}"
        if not samples:
            raise DataError(f"the split {split} of {data} has no image; choose another by --split")
    with progress_bar("benchmark") as move:
        runs = 0

        def tick() -> None:
            nonlocal runs
            runs += 1
            move(done, len(chosen), f"{runs} runs", name)

        clients = clients or len(os.sched_getaffinity(0)) + 2
        with Setting(
            model or STARTER, size, rounds, images, clients, rows, tasks, database, os.environ, tick, device, samples
        ) as setting:
            for done, name in enumerate(chosen):
                move(done, len(chosen), "", name)
                result["cases"][name] = figures(CASES[name](setting))
            move(len(chosen), len(chosen))
    _print(result)
    write_json(json_file, result)


def _print(result: dict[str, Any]) -> None:
    console = table_console()
    for name, case in result["cases"].items():
        # Tight, so that it fits a terminal of 80 columns.
        table = Table(box=SIMPLE_HEAD, title=f"{name}: {case['about']}", title_justify="left", padding=(0, 1, 0, 0))
        table.add_column("", no_wrap=True)
        unit = case["unit"]
        for column in (unit, "95 %", "target", "×", "quartiles", "CPU ×"):
            table.add_column(column, justify="right", no_wrap=True)
        for side, known in case["sides"].items():
            target, mark = known[f"target_{unit}"], "✓" if known["met"] else "✗"
            promised = "" if target is None else f"{mark} <{target:.0f}"
            low, high = map(_short, known["ratio_quartiles"])
            cpu = "" if known["cpu_ratio"] is None else _short(known["cpu_ratio"])
            times = _short(known[f"median_{unit}"]), _short(known[f"p95_{unit}"])
            table.add_row(side, *times, promised, _short(known["ratio"]), f"{low}-{high}", cpu)
        console.print(table)
    known = result["machine"]
    console.print(
        "×: times the row above that has ×1.00, median and quartiles of the rounds. Targets: 95 % of the runs.\n"
        f"{known['cpu']}, {known['cores']} cores, {known['torch_threads']} torch threads, {known['instructions']}, "
        f"load {known['load']} at the start; Python {known['python']}, torch {known['torch']}, "
        f"OpenVINO {known['openvino']}, timm {known['timm']}, numpy {known['numpy']}, "
        f"OpenCV {known['cv2']}; model {result['model']}; frames: {result['frames']}",
        highlight=False,
    )


def _short(value: float) -> str:
    """Three digits or more: 1.23, 12.3, 1234."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
