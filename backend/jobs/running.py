"""The life of a job: it is claimed, runs in a process, and its end is recorded.

A `Runner` takes a job and hands an `Attempt` to the `Work` of the job's kind (`training`, `prediction`). A training is
one worker's; of a prediction job several workers have a share, and `ShareAttempt` is a run of one of them.
"""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection

from backend.database.jobs import PREDICTION, RUNNING, Job, JobStore
from backend.database.leases import Leases
from backend.database.shares import FAILED, LEFT, Share, Shares
from backend.errors import BackendError, DatabaseError, DiskFull, JobError, JobInterrupted
from backend.jobs.process import JobProcess
from backend.jobs.queue import worker_here
from backend.system.processes import is_alive, kill_group
from models.errors import ModelError

logger = logging.getLogger(__name__)

KEPT_FAILURES = 3  # work folders of failed jobs, to find the cause
WATCH_SECONDS = 0.5  # between two checks whether a running job was cancelled
RESTARTS = 1  # of a job that one worker does, after its worker was killed
# A worker on another machine is taken for dead after this silence; on this one the process itself is looked at.
DEAD_AFTER_SECONDS = 120.0


AWAY_SECONDS = 5.0  # before a share is taken again whose database or store was away


class Killed(JobError):
    """A job's process was killed from outside."""


class Away(JobError):
    """What a job's process works with is away: it has not failed, and the job goes on when that is back."""


class Work(Protocol):
    """The work of one kind of job."""

    def do(self, attempt: "Attempt") -> str:
        """Do the whole job; returns a sentence about the result. Raises BackendError or ModelError if it fails."""


class Attempt:
    """One run of a job, which one worker does.

    Args:
        store: its record.
        job: as it was claimed.
        folder: for its files; removed when it is done.
        stopping: set when the worker shuts down.
    """

    niceness = 10  # of 19: a tenth of what others get while they are busy

    def __init__(self, store: JobStore, job: Job, folder: Path, stopping: threading.Event) -> None:
        self.job, self.folder, self.worker = job, folder, job.worker or ""
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

    def fence(self, connection: Connection) -> None:
        """Let pass only the attempt that has the job now, in the transaction that publishes what it made.

        A worker may be paused for minutes between two steps, with its machine, while another takes its job. What tells
        this attempt from any other is who claimed the job, and when. Until the transaction ends nobody takes it.

        Raises:
            JobInterrupted: the job was cancelled, or claimed again.
        """
        now = self._store.held(connection, self.job.id)
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
            Away: its last report has "away" set.
            JobInterrupted: as for `say`.
        """
        process = JobProcess(command, self.folder, limit_seconds, self.niceness)
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
        if last.get("away"):
            raise Away(str(last.get("reason")))
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
                held = self._held()
            except BackendError as error:  # records that cannot be read now may be readable in a moment
                logger.warning("job %s: %s", self.job.id, error)
                continue
            if self._stopping.is_set() or not held:
                process.kill()
                return

    def _held(self) -> bool:
        now = self._store.get(self.job.id)
        return now.state in RUNNING and now.worker == self.job.worker

    def _eta(self, progress: float) -> float | None:
        """Seconds left at the average speed since the first report."""
        now = time.monotonic()
        if self._first is None or progress < self._first[1]:
            self._first = now, progress
        since, begun = self._first
        return round((now - since) * (1 - progress) / (progress - begun), 1) if progress > begun else None


class ShareAttempt(Attempt):
    """One run of a worker's share of a prediction job; arguments as for `Attempt`, and those of `Shares.report`."""

    niceness = 3  # a third: people wait for it too, and on a loaded machine it must get on

    def __init__(
        self, store: JobStore, shares: Shares, job: Job, worker: str, folder: Path, stopping: threading.Event
    ) -> None:
        super().__init__(store, job, folder, stopping)
        self._shares, self.worker = shares, worker

    def say(self, **changes: Any) -> None:
        """Record fields of the share, as `Shares.report` does; raises as `Attempt.say`."""
        if self._stopping.is_set():
            raise JobInterrupted("the worker was stopped; the job goes on when one is back")
        if not self._shares.report(self.job, self.worker, **changes):
            raise JobInterrupted("it was cancelled, or taken from this worker")

    def _held(self) -> bool:
        return self._shares.holds(self.job.id, self.worker)


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
        self.shares = self._shares = Shares(store.database, leases)
        self._kinds = kinds
        self._folder = folder
        self._stopping = threading.Event()
        self.running: set[str] = set()  # ids of jobs

    def run(self, job_id: str, worker: str) -> None:
        """Run one job to its end and record it; a job that cannot be claimed is left alone."""
        if self._store.get(job_id).kind == PREDICTION:
            self.help(worker, job_id)
            return
        self.running.add(job_id)
        try:
            if not self._stopping.is_set() and self._store.claim(job_id, worker):
                self._run(job_id)
        finally:
            self.running.discard(job_id)

    def help(self, worker: str, job_id: str | None = None) -> bool:
        """Do a share of the prediction job that needs a worker most, or of one job; whether there was one to do."""
        job = None if self._stopping.is_set() else self._shares.take(worker, job_id)
        if job is None:
            if job_id is not None:
                self.settle(self._store.get(job_id))
            return False
        self.running.add(job.id)
        try:
            self._help(job, worker)
        finally:
            self.running.discard(job.id)
        return True

    def settle(self, job: Job) -> None:
        """End a prediction job if nothing is left to do."""
        self._ended_share(job, self._shares.settle(job))

    def recover(self, worker: str) -> None:
        """Take their shares from workers that are gone, and end the prediction jobs that nothing is left to do of."""
        for share in self._shares.working():
            job = self._store.get(share.job)
            if share.worker == worker and share.job not in self.running:  # its end could not be recorded
                self.leave(job, share.worker, LEFT, "it broke off, as the worker's log says")
            elif self._gone(share):
                if share.process is not None and worker_here(share.worker):
                    kill_group(share.process)
                self.leave(job, share.worker, LEFT, f"its worker {share.worker} died", killed=True)
        for job in self._store.find(states=("queued", *RUNNING), kind=PREDICTION, limit=1000):
            self.settle(job)
        self._shares.forget()

    def leave(self, job: Job, worker: str, state: str, reason: str, *, killed: bool = False) -> None:
        """End a worker's share of a job, and the job with the last of them."""
        if reason:
            logger.warning("job %s: project %s: %s", job.id, job.project, reason)
            self._store.log(job.id, reason)
        self._ended_share(job, self._shares.leave(job, worker, state, reason, killed=killed))
        if self._store.get(job.id).state == "cancelled":  # its process may have requested tasks since
            self._leases.abandon(job.project, job.id)

    def _ended_share(self, job: Job, ended: Job | None) -> None:
        if ended is None:
            return
        # Predictions that Label Studio did not store stay requested: it may take them later.
        if ended.state == "failed" and not ended.report.get("refused"):
            self._leases.abandon(job.project, job.id)
        says = f"failed: {ended.reason}" if ended.state == "failed" else ended.message
        level = logging.ERROR if ended.state == "failed" else logging.INFO
        logger.log(level, "job %s: project %s: %s %s", job.id, job.project, job.kind, says)
        self._store.log(job.id, says)
        self._ended(ended)

    def _help(self, job: Job, worker: str) -> None:
        logger.info("job %s: project %s: worker %s has a share", job.id, job.project, worker)
        folder = self._folder / f"{job.id}-{worker.rpartition('/')[2].replace(':', '-')}"
        attempt = ShareAttempt(self._store, self._shares, job, worker, folder, self._stopping)
        how, why = self._done(attempt)
        shutil.rmtree(folder, ignore_errors=True)
        if how == "done":
            self.leave(job, worker, LEFT, "")
        elif how == "failed":
            self.leave(job, worker, FAILED, why)
        else:
            self.leave(job, worker, LEFT, why, killed=how == "killed")
        if how == "away":
            self._stopping.wait(AWAY_SECONDS)

    def _run(self, job_id: str) -> None:
        job = self._store.get(job_id)
        logger.info("job %s: project %s: %s begins", job_id, job.project, job.kind)
        attempt = Attempt(self._store, job, self._folder / job_id, self._stopping)
        how, says = self._done(attempt)
        if how == "done":
            logger.info("job %s: project %s: %s", job_id, job.project, says)
            attempt.log(says)
            shutil.rmtree(attempt.folder, ignore_errors=True)
        elif how in ("interrupted", "away"):
            attempt.log(says)
            self._store.release(job, "queued", says, restarts=job.restarts)
        else:
            self.fail(job, says)
        if self._store.get(job_id).state == "cancelled":
            shutil.rmtree(attempt.folder, ignore_errors=True)

    def _done(self, attempt: Attempt) -> tuple[str, str]:
        """Do the work; returns done, interrupted, away, killed or failed, and a sentence."""
        job = attempt.job
        try:
            attempt.folder.mkdir(parents=True, exist_ok=True)
            message = self._kinds[job.kind].do(attempt)
            ended = {"state": "done", "progress": 1.0, "eta": None, "message": message, "reason": ""}
            if job.kind != PREDICTION and self._store.advance(job, **ended):
                self._ended(self._store.get(job.id))
            return "done", message
        except JobInterrupted as error:
            return "interrupted", str(error)
        except DiskFull as error:  # perhaps by what the job has written, which goes when it fails
            return "failed", str(error)
        except (Away, DatabaseError) as error:  # no fault of the job's: what it has to do is kept for later
            return "away", f"{error}; it goes on when that is back"
        except Killed as error:
            return "killed", str(error)
        except (BackendError, ModelError) as error:
            return "failed", str(error)
        except OSError as error:
            # Of a disk, not of a network: the client of Label Studio has errors of its own.
            logger.exception("job %s: a file cannot be written or read", job.id)
            shutil.rmtree(attempt.folder, ignore_errors=True)
            where = error.filename or attempt.folder
            return "failed", f"{error.strerror}: {where}; make room, then start it again"
        except Exception as error:
            logger.exception("job %s: unexpected error", job.id)
            return "failed", f"{type(error).__name__}: {error}; the worker's log has the details"

    def restart(self, job: Job, reason: str) -> None:
        """Put a killed training back into the queue; it fails once it has used up its restarts."""
        restarts = self._store.get(job.id).restarts
        if restarts >= RESTARTS:
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

    def _gone(self, share: Share) -> bool:
        if worker_here(share.worker):
            return not is_alive(share.worker.rpartition("/")[2])
        return abs(self._store.database.time() - share.beat) > DEAD_AFTER_SECONDS  # clocks may be set
