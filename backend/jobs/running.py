"""The life of a job, the same for every kind: it is claimed, runs in a process, and its end is recorded.

A `Runner` takes a job and hands an `Attempt` to the `Work` of the job's kind (`training`, `prediction`).
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from backend.database.jobs import PREDICTION, REVIEW, RUNNING, TRAINING, Job, JobStore
from backend.database.leases import Leases
from backend.errors import BackendError, JobError, JobInterrupted
from backend.jobs.process import JobProcess
from models.errors import ModelError

logger = logging.getLogger(__name__)

KEPT_FAILURES = 3  # work folders of failed jobs, to find the cause
WATCH_SECONDS = 0.5  # between two checks whether a running job was cancelled
# Restarts of a job after its worker was killed. A prediction job continues where it was, so only restarts without
# progress in between count, and it is restarted after the death of its process too.
RESTARTS = {TRAINING: 1, PREDICTION: 3, REVIEW: 1}


class Killed(JobError):
    """A job's process was killed from outside."""


class Work(Protocol):
    """The work of one kind of job."""

    def do(self, attempt: "Attempt") -> str:
        """Do the whole job; returns a sentence about the result. Raises BackendError or ModelError if it fails."""


class Attempt:
    """One run of a job.

    Args:
        store: its record.
        job: as it was claimed.
        folder: for its files; removed when it is done.
        stopping: set when the worker shuts down.
    """

    def __init__(self, store: JobStore, job: Job, folder: Path, stopping: threading.Event) -> None:
        self.job, self.folder = job, folder
        self._store, self._stopping = store, stopping
        self._first: tuple[float, float] | None = None  # time and progress of the first report

    def say(self, **changes: Any) -> None:
        """Record fields of the job.

        Raises:
            JobInterrupted: the worker shuts down, or the job was cancelled or taken over.
        """
        if self._stopping.is_set():
            raise JobInterrupted("the worker was stopped; the job begins again when it is back")
        if "progress" in changes and "eta" not in changes:
            changes["eta"] = self._eta(changes["progress"])
        if not self._store.advance(self.job, **changes):
            raise JobInterrupted("it was cancelled, or another worker took it")

    def fence(self) -> None:
        """Let pass only the attempt that has the job now: called in the moment before what it made is published.

        A worker may be paused for minutes between two steps, with its machine, while another takes its job. What tells
        this attempt from any other is who claimed the job, and when.

        Raises:
            JobInterrupted: the job was cancelled, or claimed again.
        """
        now = self._store.get(self.job.id)
        if now.state not in RUNNING or (now.worker, now.started) != (self.job.worker, self.job.started):
            raise JobInterrupted("it was cancelled, or another worker took it")

    def log(self, line: str) -> None:
        """Add a line to the job's log."""
        self._store.log(self.job.id, line)

    def process(
        self,
        command: Sequence[str],
        report: Callable[[Mapping[str, Any]], None],
        limit_seconds: float | None = None,
    ) -> Mapping[str, Any]:
        """Do the work in a process of its own.

        Args:
            command: prints lines for the log; those that are JSON objects are reports, and the last one's "stage" is
                "done", or "failed" with a "reason".
            report: gets the reports.
            limit_seconds: time after which it is considered hung and killed.

        Returns:
            The last report.

        Raises:
            JobError: it failed; the text says how.
            Killed: by a signal from outside.
            JobInterrupted: as for `say`.
        """
        process = JobProcess(command, self.folder, limit_seconds)
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(process, ended), name="watch-job", daemon=True)
        last: Mapping[str, Any] = {}
        try:
            self.say(process=process.identity)
            watcher.start()
            for line in process.lines():
                self.log(line.text)
                if line.report is not None:
                    last = line.report
                    report(last)
            failure = process.wait()
            self.say(process=None)
        finally:
            ended.set()
            process.kill()
            process.wait()
        what = self.job.kind
        if last.get("stage") == "failed":
            raise JobError(f"{what} failed: {last.get('reason') or 'no reason given'}")
        if failure is not None and failure.startswith("killed by"):
            raise Killed(f"{what} was {failure}")
        if failure is not None:
            raise JobError(f"{what} was {failure}" if failure.startswith("killed") else f"{what} {failure}")
        if last.get("stage") != "done":
            raise JobError(f"{what} ended without a result; the job's log says how far it came")
        return last

    def _watch(self, process: JobProcess, ended: threading.Event) -> None:
        while not ended.wait(WATCH_SECONDS):
            try:
                now = self._store.get(self.job.id)
            except BackendError as error:  # records that cannot be read now may be readable in a moment
                logger.warning("job %s: %s", self.job.id, error)
                continue
            if self._stopping.is_set() or now.state not in RUNNING or now.worker != self.job.worker:
                process.kill()
                return

    def _eta(self, progress: float) -> float | None:
        """Seconds left at the average speed since the first report."""
        now = time.monotonic()
        if self._first is None or progress < self._first[1]:
            self._first = now, progress
        since, begun = self._first
        return round((now - since) * (1 - progress) / (progress - begun), 1) if progress > begun else None


class Runner:
    """Runs jobs. Safe to share between the worker's threads.

    Args:
        store: job records.
        leases: tasks whose prediction is requested.
        kinds: the work, by kind of job.
        folder: for the jobs' files.
        ended: told of each job that is done or has failed; returns at once and never raises.
    """

    def __init__(
        self,
        store: JobStore,
        leases: Leases,
        kinds: Mapping[str, Work],
        folder: Path,
        ended: Callable[[Job], None] = lambda job: None,
    ) -> None:
        self._ended = ended
        self._store = store
        self._leases = leases
        self._kinds = kinds
        self._folder = folder
        self._stopping = threading.Event()
        self.running: set[str] = set()  # ids of jobs

    def run(self, job_id: str, worker: str) -> None:
        """Run one job to its end and record it; a job that cannot be claimed is left alone."""
        self.running.add(job_id)
        try:
            if not self._stopping.is_set() and self._store.claim(job_id, worker):
                self._run(job_id)
        finally:
            self.running.discard(job_id)

    def _run(self, job_id: str) -> None:
        job = self._store.get(job_id)
        logger.info("job %s: project %s: %s begins", job_id, job.project, job.kind)
        attempt = Attempt(self._store, job, self._folder / job_id, self._stopping)
        try:
            attempt.folder.mkdir(parents=True, exist_ok=True)
            message = self._kinds[job.kind].do(attempt)
            if self._store.advance(job, state="done", progress=1.0, eta=None, message=message, reason=""):
                self._ended(self._store.get(job_id))
        except JobInterrupted as error:
            attempt.log(str(error))
            self._store.release(job, "queued", str(error), restarts=job.restarts)
        except Killed as error:
            (self.restart if job.kind == PREDICTION else self.fail)(job, str(error))
        except (BackendError, ModelError) as error:
            self.fail(job, str(error))
        except OSError as error:
            # Of a disk, not of a network: the client of Label Studio has errors of its own.
            logger.exception("job %s: a file cannot be written or read", job_id)
            shutil.rmtree(attempt.folder, ignore_errors=True)
            self.fail(job, f"{error.strerror}: {error.filename or attempt.folder}; make room, then start it again")
        except Exception as error:
            logger.exception("job %s: unexpected error", job_id)
            self.fail(job, f"{type(error).__name__}: {error}; the worker's log has the details")
        else:
            logger.info("job %s: project %s: %s", job_id, job.project, message)
            attempt.log(message)
            shutil.rmtree(attempt.folder, ignore_errors=True)
        if self._store.get(job_id).state == "cancelled":
            shutil.rmtree(attempt.folder, ignore_errors=True)
            if job.kind == PREDICTION:  # its process may have requested tasks since
                self._leases.abandon(job.project, job.id)

    def restart(self, job: Job, reason: str) -> None:
        """Put a killed job back into the queue; it fails once it has used up its restarts."""
        restarts = self._store.get(job.id).restarts
        if restarts >= RESTARTS[job.kind]:
            self.fail(job, f"{reason}; that makes {restarts + 1} times: look for a lack of memory, then start it again")
        elif self._store.release(job, "queued", f"{reason}; it began again", restarts=restarts + 1):
            logger.warning("job %s: %s; it begins again", job.id, reason)
            self._store.log(job.id, f"{reason}; it begins again")

    def fail(self, job: Job, reason: str) -> None:
        """End a running job as failed; the rest of its work waits for a new request."""
        try:
            self._fail(job, reason)
        except JobError:
            # Its own files may be what fills the disk that its record is on.
            shutil.rmtree(self._folder / job.id, ignore_errors=True)
            self._fail(job, reason)

    def _fail(self, job: Job, reason: str) -> None:
        # Predictions that Label Studio did not store stay requested: it may take them later.
        if job.kind == PREDICTION and not self._store.get(job.id).report.get("refused"):
            self._leases.abandon(job.project, job.id)
        ended = {"message": "", "process": None, "eta": None}
        if not self._store.advance(job, state="failed", reason=reason, **ended):
            return  # cancelled, or another worker has it
        logger.error("job %s: project %s: %s failed: %s", job.id, job.project, job.kind, reason)
        self._store.log(job.id, f"failed: {reason}")
        self._ended(self._store.get(job.id))
        for old in self._store.find(states=("failed",), limit=1000)[KEPT_FAILURES:]:
            shutil.rmtree(self._folder / old.id, ignore_errors=True)

    def stop(self) -> None:
        """End running jobs; they go back into the queue."""
        self._stopping.set()
