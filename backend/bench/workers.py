"""One prediction job done by one worker and by two: how much sooner it ends.

Workers are processes of their own that run `PredictionRun` on one database, as those of `premask worker` do, on a Label
Studio that stores at once. One model only waits, as for a GPU, so that it scales on any machine as far as the leases
let it; the other is the real one, and shares the cores of this machine.
"""

import multiprocessing
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.bench.measure import Case, Times
from backend.database.engine import Database
from backend.database.jobs import PREDICTION, JobStore
from backend.database.leases import Leases
from backend.database.shares import Shares
from backend.errors import BenchError
from backend.jobs.prediction_run import PredictionRun
from backend.label_studio.client import TaskRow
from backend.label_studio.protocol import PredictRequest

if TYPE_CHECKING:  # the processes of the waiting model load no networks
    from backend.bench.setting import Setting

WAITS = 0.1  # seconds of the model that only waits, per task
FEWER = 20  # the real model is asked for a twentieth of the tasks
START_SECONDS = 300.0  # for a process to load what it needs
P, VERSION = "1", "bench"
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image"><Label value="Lumen"/>'
    "</BrushLabels></View>"
)


@dataclass(frozen=True)
class Work:
    """What a worker is told.

    Attributes:
        database: file.
        job: the job's id.
        number: of the worker.
        model: checkpoint folder; None for the model that only waits.
        frames: shape (size, size, 3) each; the real model predicts them in turn.
    """

    database: Path
    job: str
    number: int
    model: Path | None
    frames: Sequence[np.ndarray]


def workers(setting: "Setting") -> Case:
    """A job of many tasks by one worker and by two, per task: with a model that waits, and with the real one."""
    sides: dict[str, Times] = {}
    against: dict[str, str] = {}
    for model, named, tasks in (
        (None, "waiting model", setting.tasks),
        (setting.model, "real model", max(setting.tasks // FEWER, 2)),
    ):
        for count in (1, 2):
            name = f"{named}, {count} {'worker' if count == 1 else 'workers'}"
            sides[name] = Times([_seconds(count, tasks, model, setting.frames) / tasks])
            against[name] = f"{named}, 1 worker"
            setting.tick()
    return Case(f"a job of {setting.tasks:,} tasks, per task", sides, {}, against)


def _seconds(count: int, tasks: int, model: Path | None, frames: Sequence[np.ndarray]) -> float:
    """Seconds in which so many workers do a job, from the moment at which all have loaded their model."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as opened:
        path = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="premask-bench-"))) / "bench.sqlite"
        database = Database.sqlite(path)
        opened.callback(database.close)
        Leases(database).request(P, map(str, range(1, tasks + 1)))
        job, _ = JobStore(database).submit(PREDICTION, P)
        ready, answers = context.Barrier(count + 1), context.Queue()
        processes = [
            context.Process(target=_worker, args=(Work(path, job.id, number, model, frames), ready, answers))
            for number in range(count)
        ]
        for process in processes:
            process.start()
            opened.callback(process.join)
        try:
            ready.wait(START_SECONDS)
            began = time.perf_counter()
            stored = [answers.get() for _ in processes]
        except (threading.BrokenBarrierError, queue.Empty) as error:
            raise BenchError("a worker did not start; its words are above") from error
        spent = time.perf_counter() - began
    every = sorted(task for one in stored for task in one)
    if every != list(range(1, tasks + 1)):
        raise BenchError(f"{len(every)} predictions of {len(set(every))} tasks were stored, of {tasks} tasks")
    return spent


def _worker(work: Work, ready: Any, answers: Any) -> None:
    try:
        database = Database.sqlite(work.database)
        leases = Leases(database)
        job = JobStore(database).get(work.job)
        shares, worker = Shares(database, leases), f"bench/{work.number}"
        predictor = _Waiting() if work.model is None else _Real(work.model, work.frames)
        shares.take(worker)
    except BaseException:
        ready.abort()
        raise
    label_studio = _LabelStudio()

    def tell(message: str) -> None:
        shares.report(job, worker, message, drawn=run.drawn, pace=run.pace)

    run = PredictionRun(P, work.job, label_studio, predictor, lambda _: VERSION, shares, tell, worker=worker)
    ready.wait(START_SECONDS)
    run.run()
    answers.put(label_studio.stored)
    database.close()


class _Waiting:
    """A predictor that takes its time and computes nothing."""

    def predict(
        self, request: PredictRequest, done: Callable[[int], None], problem: Callable[[Any, str], None]
    ) -> list[Any]:
        time.sleep(WAITS * len(request.tasks))
        done(len(request.tasks))
        return [{"result": [], "score": 0.0, "model_version": VERSION} for _ in request.tasks]


class _Real:
    """A predictor with the networks of a checkpoint, on one core each."""

    def __init__(self, model: Path, frames: Sequence[np.ndarray]) -> None:
        import torch

        from models.pipeline import load_pipeline

        torch.set_num_threads(1)
        self._pipeline, self._frames = load_pipeline(model), frames
        self._pipeline.predict([frames[0]])

    def predict(
        self, request: PredictRequest, done: Callable[[int], None], problem: Callable[[Any, str], None]
    ) -> list[Any]:
        entries = []
        for task in request.tasks:
            self._pipeline.predict([self._frames[task["id"] % len(self._frames)]])
            entries.append({"result": [], "score": 0.0, "model_version": VERSION})
            done(len(entries))
        return entries


class _LabelStudio:
    """Stores what one worker sends at once."""

    def __init__(self) -> None:
        self.stored: list[int] = []

    def project(self, project_id: str) -> Mapping[str, Any]:
        return {"label_config": CONFIG}

    def task_rows(
        self, project_id: str, task_ids: Collection[int] | None = None, *, annotated: bool | None = None
    ) -> list[TaskRow]:
        known = set(self.stored)
        return [TaskRow(task, {}, "", frozenset({VERSION} if task in known else ())) for task in task_ids or ()]

    def import_predictions(self, project_id: str, rows: Sequence[Mapping[str, Any]]) -> int:
        self.stored += [row["task"] for row in rows]
        return len(rows)

    def create_prediction(self, row: Mapping[str, Any]) -> None:
        self.stored.append(row["task"])
