"""Output of every command: progress bars for people, JSON for machines."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

MAX_COLUMNS = 10_000  # of a table that no terminal shows; only what it needs is written


class Move(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, text: str = "", stage: str = "") -> None:
        """To `done` of `total` of a stage, with a text beside it."""


json_option = click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here as JSON."
)


class Number(click.FloatRange):
    """A number in a range, and none of nan and inf, which a range alone lets pass."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


def write_json(path: Path | None, result: Any) -> None:
    """Write `result` where `--json` asked for it: all of it, or nothing where the disk is full."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    try:
        # A name of a file that is no UTF-8 has half characters, which JSON can escape and UTF-8 cannot hold.
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        if path.is_file() and not path.is_symlink():  # half of it; /dev/stdout is a link
            path.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def progress_bar(title: str) -> Iterator[Move]:
    """A bar on standard error, or lines where that is no terminal; yields what moves it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLines(title)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=console) as bar:
        task = bar.add_task(title, total=None, text="")

        def move(done: int, total: int, text: str = "", stage: str = "") -> None:
            bar.update(task, completed=done, total=total, text=text, description=stage or title)

        yield move


class ProgressLines:
    """Progress for logs and pipes: a line when a stage begins, and one every `EVERY` seconds after it.

    Args:
        title: what is going on, at the beginning of each line.
        now: a clock, in seconds.
    """

    EVERY = 10.0

    def __init__(self, title: str, now: Callable[[], float] = time.monotonic) -> None:
        self._title, self._now = title, now
        self._stage: str | None = None
        self._last = 0.0

    def __call__(self, done: int, total: int, text: str = "", stage: str = "") -> None:
        """Write a line to standard error if it is time for one; see `Move`."""
        if stage == self._stage and self._now() - self._last < self.EVERY:
            return
        self._stage, self._last = stage, self._now()
        click.echo(": ".join(part for part in (self._title, stage, f"{done}/{total} {text}".strip()) if part), err=True)


def table_console() -> Console:
    """For tables of names and ids: what goes into a pipe or a file is not cut to the width of a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=MAX_COLUMNS)


def figure(value: float | None, digits: int = 3) -> str:
    """A figure for a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def print_metrics(metrics: dict[str, object]) -> None:
    """The figures of `evaluate` as a table."""
    table = Table(
        box=SIMPLE_HEAD,
        title=f"{metrics['model']}, {metrics['frames']} images, {metrics['cam']}, refiner {metrics['refiner']}",
    )
    # Short enough for a terminal of 80 columns.
    columns = {
        "frames": "n",
        "iou": "IoU",
        "coarse_iou": "map",
        "dice": "Dice",
        "boundary_f": "edge F",
        "precision": "prec.",
        "recall": "rec.",
        "accuracy": "acc.",
    }
    table.add_column("class", no_wrap=True)
    for name in columns.values():
        table.add_column(name, justify="right", no_wrap=True)
    classes: dict[str, dict[str, float | None]] = metrics["classes"]  # type: ignore[assignment]
    for label, figures in classes.items():
        cells = [str(figures["frames"]), *(figure(figures[column]) for column in list(columns)[1:])]
        table.add_row(label, *cells)
    table_console().print(table)
    mean, seconds = metrics["mean_iou"], metrics["seconds_per_frame"]
    click.echo(f"mean IoU {figure(mean)}, {figure(seconds)} s per frame")  # type: ignore[arg-type]
