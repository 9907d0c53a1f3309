"""Records of jobs in a SQLite file: what the API shows, and what a worker needs to go on after a crash."""

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from backend.errors import JobError, UnknownJob

RUNNING = ("fetching", "training", "evaluating", "publishing")
ACTIVE = ("queued", *RUNNING)
FINISHED = ("done", "failed")
LOG_LINES = 2000  # kept per job

SCHEMA = f"""
create table if not exists jobs (
    id text primary key, kind text not null, project text not null, state text not null,
    created real not null, updated real not null,
    progress real not null default 0, message text not null default '', reason text not null default '',
    version text, report text not null default '{{}}', metrics text not null default '{{}}',
    worker text, process text, beat real not null default 0, restarts integer not null default 0);
create unique index if not exists one_active_job on jobs (kind, project)
    where state in ({", ".join(f"'{state}'" for state in ACTIVE)});
create index if not exists jobs_by_project on jobs (project, created);
create table if not exists log (
    number integer primary key autoincrement, job text not null, at real not null, line text not null);
create index if not exists log_by_job on log (job, number);
"""


@dataclass(frozen=True)
class Job:
    """One job as it is now.

    Attributes:
        id: names it in the API and in the data folder.
        kind: "training".
        project: Label Studio's project id.
        state: queued, fetching, training, evaluating, publishing, done or failed.
        created: Unix time.
        updated: Unix time of the last change.
        progress: 0 to 1.
        message: what it does right now.
        reason: why it failed, or why it began again.
        version: the model version it makes or made.
        report: annotations used and dropped, by reason.
        metrics: the new version's figures on held-out tasks, and its parent's on the same.
        worker: the worker that runs it, "host/pid:start".
        process: the training process, "pid:start".
        beat: Unix time at which its worker last said that it lives.
        restarts: how often it began again after its worker died.
    """

    id: str
    kind: str
    project: str
    state: str
    created: float
    updated: float
    progress: float = 0.0
    message: str = ""
    reason: str = ""
    version: str | None = None
    report: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    worker: str | None = None
    process: str | None = None
    beat: float = 0.0
    restarts: int = 0


class JobStore:
    """Job records, safe to use from several threads and processes at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Server and worker start together, and SQLite does not wait when two switch a new file to WAL at once.
        with FileLock(f"{path}.lock"), self._connection() as connection:
            # Readers (the API) then never wait for the writer (the worker).
            connection.execute("pragma journal_mode=wal")
            connection.executescript(SCHEMA)

    def submit(self, kind: str, project: str) -> tuple[Job, bool]:
        """The project's waiting or running job of that kind, or else a new one; and whether it is new."""
        now = time.time()
        # Ids sort by time, which is handy in folders; the rest makes them unique.
        new = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{uuid.uuid4().hex[:6]}"
        with self._connection() as connection:
            connection.execute("begin immediate")
            inserted = connection.execute(
                "insert or ignore into jobs (id, kind, project, state, created, updated) "
                "values (?, ?, ?, 'queued', ?, ?)",
                (new, kind, project, now, now),
            ).rowcount
            row = connection.execute(
                f"select * from jobs where kind = ? and project = ? and state in ({_marks(ACTIVE)})",
                (kind, project, *ACTIVE),
            ).fetchone()
            connection.execute("commit")
        return _job(row), inserted == 1

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            UnknownJob: there is none of that id.
        """
        with self._connection() as connection:
            row = connection.execute("select * from jobs where id = ?", (job_id,)).fetchone()
        if row is None:
            raise UnknownJob(f"there is no job {job_id!r}; GET /api/jobs lists those there are")
        return _job(row)

    def find(self, project: str | None = None, states: tuple[str, ...] = (), limit: int = 100) -> list[Job]:
        """Jobs, newest first.

        Args:
            project: only of this project.
            states: only in one of these states.
            limit: at most that many.
        """
        where, values = ["1"], list[Any]()
        if project is not None:
            where, values = [*where, "project = ?"], [*values, project]
        if states:
            where, values = [*where, f"state in ({_marks(states)})"], [*values, *states]
        sql = f"select * from jobs where {' and '.join(where)} order by created desc, rowid desc limit ?"
        with self._connection() as connection:
            return [_job(row) for row in connection.execute(sql, (*values, limit))]

    def claim(self, job_id: str, worker: str) -> bool:
        """Take a queued job for a worker; False if another has it or it is over, so a job never runs twice at once."""
        now = time.time()
        with self._connection() as connection:
            taken = connection.execute(
                "update jobs set state = 'fetching', worker = ?, process = null, beat = ?, updated = ?, progress = 0 "
                "where id = ? and state = 'queued'",
                (worker, now, now, job_id),
            )
            return taken.rowcount == 1

    def release(self, job: Job, state: str, reason: str, *, restarts: int) -> bool:
        """Take a running job from its worker, to "queued" or "failed"; False if it moved on since `job` was read."""
        with self._connection() as connection:
            changed = connection.execute(
                "update jobs set state = ?, worker = null, process = null, progress = 0, message = '', "
                f"reason = ?, restarts = ?, updated = ? where id = ? and worker is ? and state in ({_marks(RUNNING)})",
                (state, reason, restarts, time.time(), job.id, job.worker, *RUNNING),
            )
            return changed.rowcount == 1

    def update(self, job_id: str, **changes: Any) -> None:
        """Set fields of a job; dictionaries are stored as JSON."""
        values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in changes.items()}
        values["updated"] = time.time()
        assignments = ", ".join(f"{name} = ?" for name in values)
        with self._connection() as connection:
            connection.execute(f"update jobs set {assignments} where id = ?", (*values.values(), job_id))

    def beat(self, worker: str) -> None:
        """Note that a worker lives."""
        with self._connection() as connection:
            connection.execute(
                f"update jobs set beat = ? where worker = ? and state in ({_marks(RUNNING)})",
                (time.time(), worker, *RUNNING),
            )

    def log(self, job_id: str, line: str) -> None:
        """Append a line to a job's log; beyond LOG_LINES the oldest go."""
        with self._connection() as connection:
            number = connection.execute(
                "insert into log (job, at, line) values (?, ?, ?)", (job_id, time.time(), line[:2000])
            ).lastrowid
            if number is not None and number % 100 == 0:
                connection.execute(
                    "delete from log where job = ? and number <= "
                    "(select number from log where job = ? order by number desc limit 1 offset ?)",
                    (job_id, job_id, LOG_LINES),
                )

    def log_tail(self, job_id: str, lines: int = 50) -> list[str]:
        """The last lines of a job's log, oldest first."""
        with self._connection() as connection:
            rows = connection.execute(
                "select at, line from log where job = ? order by number desc limit ?", (job_id, lines)
            ).fetchall()
        return [f"{time.strftime('%H:%M:%S', time.gmtime(row['at']))} {row['line']}" for row in reversed(rows)]

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for one operation: cheap beside what jobs do, and nothing to share between threads."""
        try:
            with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
                connection.row_factory = sqlite3.Row
                connection.execute("pragma synchronous=normal")
                yield connection
        except sqlite3.OperationalError as error:
            raise JobError(
                f"job records in {self._path} cannot be used: {error}; check the disk and who may write"
            ) from error


def _job(row: sqlite3.Row) -> Job:
    fields = dict(row)
    return Job(**fields | {name: json.loads(fields[name]) for name in ("report", "metrics")})


def _marks(values: tuple[str, ...]) -> str:
    return ", ".join("?" * len(values))
