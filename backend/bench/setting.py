"""The parts that cases share: a model, frames, and a real server that is started when the first case needs it."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

from backend.bench.server import BenchServer
from models.phantom import render_phantom
from models.pipeline import Image, Pipeline, load_pipeline


@dataclass
class Setting:
    """Model, frames and server of the measurements.

    Attributes:
        model: checkpoint folder.
        size: side of the frames, in pixels.
        rounds: how often each side runs.
        images: frames that are predicted together where several are.
        clients: that ask for predictions at the same time where the server is kept busy.
        rows: tasks of the large project whose leases are measured.
        tasks: of the job that one and two workers do.
        database: a PostgreSQL to measure besides SQLite.
        environ: of the server.
        tick: called after each run of a side.
        device: where `batch`, `matting` and `crops` run; the others are about CPUs, or about the server of `environ`.
    """

    model: Path
    size: int
    rounds: int
    images: int
    clients: int
    rows: int
    tasks: int
    database: str | None
    environ: Mapping[str, str]
    tick: Callable[[], None]
    device: str = "cpu"
    _running: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The model, loaded."""
        return load_pipeline(self.model, self.device)

    @cached_property
    def frames(self) -> list[Image]:
        """Synthetic frames, shape (size, size, 3) each."""
        return [render_phantom(seed, self.size).image for seed in range(self.images)]

    @cached_property
    def server(self) -> BenchServer:
        """`premask serve` with this model on a free port of this machine."""
        server = BenchServer(self.model, self.pipeline.classes, self.frames, self.environ)
        return self._running.enter_context(server.running())

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server, if a case has started it."""
        self._running.close()
