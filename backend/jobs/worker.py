"""The worker: takes jobs from the queues, and takes up those whose worker died."""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg
from huey.consumer import Consumer

from backend.database.jobs import ACTIVE, KEPT, PREDICTION, Job, JobStore
from backend.database.leases import Leases
from backend.jobs.queue import JobQueue, Queues, on_this_machine
from backend.jobs.running import DEAD_AFTER_SECONDS, Runner
from backend.system.loops import Loop
from backend.system.processes import identity, is_alive, kill_group, machine
from models.errors import PremaskError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
LOOK_SECONDS = 1.0  # between two looks for a prediction job to help
# Predictions that Label Studio did not store are tried again by themselves, but not all the time.
AFTER_FAILURE_SECONDS = 900.0


class Worker:
    """Runs jobs until it is stopped, one of each kind at a time.

    Args:
        store: job records.
        leases: tasks that want a prediction.
        queues: the queues.
        runner: does the jobs.
        reports: folder where it reports what it cannot recover; None for nowhere.
    """

    def __init__(
        self, store: JobStore, leases: Leases, queues: Queues, runner: Runner, reports: Path | None = None
    ) -> None:
        self.name = worker_name()
        self.jobs = JobQueue(store, leases, queues, run=lambda job_id: runner.run(job_id, self.name))
        self._store, self._leases, self._runner = store, leases, runner
        self._consumers = [
            _Consumer(queue, workers=1, periodic=False, max_delay=1.0, shutdown_timeout=20) for queue in queues.values()
        ]
        for name in ("Worker", "Scheduler"):
            logging.getLogger(f"huey.consumer.{name}").addFilter(_said_by_us)
        self._stopped = threading.Event()
        self._trouble = ""  # the last that was told
        self._helper = threading.Thread(target=self._help, name="prediction-jobs")
        self._loop = Loop("recovering-jobs", BEAT_SECONDS, reports, max_pause=60.0)

    def run(self, beside: Callable[[threading.Event], None] = lambda stopped: None) -> None:
        """Work until `stop`; then end running jobs, which begin again with the next worker.

        Args:
            beside: called once, to do what it likes on a thread of its own until the event is set.
        """
        for consumer in self._consumers:
            consumer.start()
        self._look_after()
        self._helper.start()
        beside(self._stopped)
        logger.info("worker %s waits for jobs", self.name)
        while not self._stopped.wait(BEAT_SECONDS):
            self._look_after()
        self._runner.stop()
        for consumer in self._consumers:
            consumer.stop(graceful=True)
        self._helper.join()
        logger.info("worker %s has stopped", self.name)

    def stop(self) -> None:
        """Make `run` return; safe in a signal handler."""
        self._stopped.set()

    def recover(self) -> None:
        """Queue jobs that the queue has lost, take up those whose worker is gone, and tasks left over."""
        active = self._store.find(states=ACTIVE, limit=KEPT)
        self._loop.keep({_key(job) for job in active})
        for job in active:
            if job.kind == PREDICTION:  # shares of it are recovered
                continue
            # What cannot be done about one job is no reason to leave the others.
            self._loop.attempt(_key(job), partial(self._recover, job), time.monotonic())
        for project in self._leases.due():
            waits = any(job.kind == PREDICTION and job.project == project for job in active)
            if not waits and self._may_retry(project):
                job, _ = self.jobs.submit(project, PREDICTION)
                self._store.log(job.id, "began by itself: predictions were requested that no one makes")

    def _may_retry(self, project: str) -> bool:
        for last in self._store.find(project, kind=PREDICTION, limit=1):
            if last.state == "failed" and last.report.get("refused"):
                return abs(self._store.database.time() - last.updated) > AFTER_FAILURE_SECONDS
        return True

    def _recover(self, job: Job) -> None:
        if job.state == "queued":
            self.jobs.send(job)
        elif job.worker == self.name:
            if job.id not in self._runner.running:  # its end could not be recorded, which is no death
                reason = f"it broke off while {job.state}, as the worker's log says; it began again"
                if self._store.release(job, "queued", reason, restarts=job.restarts):
                    self._store.log(job.id, reason)
        elif self._orphaned(job):
            if job.process is not None and on_this_machine(job):
                kill_group(job.process)
            self._runner.restart(job, f"its worker died while {job.state}")

    def _orphaned(self, job: Job) -> bool:
        if on_this_machine(job):
            return not is_alive((job.worker or "").rpartition("/")[2])
        return abs(self._store.database.time() - job.beat) > DEAD_AFTER_SECONDS  # clocks may be set

    def _look_after(self) -> None:
        # A full disk or a locked file now may be gone at the next beat. No step waits for another.
        beat = partial(self._runner.shares.beat, self.name)
        shares = partial(self._runner.recover, self.name)
        fine = True
        for step in (partial(self._store.beat, self.name), beat, shares, self.recover, self._revive):
            try:
                step()
            except Exception as error:
                self._tell(error)
                fine = False
        if fine and self._trouble:
            logger.info("the jobs are looked after again")
            self._trouble = ""
        self._loop.round(lambda: None)

    def _help(self) -> None:
        """Do shares of prediction jobs, one after the other."""
        while not self._stopped.is_set():
            try:
                helped = self._runner.help(self.name)
            except Exception as error:
                self._tell(error)
                self._stopped.wait(BEAT_SECONDS)
            else:
                if not helped:
                    self._stopped.wait(LOOK_SECONDS)

    def _tell(self, error: Exception) -> None:
        """Log an error that is met again at every beat: what is expected once, as a sentence."""
        expected = isinstance(error, PremaskError)
        if not expected or str(error) != self._trouble:
            text = "looking after the jobs failed: %s; tried again every %.0f s"
            logger.log(logging.WARNING if expected else logging.ERROR, text, error, BEAT_SECONDS, exc_info=not expected)
        self._trouble = str(error)

    def _revive(self) -> None:
        for consumer in self._consumers:
            consumer.check_worker_health()


class _Consumer(Consumer):  # type: ignore[misc]
    """Huey's consumer, which leaves the process's signals to the worker."""

    def _set_signal_handlers(self) -> None:
        pass


def _said_by_us(record: logging.LogRecord) -> bool:
    """Whether an event of huey's is to be logged: a database that is away is told at every beat, in a sentence."""
    return not (record.exc_info and isinstance(record.exc_info[1], psycopg.Error | sqlite3.Error))


def worker_name() -> str:
    """The name of this process in job records: "machine/pid:start"."""
    return f"{machine()}/{identity(os.getpid())}"


def _key(job: Job) -> str:
    return f"{job.project} ({job.kind})"
