"""The queue: who asks for work leaves a job's id here, and a worker takes it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huey import Huey, SqliteHuey
from huey.registry import Message
from huey.serializer import Serializer

from backend.errors import JobError
from backend.jobs.store import Job, JobStore

TRAINING = "training"


class JsonSerializer(Serializer):  # type: ignore[misc]
    """Messages as JSON instead of pickle: whoever can write to the queue's file still cannot run code."""

    def _serialize(self, data: Any) -> bytes:
        return json.dumps(data).encode()

    def _deserialize(self, data: bytes) -> Any:
        return Message(*json.loads(data))


def sqlite_queue(path: Path) -> Huey:
    """A queue in a SQLite file."""
    # What came of a job is in its record, so the queue keeps no results.
    return SqliteHuey("premask", filename=str(path), results=False, serializer=JsonSerializer(), timeout=30)


def no_worker(job_id: str) -> None:
    """What runs a job where nothing should: in the server."""
    raise JobError(f"job {job_id} was taken from the queue by a process that is no worker; start `premask worker`")


class JobQueue:
    """Submits jobs and reads their records.

    Args:
        store: the records.
        huey: the queue proper.
        run: does the job of an id; in a worker only.
    """

    def __init__(self, store: JobStore, huey: Huey, run: Callable[[str], None] = no_worker) -> None:
        self.store = store
        self.huey = huey

        # Huey finds the task by module and name, so server and worker both define it here.
        @huey.task()  # type: ignore[untyped-decorator]
        def run_job(job_id: str) -> None:
            run(job_id)

        self._enqueue = run_job

    def submit(self, project: str, kind: str = TRAINING) -> tuple[Job, bool]:
        """The project's waiting or running job, or else a new one; and whether the request joined an earlier one."""
        job, new = self.store.submit(kind, project)
        if job.state == "queued":
            self.send(job.id)
        return job, not new

    def send(self, job_id: str) -> None:
        """Put a job's id into the queue unless it waits there: its record may be older than a crash.

        Sent twice does no harm, because a worker runs a job only if it can claim the record.
        """
        if all(job_id not in task.args for task in self.huey.pending()):
            self._enqueue(job_id)
