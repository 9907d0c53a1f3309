"""Records of jobs: what the API shows, and what a worker needs to go on after a crash."""

import time
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from backend.database.records import Document, Records
from backend.errors import JobConflict, JobError, UnknownJob

TRAINING, PREDICTION = "training", "prediction"
KINDS = (TRAINING, PREDICTION)

RUNNING = ("fetching", "training", "evaluating", "publishing", "predicting")
ACTIVE = ("queued", *RUNNING)
FINISHED = ("done", "failed", "cancelled")
LOG_LINES = 2000  # kept per job
KEPT = 500  # finished jobs
MAX_WAITING = 500  # queued jobs: every change reads all records

TABLE = "jobs"


@dataclass(frozen=True)
class Job:
    """One job as it is now.

    Attributes:
        id: names it in the API and in the data folder.
        kind: "training" or "prediction"; the latter predicts many tasks and stores them through Label Studio's API.
        project: Label Studio's project id.
        state: queued, fetching, training, evaluating, publishing, predicting, done, failed or cancelled.
        created: Unix time.
        updated: Unix time of the last change.
        started: Unix time at which a worker last claimed it.
        progress: 0 to 1.
        eta: seconds left, estimated; None while unknown.
        message: its current step.
        reason: why it failed, or why it began again.
        version: the model version it makes or made, or predicts with.
        figures: current figures: step and loss of a training, done and total tasks of a prediction job.
        report: a training's annotations used and dropped, by reason; a prediction job's tasks, by outcome.
        metrics: the new version's figures on held-out tasks ("new"), its parent's on the same ("parent"), and whether
            it is promoted and why ("promote", "verdict").
        worker: the worker that runs it, "host/pid:start".
        process: its process, "pid:start".
        beat: Unix time of its worker's last sign of life.
        restarts: number of restarts after its worker or process died without progress in between.
    """

    id: str
    kind: str
    project: str
    state: str
    created: float
    updated: float
    started: float | None = None
    progress: float = 0.0
    eta: float | None = None
    message: str = ""
    reason: str = ""
    version: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    worker: str | None = None
    process: str | None = None
    beat: float = 0.0
    restarts: int = 0


NAMES = {one.name for one in fields(Job)}


class JobStore:
    """Job records, safe to use from several threads and processes at once.

    Args:
        records: where they are kept.
        kept: finished jobs that are kept; the oldest are removed with their logs.
        log_lines: lines that are kept per job.
        max_waiting: queued jobs beyond which new ones are refused.
    """

    def __init__(
        self, records: Records, *, kept: int = KEPT, log_lines: int = LOG_LINES, max_waiting: int = MAX_WAITING
    ) -> None:
        self._records = records
        self._kept, self._log_lines, self._max_waiting = kept, log_lines, max_waiting

    def submit(self, kind: str, project: str) -> tuple[Job, bool]:
        """The project's waiting or running job of that kind, or else a new one; and whether it is new.

        Raises:
            JobError: it would be a new one, and `max_waiting` wait already.
        """
        now = time.time()
        # Ids sort by time, which is handy in folders; the rest makes them unique.
        new = Job(
            f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{uuid.uuid4().hex[:6]}",
            kind,
            project,
            "queued",
            created=now,
            updated=now,
        )

        def work(rows: dict[str, Document]) -> tuple[Job, bool, list[str]]:
            jobs = [_job(row) for row in rows.values()]
            for job in jobs:
                if job.kind == kind and job.project == project and job.state in ACTIVE:
                    return job, False, []
            if sum(job.state == "queued" for job in jobs) >= self._max_waiting:
                raise JobError(f"{self._max_waiting} jobs wait already; start a worker, or cancel some, then ask again")
            rows[new.id] = asdict(new)
            finished = sorted((job for job in jobs if job.state in FINISHED), key=_age, reverse=True)
            for old in finished[self._kept :]:
                del rows[old.id]
            return new, True, [old.id for old in finished[self._kept :]]

        job, is_new, removed = self._records.change(TABLE, work)
        self._records.discard(removed)
        return job, is_new

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            UnknownJob: there is none of that id.
        """
        return _known(self._records.read(TABLE, [job_id]), job_id)

    def find(
        self,
        project: str | None = None,
        states: Collection[str] = (),
        limit: int = 100,
        kind: str | None = None,
    ) -> list[Job]:
        """Jobs, newest first.

        Args:
            project: only of this project.
            states: only in one of these states.
            limit: at most that many.
            kind: only of this kind.
        """
        found = [
            job
            for job in map(_job, self._records.read(TABLE).values())
            if project in (None, job.project) and kind in (None, job.kind) and (not states or job.state in states)
        ]
        return sorted(found, key=_age, reverse=True)[:limit]

    def claim(self, job_id: str, worker: str) -> bool:
        """Take a queued job for a worker; False if it is not queued any more, so a job never runs twice at once."""
        now = time.time()

        def work(rows: dict[str, Document]) -> bool:
            job = _known(rows, job_id)
            if job.state != "queued":
                return False
            rows[job_id] = asdict(
                replace(
                    job,
                    state="fetching",
                    worker=worker,
                    process=None,
                    beat=now,
                    updated=now,
                    started=now,
                    progress=0.0,
                    eta=None,
                )
            )
            return True

        return self._records.change(TABLE, work, [job_id])

    def release(self, job: Job, state: str, reason: str, *, restarts: int) -> bool:
        """Take a running job from its worker, to "queued" or "failed"; False if it moved on since `job` was read."""
        changes = {"worker": None, "process": None, "message": "", "eta": None}
        return self.advance(job, state=state, reason=reason, restarts=restarts, progress=0.0, **changes)

    def advance(self, job: Job, **changes: Any) -> bool:
        """Set fields of a job that the worker named in `job` still runs; False if it was cancelled or taken over."""

        def work(rows: dict[str, Document]) -> bool:
            now = _known(rows, job.id)
            if now.state not in RUNNING or now.worker != job.worker:
                return False
            self._set(rows, job.id, changes)
            return True

        return self._records.change(TABLE, work, [job.id])

    def cancel(self, job_id: str) -> Job:
        """End a waiting or running job; returns it as it was before.

        Raises:
            UnknownJob: there is none of that id.
            JobConflict: it is over, or its version is being published.
        """

        def work(rows: dict[str, Document]) -> Job:
            job = _known(rows, job_id)
            if job.state in FINISHED:
                raise JobConflict(f"job {job_id} is {job.state} already")
            if job.state == "publishing":
                raise JobConflict(
                    f"job {job_id} is publishing {job.version} this moment; roll back if it should not be served"
                )
            self._set(rows, job_id, {"state": "cancelled", "reason": "cancelled", "message": "", "eta": None})
            return job

        return self._records.change(TABLE, work, [job_id])

    def beat(self, worker: str) -> None:
        """Record a sign of life of a worker."""
        now = time.time()

        def work(rows: dict[str, Document]) -> None:
            for row in rows.values():
                if row["worker"] == worker:
                    row["beat"] = now

        if own := [job.id for job in self.find(states=RUNNING, limit=KEPT) if job.worker == worker]:
            self._records.change(TABLE, work, own)

    def log(self, job_id: str, line: str) -> None:
        """Append a line to a job's log; beyond `log_lines` the oldest are removed."""
        self._records.append(job_id, f"{time.strftime('%H:%M:%S', time.gmtime())} {line[:2000]}", self._log_lines)

    def log_tail(self, job_id: str, lines: int = 50) -> list[str]:
        """The last lines of a job's log, oldest first, each with its time (UTC)."""
        return self._records.tail(job_id, lines)

    @staticmethod
    def _set(rows: dict[str, Document], job_id: str, changes: dict[str, Any]) -> None:
        rows[job_id] = asdict(replace(_known(rows, job_id), **changes, updated=time.time()))


def _known(rows: dict[str, Document], job_id: str) -> Job:
    if job_id not in rows:
        raise UnknownJob(f"there is no job {job_id!r}; GET /api/jobs lists those there are")
    return _job(rows[job_id])


def _job(row: Document) -> Job:
    # A worker of another release may have written fields that this one does not know.
    known = {name: value for name, value in row.items() if name in NAMES}
    if known["kind"] == "annotation":  # names of the first release
        known["kind"] = PREDICTION
    if known["state"] == "annotating":
        known["state"] = "predicting"
    return Job(**known)


def _age(job: Job) -> tuple[float, str]:
    return job.created, job.id
