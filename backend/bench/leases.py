"""The leases of a large project: how long a job waits for its next chunk of tasks."""

import contextlib
import itertools
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from backend.bench.measure import Case, Times
from backend.bench.setting import Setting
from backend.database.engine import Database
from backend.database.leases import Leases
from backend.errors import BenchError

CHUNK = 32  # tasks of a prediction job's import
CHUNKS = 5  # per side and round
FEW = 1000  # tasks
CLIENTS = 10  # that open a task every half second each
PAUSE = 0.5
TARGET = 0.030  # seconds per chunk
P = "1"


def chunks(setting: Setting) -> Case:
    """All that a prediction job asks of the leases for a chunk: of few tasks, of many, and while tasks are opened."""
    many = setting.rows
    sides = [("", FEW, False), (f" of {many:,}", many, False), (f" of {many:,}, busy", many, True)]
    times: dict[str, Times] = {}
    against: dict[str, str] = {}
    with ExitStack() as opened:
        engines = {"SQLite": opened.enter_context(_sqlite())}
        if setting.database is not None:
            engines["PostgreSQL"] = opened.enter_context(_postgresql(setting.database))
        for engine, database in engines.items():
            for tasks in (FEW, many):
                Leases(database).request(str(tasks), map(str, range(tasks)))
            names = [f"{engine}{name}" for name, _, _ in sides]
            times |= {name: Times() for name in names}
            against |= dict.fromkeys(names, names[0])
        for _ in range(setting.rounds):
            for engine, database in engines.items():
                leases = Leases(database)
                for name, tasks, busy in sides:
                    with _opening(database, tasks) if busy else contextlib.nullcontext():
                        times[f"{engine}{name}"].wall.extend(_chunk(leases, tasks) for _ in range(CHUNKS))
                setting.tick()
    about = f"a chunk of {CHUNK} tasks"
    return Case(about, times, dict.fromkeys(times, TARGET), against)


def _chunk(leases: Leases, tasks: int) -> float:
    """Seconds of the calls that `PredictionRun` makes for a chunk; afterwards all is as before."""
    project, job = str(tasks), uuid.uuid4().hex
    began = time.perf_counter()
    taken = leases.acquire_due(project, job, CHUNK, 600)
    leases.remaining(project, job)
    mine = leases.commit(project, taken, job, 90, version="bench")
    leases.finish(project, mine, job)
    leases.remaining(project, job)
    spent = time.perf_counter() - began
    if len(mine) != CHUNK:
        raise BenchError(f"{len(mine)} of {CHUNK} tasks could be leased")
    leases.request(project, mine)
    return spent


@contextmanager
def _opening(database: Database, tasks: int) -> Iterator[None]:
    """People open a task each, again and again: their leases are acquired, committed and delivered."""
    stopped, numbers = threading.Event(), itertools.count(tasks)

    def client() -> None:
        leases, project = Leases(database), str(tasks)
        while not stopped.wait(PAUSE):
            holder, task = uuid.uuid4().hex, [str(next(numbers))]
            leases.acquire(project, task, holder, 70, version="bench", committed=True)
            leases.commit(project, task, holder, 70, version="bench")
            leases.delivered(project, task, holder, 5)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


@contextmanager
def _sqlite() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="premask-bench-") as folder:
        yield Database.sqlite(Path(folder) / "bench.sqlite")


@contextmanager
def _postgresql(url: str) -> Iterator[Database]:
    """A schema of its own in a database, so that nothing else in it is touched."""
    schema = f"bench_{uuid.uuid4().hex[:8]}"
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"create schema {schema}".encode())
            database = Database.postgresql(make_conninfo(url, options=f"-c search_path={schema}"))
            try:
                yield database
            finally:
                database.close()
                connection.execute(f"drop schema {schema} cascade".encode())
    except psycopg.Error as error:
        raise BenchError(f"PostgreSQL cannot be measured: {error}", "check --database") from error
