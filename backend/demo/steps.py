"""The steps of the demo on the terminal: one line per step, with its time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

QUIET_SECONDS = 15.0  # without a terminal (a log file), a sign of life this often


class Step:
    """One line of the list."""

    def __init__(self, name: str, progress: Progress, console: Console) -> None:
        self.name, self.detail = name, ""
        self._progress, self._console = progress, console
        self._line: TaskID = progress.add_task(name, total=None, detail="")
        self._started = self._said = time.monotonic()

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.monotonic() - self._started

    def say(self, detail: str, done: int | None = None, total: int | None = None) -> None:
        """Show how far it is; `done` of `total` fills the bar."""
        self.detail = detail
        self._progress.update(self._line, detail=detail, completed=done, total=total)
        if not self._console.is_terminal and time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            self._console.print(f"  {self.name}: {detail} ({self.seconds:.0f} s)", highlight=False)

    def finish(self) -> None:
        """Fill the bar, stop the clock."""
        self._progress.update(self._line, completed=1, total=1)
        self._progress.stop_task(self._line)
        if not self._console.is_terminal:
            self._console.print(f"✓ {self.name} {self.detail} ({self.seconds:.1f} s)", highlight=False)


class Steps:
    """The list of steps.

    Attributes:
        seconds: time of each finished step, by its name.
    """

    def __init__(self, console: Console) -> None:
        self.seconds: dict[str, float] = {}
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "Steps":
        """Show the list."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the list as it is on the screen."""
        self._progress.stop()

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """A step; it counts as done when the block ends without an exception."""
        step = Step(name, self._progress, self._console)
        yield step
        step.finish()
        self.seconds[name] = round(step.seconds, 1)
