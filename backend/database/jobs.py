"""Records of jobs: what the API shows, and what a worker needs to go on after a crash."""

import time
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from backend.database.bounded import bounded, shortened
from backend.database.engine import Database, insert_into
from backend.database.tables import ACTIVE as ACTIVE  # the jobs' word, which indexes need too
from backend.database.tables import JOBS, LINES
from backend.errors import JobConflict, JobError, UnknownJob

TRAINING, PREDICTION, REVIEW = "training", "prediction", "review"
KINDS = (TRAINING, PREDICTION, REVIEW)

RUNNING = tuple(state for state in ACTIVE if state != "queued")
FINISHED = ("done", "failed", "cancelled")
LOG_LINES = 2000  # of a log, kept per job
TRIMMED_EVERY = 100  # lines
KEPT = 500  # finished jobs
MAX_WAITING = 500  # queued jobs


@dataclass(frozen=True)
class Job:
    """One job as it is now.

    Attributes:
        id: names it in the API and in the data folder.
        kind: "training", "prediction" or "review"; the second predicts many tasks and stores them through Label
            Studio's API, the last looks for accepted tasks that are worth a second look.
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
        report: a training's annotations used and dropped, by reason; a prediction job's tasks, by outcome. Where it
            would be too long, "cut_off" says how many entries each field lacks.
        metrics: the new version's figures on held-out tasks ("new"), its parent's on the same ("parent"), and whether
            it is promoted and why ("promote", "verdict").
        worker: the worker that runs a training, "machine/pid:start"; those of a prediction job have shares of it.
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


class JobStore:
    """Job records, safe to use from several threads and processes at once.

    Args:
        database: where they are kept.
        kept: finished jobs that are kept; the oldest are removed with their logs.
        log_lines: lines that are kept per job.
        max_waiting: queued jobs beyond which new ones are refused.
    """

    def __init__(
        self, database: Database, *, kept: int = KEPT, log_lines: int = LOG_LINES, max_waiting: int = MAX_WAITING
    ) -> None:
        self.database = self._database = database
        self._kept, self._log_lines, self._max_waiting = kept, log_lines, max_waiting

    def submit(self, kind: str, project: str) -> tuple[Job, bool]:
        """The project's waiting or running job of that kind, or else a new one; and whether it is new.

        Raises:
            JobError: it would be a new one, and `max_waiting` wait already.
        """
        now = self._database.time()
        # Ids sort by time, which is handy in folders; the rest makes them unique.
        new = Job(
            f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{uuid.uuid4().hex[:6]}",
            kind,
            project,
            "queued",
            created=now,
            updated=now,
        )
        active = select(JOBS).where(JOBS.c.kind == kind, JOBS.c.project == project, JOBS.c.state.in_(ACTIVE))

        def work(connection: Connection) -> tuple[Job, bool]:
            while True:
                if (there := connection.execute(active).one_or_none()) is not None:
                    return Job(**there._asdict()), False
                waiting = select(func.count()).select_from(JOBS).where(JOBS.c.state == "queued")
                if connection.execute(waiting).scalar_one() >= self._max_waiting:
                    raise JobError(
                        f"{self._max_waiting} jobs wait already; start a worker, or cancel some, then ask again"
                    )
                # Of two that come here at the same moment the index lets one in.
                if insert_new(connection, new):
                    self._forget_oldest(connection)
                    return new, True

        return self._database.change(work)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            UnknownJob: there is none of that id.
        """
        return self._database.read(lambda connection: _known(connection, job_id))

    def held(self, connection: Connection, job_id: str) -> Job:
        """One job, which nobody else changes until the transaction of `connection` ends.

        Raises:
            UnknownJob: there is none of that id.
        """
        return _known(connection, job_id, locked=True)

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
        query = select(JOBS).order_by(JOBS.c.created.desc(), JOBS.c.id.desc()).limit(limit)
        if project is not None:
            query = query.where(JOBS.c.project == project)
        if kind is not None:
            query = query.where(JOBS.c.kind == kind)
        if states:
            query = query.where(JOBS.c.state.in_(states))
        return self._database.read(lambda connection: [Job(**row._asdict()) for row in connection.execute(query)])

    def counts(self) -> dict[tuple[str, str], int]:
        """The number of jobs by kind and state."""
        query = select(JOBS.c.kind, JOBS.c.state, func.count()).group_by(JOBS.c.kind, JOBS.c.state)
        return self._database.read(
            lambda connection: {(kind, state): count for kind, state, count in connection.execute(query)}
        )

    def waiting(self, kind: str) -> int:
        """Number of queued jobs of a kind."""
        query = select(func.count()).select_from(JOBS).where(JOBS.c.state == "queued", JOBS.c.kind == kind)
        return self._database.read(lambda connection: connection.execute(query).scalar_one())

    def claim(self, job_id: str, worker: str) -> bool:
        """Take a queued job for a worker; False if it is not queued any more, so a job never runs twice at once."""
        now = self._database.time()
        taken = (
            update(JOBS)
            .where(JOBS.c.id == job_id, JOBS.c.state == "queued")
            .values(
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
        return self._changes(job_id, taken)

    def release(self, job: Job, state: str, reason: str, *, restarts: int) -> bool:
        """Take a running job from its worker, to "queued" or "failed"; False if it moved on since `job` was read."""
        changes = {"worker": None, "process": None, "message": "", "eta": None}
        return self.advance(job, state=state, reason=reason, restarts=restarts, progress=0.0, **changes)

    def advance(self, job: Job, **changes: Any) -> bool:
        """Set fields of a job that the worker named in `job` still runs; False if it was cancelled or taken over.

        Report, figures and texts are kept within a size (`backend.database.bounded`).
        """
        changes |= {name: bounded(changes[name]) for name in ("report", "figures") if name in changes}
        changes |= {name: shortened(changes[name]) for name in ("message", "reason") if name in changes}
        advanced = (
            update(JOBS)
            .where(JOBS.c.id == job.id, JOBS.c.state.in_(RUNNING), JOBS.c.worker.is_not_distinct_from(job.worker))
            .values(**changes, updated=self._database.time())
        )
        return self._changes(job.id, advanced)

    def cancel(self, job_id: str) -> Job:
        """End a waiting or running job; returns it as it was before.

        Raises:
            UnknownJob: there is none of that id.
            JobConflict: it is over, or its version is being published.
        """

        def work(connection: Connection) -> Job:
            job = _known(connection, job_id, locked=True)
            if job.state in FINISHED:
                raise JobConflict(f"job {job_id} is {job.state} already")
            if job.state == "publishing":
                raise JobConflict(
                    f"job {job_id} is publishing {job.version} this moment; roll back if it should not be served"
                )
            ended = {
                "state": "cancelled",
                "reason": "cancelled",
                "message": "",
                "eta": None,
                "updated": self._database.time(),
            }
            connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(ended))
            return job

        return self._database.change(work)

    def beat(self, worker: str) -> None:
        """Record a sign of life of a worker."""
        alive = (
            update(JOBS).where(JOBS.c.state.in_(RUNNING), JOBS.c.worker == worker).values(beat=self._database.time())
        )
        self._database.change(lambda connection: connection.execute(alive))

    def log(self, job_id: str, line: str) -> None:
        """Append a line to a job's log; beyond `log_lines` the oldest are removed."""
        line = f"{time.strftime('%H:%M:%S', time.gmtime())} {line[:2000]}"

        def work(connection: Connection) -> None:
            added = connection.execute(insert(LINES).values(job=job_id, line=line))
            if added.inserted_primary_key is not None and added.inserted_primary_key[0] % TRIMMED_EVERY == 0:
                of_job = select(LINES.c.number).where(LINES.c.job == job_id)
                newest = of_job.order_by(LINES.c.number.desc()).offset(self._log_lines).limit(1)
                last = connection.execute(newest).scalar_one_or_none()
                if last is not None:
                    connection.execute(delete(LINES).where(LINES.c.job == job_id, LINES.c.number <= last))

        self._database.change(work)

    def log_tail(self, job_id: str, lines: int = 50) -> list[str]:
        """The last lines of a job's log, oldest first, each with its time (UTC)."""
        tail = select(LINES.c.line).where(LINES.c.job == job_id).order_by(LINES.c.number.desc())
        found = self._database.read(lambda connection: connection.execute(tail.limit(lines)).scalars().all())
        return list(reversed(found))

    def _changes(self, job_id: str, change: Any) -> bool:
        """Whether an update of one job changes it.

        Raises:
            UnknownJob: there is none of that id.
        """

        def work(connection: Connection) -> bool:
            changed = connection.execute(change).rowcount > 0
            if not changed:
                _known(connection, job_id)
            return changed

        return self._database.change(work)

    def _forget_oldest(self, connection: Connection) -> None:
        finished = select(JOBS.c.id).where(JOBS.c.state.in_(FINISHED))
        oldest = finished.order_by(JOBS.c.created.desc(), JOBS.c.id.desc()).offset(self._kept).limit(1000)
        if removed := connection.execute(oldest).scalars().all():
            connection.execute(delete(JOBS).where(JOBS.c.id.in_(removed)))
            connection.execute(delete(LINES).where(LINES.c.job.in_(removed)))


def insert_new(connection: Connection, job: Job) -> bool:
    """Insert a job if it may be: no other has its id, and none of its project and kind is active."""
    new = insert_into(connection, JOBS).values(asdict(job)).on_conflict_do_nothing().returning(JOBS.c.id)
    return connection.execute(new).one_or_none() is not None


def _known(connection: Connection, job_id: str, *, locked: bool = False) -> Job:
    query = select(JOBS).where(JOBS.c.id == job_id)
    row = connection.execute(query.with_for_update() if locked else query).one_or_none()
    if row is None:
        raise UnknownJob(f"there is no job {job_id!r}; GET /api/jobs lists those there are")
    return Job(**row._asdict())
