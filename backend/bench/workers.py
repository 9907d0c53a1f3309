"""One prediction job done by one worker and by two: how much sooner it ends.

Workers are processes of their own that run `PredictionRun` on one database, as those of `premask worker` do, on a Label
Studio that stores at once. One model only waits, as for a GPU, so that it scales on any machine as far as the leases
let it. The other is the real one. Each of its workers has cores of its own, half of this machine's: so one stands for a
machine, and two for two machines. What one worker does with all cores tells what a second is good for on one machine.
"""

import multiprocessing
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backend.bench.measure import Case, Times
from backend.database.engine import Database
from backend.database.jobs import PREDICTION, JobStore
from backend.database.leases import Leases
from backend.database.shares import Shares
from backend.errors import BenchError
from backend.jobs.prediction_run import CHUNK, PredictionRun
from backend.label_studio.client import TaskRow
from backend.label_studio.protocol import PredictRequest

if TYPE_CHECKING:  # the processes of the waiting model load no networks
    from backend.bench.setting import Setting

WAITS = 0.1  # seconds of the model that only waits, per task
FEWER = 20  # the real model is asked for a twentieth of the tasks
CHUNKS = 10  # of them, or the first worker would take them all
ROUNDS = 3  # at most
START_SECONDS = 300.0  # for a process to load what it needs
P, VERSION = "1", "bench"
CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image"><Label value="Lumen"/>'
    "</BrushLabels></View>"
)


@dataclass(frozen=True)
class Side:
    """A job, and who does it.

    Attributes:
        against: the side that it is compared with.
        tasks: of the job.
        chunk: tasks that a worker leases together.
        model: checkpoint folder; None for the model that only waits.
        cores: of each worker; None for all that there are.
    """

    against: str
    tasks: int
    chunk: int
    model: Path | None
    cores: Sequence[frozenset[int] | None]


@dataclass(frozen=True)
class Work:
    """What a worker is told.

    Attributes:
        database: file.
        job: the job's id.
        number: of the worker.
        cores: that it may use; None for all that there are.
        chunk: tasks that it leases together.
        model: checkpoint folder; None for the model that only waits.
        frames: shape (size, size, 3) each; the real model predicts them in turn.
    """

    database: Path
    job: str
    number: int
    cores: frozenset[int] | None
    chunk: int
    model: Path | None
    frames: Sequence[np.ndarray]


def workers(setting: "Setting") -> Case:
    """A job of many tasks by one worker and by two, per task: with a model that waits, and with the real one."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2 or 1
    one, two = frozenset(cores[:half]), frozenset(cores[-half:])
    few = max(setting.tasks // FEWER, 2)
    waits, computes = "waiting model, 1 worker", f"real model, 1 worker, {_cores(half)}"

    def real(*of_workers: frozenset[int]) -> Side:
        return Side(computes, few, max(few // CHUNKS, 1), setting.model, of_workers)

    sides = {waits: Side(waits, setting.tasks, CHUNK, None, [None])}
    sides["waiting model, 2 workers"] = replace(sides[waits], cores=[None, None])
    sides |= {computes: real(one), f"real model, 2 workers, {_cores(half)} each": real(one, two)}
    if len(cores) > half:
        sides[f"real model, 1 worker, {_cores(len(cores))}"] = real(frozenset(cores))
    times = {name: Times() for name in sides}
    for _ in range(min(setting.rounds, ROUNDS)):
        for name, side in sides.items():
            wall, cpu = _seconds(side, setting.frames)
            times[name].wall.append(wall / side.tasks)
            times[name].cpu.append(cpu / side.tasks)
            setting.tick()
    about = f"a job of {setting.tasks:,} tasks, or {few:,} with the real model, per task"
    return Case(about, times, {}, {name: side.against for name, side in sides.items()})


def _cores(count: int) -> str:
    return f"{count} core" if count == 1 else f"{count} cores"


def _seconds(side: Side, frames: Sequence[np.ndarray]) -> tuple[float, float]:
    """Seconds in which workers do a job, once all have loaded their model, and that they compute."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as opened:
        path = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="premask-bench-"))) / "bench.sqlite"
        database = Database.sqlite(path)
        opened.callback(database.close)
        Leases(database).request(P, map(str, range(1, side.tasks + 1)))
        job, _ = JobStore(database).submit(PREDICTION, P)
        ready, answers = context.Barrier(len(side.cores) + 1), context.Queue()
        works = [
            Work(path, job.id, number, own, side.chunk, side.model, frames) for number, own in enumerate(side.cores)
        ]
        processes = [context.Process(target=_worker, args=(work, ready, answers)) for work in works]
        for process in processes:
            process.start()
            opened.callback(process.join)
        try:
            ready.wait(START_SECONDS)
            began = time.perf_counter()
            done = [answers.get() for _ in processes]
        except (threading.BrokenBarrierError, queue.Empty) as error:
            raise BenchError("a worker did not start; its words are above") from error
        spent = time.perf_counter() - began
    every = sorted(task for stored, _ in done for task in stored)
    if every != list(range(1, side.tasks + 1)):
        raise BenchError(f"{len(every)} predictions of {len(set(every))} tasks were stored, of {side.tasks} tasks")
    return spent, sum(computed for _, computed in done)


def _worker(work: Work, ready: Any, answers: Any) -> None:
    try:
        if work.cores is not None:
            os.sched_setaffinity(0, work.cores)  # before any library counts them
        database = Database.sqlite(work.database)
        leases = Leases(database)
        job = JobStore(database).get(work.job)
        shares, worker = Shares(database, leases), f"bench/{work.number}"
        predictor = (
            _Waiting() if work.model is None or work.cores is None else _Real(work.model, len(work.cores), work.frames)
        )
        shares.take(worker)
    except BaseException:
        ready.abort()
        raise
    label_studio = _LabelStudio()

    def tell(message: str) -> None:
        shares.report(job, worker, message, drawn=run.drawn, pace=run.pace)

    run = PredictionRun(
        P, work.job, label_studio, predictor, lambda _: VERSION, shares, tell, worker=worker, chunk=work.chunk
    )
    ready.wait(START_SECONDS)
    began = time.process_time()
    run.run()
    answers.put((label_studio.stored, time.process_time() - began))
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
    """A predictor with the networks of a checkpoint, on the cores of its worker."""

    def __init__(self, model: Path, cores: int, frames: Sequence[np.ndarray]) -> None:
        import torch

        from models.pipeline import load_pipeline

        torch.set_num_threads(cores)
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
