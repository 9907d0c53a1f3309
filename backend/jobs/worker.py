"""The worker: a process that takes jobs from the queue, and takes up those whose worker died."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping

from huey import Huey
from huey.consumer import Consumer

from backend.assembly import Parts, assemble, starter
from backend.errors import BackendError
from backend.jobs.queue import JobQueue
from backend.jobs.store import ACTIVE, Job, JobStore
from backend.jobs.training import Plan, Trainer
from backend.logs import configure_logging
from backend.processes import die_with_parent, identity, is_alive, kill_group
from backend.settings import Settings

logger = logging.getLogger("backend.jobs.worker")  # also when it is run as __main__

BEAT_SECONDS = 5.0
# A worker on another machine is taken for dead after this silence; on this one the process itself is looked at.
DEAD_AFTER_SECONDS = 120.0
MAX_RESTARTS = 1


class Worker:
    """Runs jobs until it is stopped.

    Args:
        store: job records.
        huey: the queue.
        trainer: does the jobs.
        at_once: jobs at the same time.
    """

    def __init__(self, store: JobStore, huey: Huey, trainer: Trainer, at_once: int = 1) -> None:
        self.name = f"{socket.gethostname()}/{identity(os.getpid())}"
        self._store = store
        self._trainer = trainer
        self._queue = JobQueue(store, huey, run=lambda job_id: trainer.run(job_id, self.name))
        self._consumer = _Consumer(huey, workers=at_once, periodic=False, max_delay=1.0, shutdown_timeout=20)
        self._stopped = threading.Event()

    def run(self) -> None:
        """Work until `stop`; then end running trainings, which begin again with the next worker."""
        self.recover()
        self._consumer.start()
        logger.info("worker %s waits for jobs", self.name)
        while not self._stopped.wait(BEAT_SECONDS):
            try:
                self._store.beat(self.name)
                self.recover()
                self._consumer.check_worker_health()
            except Exception:  # a full disk or a locked file now may be gone at the next beat
                logger.exception("looking after the jobs failed; tried again in %.0f s", BEAT_SECONDS)
        self._trainer.stop()
        self._consumer.stop(graceful=True)
        logger.info("worker %s has stopped", self.name)

    def stop(self) -> None:
        """Make `run` return; safe in a signal handler."""
        self._stopped.set()

    def recover(self) -> None:
        """Queue waiting jobs that the queue has lost, and take up those whose worker is gone."""
        for job in self._store.find(states=ACTIVE):
            if job.state == "queued":
                self._queue.send(job.id)
            elif _orphaned(job):
                self._take_up(job)

    def _take_up(self, job: Job) -> None:
        if job.process is not None:
            kill_group(job.process)
        if job.restarts < MAX_RESTARTS:
            reason = f"its worker died while {job.state}; it began again"
            if self._store.release(job, "queued", reason, restarts=job.restarts + 1):
                logger.warning("job %s: %s", job.id, reason)
                self._store.log(job.id, reason)
                self._queue.send(job.id)
            return
        reason = (
            f"its worker died {job.restarts + 1} times, lastly while {job.state}; look into the system's log for a "
            "lack of memory, then press Start Training again"
        )
        if self._store.release(job, "failed", reason, restarts=job.restarts):
            logger.error("job %s: %s", job.id, reason)
            self._store.log(job.id, f"failed: {reason}")


class _Consumer(Consumer):  # type: ignore[misc]
    """Huey's consumer, which leaves the process's signals to the worker."""

    def _set_signal_handlers(self) -> None:
        pass


def _orphaned(job: Job) -> bool:
    host, _, process = (job.worker or "").rpartition("/")
    if host == socket.gethostname():
        return not is_alive(process)
    return time.time() - job.beat > DEAD_AFTER_SECONDS


def build_worker(settings: Settings, parts: Parts) -> Worker:
    """The worker that the settings describe."""
    plan = Plan(
        preset=settings.train_preset,
        minutes=settings.train_minutes,
        device=_device(settings.device),
        min_accepted=settings.min_accepted,
    )
    trainer = Trainer(
        store=parts.store,
        registry=parts.registry,
        starter=starter(settings),
        client=parts.connections.client,
        images=parts.connections.images,
        work=settings.data_dir / "jobs",
        plan=plan,
    )
    return Worker(parts.store, parts.huey, trainer)


def main(environ: Mapping[str, str]) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit code."""
    try:
        settings = Settings.from_environ(environ)
        configure_logging(settings.log_level, settings.log_format, settings.secrets)
        worker = build_worker(settings, assemble(settings))
    except BackendError as error:
        print(f"premask worker: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    return 0


def _device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    die_with_parent()  # `premask serve` starts it, and a worker without its server would go on unseen
    sys.exit(main(os.environ))
