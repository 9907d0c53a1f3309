"""The queue of jobs: requests put a job's id into it, and a worker takes it out.

Trainings go through huey, each to one worker. Several workers do one prediction job: they find it on record (`shares`).
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from huey import Huey, PostgresHuey, SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer

from backend.database.engine import Database, Result
from backend.database.jobs import PREDICTION, REVIEW, TRAINING, Job, JobStore
from backend.database.leases import Leases
from backend.database.shares import Shares
from backend.errors import JobError
from backend.system.processes import is_here, kill_group


class JsonSerializer(Serializer):  # type: ignore[misc]
    """Messages as JSON instead of pickle: access to the queue gives no way to run code."""

    def _serialize(self, data: Any) -> bytes:
        return json.dumps(data).encode()

    def _deserialize(self, data: bytes) -> Message:
        return Message(*json.loads(data))


# By kind of job; prediction jobs need none, and so do not wait for a training to end.
Queues = Mapping[str, Huey]
QUEUED = (TRAINING, REVIEW)
# The result of a job is in its record, so the queues keep none.
OPTIONS: Mapping[str, Any] = {"results": False, "serializer": JsonSerializer()}


def sqlite_queues(path: Path) -> Queues:
    """Queues in a SQLite file."""
    return {kind: SqliteHuey(f"premask-{kind}", filename=str(path), timeout=30, **OPTIONS) for kind in QUEUED}


def postgresql_queues(database: Database) -> Queues:
    """Queues in the same PostgreSQL as the records, in tables of their own."""
    with database.alone(), _reachable():
        return {kind: PostgresHuey(f"premask-{kind}", dsn=database.dsn, **OPTIONS) for kind in QUEUED}


def waiting(queues: Queues) -> int:
    """Number of jobs in the queues.

    Raises:
        JobError: they cannot be reached.
    """

    with _reachable():
        # Each has a connection of its own, which may be of before PostgreSQL was restarted.
        return sum(int(_again(huey.pending_count)) for huey in queues.values())


def close(queues: Queues) -> None:
    """Close the connections of queues; the next call opens them again."""
    for huey in queues.values():
        huey.storage.close()


def no_worker(job_id: str) -> None:
    """Stands for the runner of jobs in the server, which runs none."""
    raise JobError(f"job {job_id} was taken from the queue by a process that is no worker; start `premask worker`")


def on_this_machine(job: Job) -> bool:
    """Whether the worker that runs a job, and so the job's process, is or was on this machine."""
    return worker_here(job.worker or "")


def worker_here(worker: str) -> bool:
    """Whether a worker is or was on this machine."""
    return is_here(worker.rpartition("/")[0])


class JobQueue:
    """Submits jobs and reads their records.

    Args:
        store: the records.
        leases: tasks whose prediction is requested.
        queues: the queue of each kind.
        run: runs the job of an id; in a worker only.
    """

    def __init__(self, store: JobStore, leases: Leases, queues: Queues, run: Callable[[str], None] = no_worker) -> None:
        self.store = store
        self.leases = leases
        self.queues = queues
        self.shares = Shares(store.database, leases)

        # Huey finds the task by module and name, so server and worker both define it here.
        def run_job(job_id: str) -> None:
            run(job_id)

        self._enqueue = {kind: huey.task()(run_job) for kind, huey in queues.items()}

    def submit(self, project: str, kind: str = TRAINING) -> tuple[Job, bool]:
        """The project's waiting or running job, or else a new one; and whether it was there already."""
        job, new = self.store.submit(kind, project)
        if job.state == "queued":
            self.send(job)
        return job, not new

    def predict(self, project: str, tasks: str) -> tuple[Job, bool]:
        """Request predictions of a project's tasks by the served version; returns as `submit` does.

        Args:
            project: Label Studio's project id.
            tasks: "all", or "unlabelled": those without an accepted annotation.
        """
        self.leases.request(project, [tasks])
        return self.submit(project, PREDICTION)

    def cancel(self, job_id: str) -> Job:
        """End a waiting or running job and everything that it started; returns it as it is then.

        Raises:
            UnknownJob: there is none of that id.
            JobConflict: it is over, or its version is being published.
        """
        job = self.store.cancel(job_id)
        self.store.log(job_id, "cancelled")
        # Its worker would see it in a moment, but may be dead.
        if job.process is not None and on_this_machine(job):
            kill_group(job.process)
        if job.kind == PREDICTION:
            for share in self.shares.working(job_id):
                if share.process is not None and worker_here(share.worker):
                    kill_group(share.process)
            self.leases.abandon(job.project, job.id)
        return self.store.get(job_id)

    def waiting(self) -> int:
        """Number of jobs that wait for a worker.

        Raises:
            JobError: the queues cannot be reached.
        """
        return waiting(self.queues) + self.store.waiting(PREDICTION)

    def send(self, job: Job) -> None:
        """Put a job's id into the queue of its kind unless it waits there: its record may be older than a crash.

        Sent twice does no harm, because a worker runs a job only if it can claim the record.

        Raises:
            JobError: the queue cannot be reached.
        """

        def work() -> None:
            if all(job.id not in task.args for task in self.queues[job.kind].pending()):
                self._enqueue[job.kind](job.id)

        if job.kind in self.queues:
            with _reachable():
                _again(work)


def _again(work: Callable[[], Result]) -> Result:
    """Huey learns that PostgreSQL was restarted by a call that fails; the next one connects anew."""
    try:
        return work()
    except psycopg.OperationalError:
        return work()


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        says = next(iter(str(error).splitlines()), type(error).__name__)
        raise JobError(
            f"the queue in PostgreSQL cannot be used: {says}", "check PREMASK_DATABASE_URL and that PostgreSQL runs"
        ) from error
    except sqlite3.Error as error:
        raise JobError(f"the queue's file cannot be used: {error}", "check the disk and who may write") from error
