"""The parts that cases share: a model, frames, and a real server that is started when the first case needs it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from backend.bench.server import BenchServer
from models.data.sample import Sample
from models.data.splitter import spread
from models.phantom import render_phantom
from models.pipeline import Image, Pipeline, fit_square, load_pipeline


@dataclass
class Setting:
    """Model, frames and server of the measurements.

    Attributes:
        model: checkpoint folder.
        size: side of the frames, in pixels.
        rounds: how often each side runs.
        images: frames that are predicted together where several are.
        samples: images of a data folder that take the place of synthetic frames, as many of them as `images`; ()
            for these.
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
    samples: Sequence[Sample] = ()
    _running: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The model, loaded."""
        return load_pipeline(self.model, self.device)

    @cached_property
    def frames(self) -> list[Image]:
        """Synthetic frames, shape (size, size, 3) each; or own images, with a longer side of `size`.

        Raises:
            BadImage: an image cannot be read.
        """
        if not self.samples:
            return [render_phantom(seed, self.size).image for seed in range(self.images)]
        return [self._scaled(sample.read_image()) for sample in spread(self.samples, self.images)]

    def _scaled(self, image: Image) -> Image:
        square, height, width = fit_square(image, self.size)
        return np.ascontiguousarray(square[:height, :width])

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
