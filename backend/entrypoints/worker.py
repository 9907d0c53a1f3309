"""The worker: a process that takes jobs from the queues, and takes up those whose worker died."""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from huey.consumer import Consumer

from backend.database.jobs import ACTIVE, KEPT, PREDICTION, TRAINING, Job, JobStore
from backend.database.leases import Leases
from backend.errors import BackendError
from backend.jobs import prediction as annotation
from backend.jobs import training
from backend.jobs.prediction import PredictionWork
from backend.jobs.queue import JobQueue, Queues, on_this_machine
from backend.jobs.running import Runner, Work
from backend.jobs.training import Plan, TrainingWork
from backend.settings import Settings
from backend.system.logs import configure_logging
from backend.system.processes import PARENT, die_with_parent, identity, is_alive, kill_group
from backend.wiring import Parts, assemble, starter

logger = logging.getLogger("backend.entrypoints.worker")  # also when it is run as __main__

BEAT_SECONDS = 5.0
# A worker on another machine is taken for dead after this silence; on this one the process itself is looked at.
DEAD_AFTER_SECONDS = 120.0


class Worker:
    """Runs jobs until it is stopped, one of each kind at a time.

    Args:
        store: job records.
        leases: tasks that want a prediction.
        queues: the queues.
        runner: does the jobs.
    """

    def __init__(self, store: JobStore, leases: Leases, queues: Queues, runner: Runner) -> None:
        self.name = worker_name()
        self.jobs = JobQueue(store, leases, queues, run=lambda job_id: runner.run(job_id, self.name))
        self._store, self._leases, self._runner = store, leases, runner
        self._consumers = [
            _Consumer(queue, workers=1, periodic=False, max_delay=1.0, shutdown_timeout=20) for queue in queues.values()
        ]
        self._stopped = threading.Event()

    def run(self, beside: Callable[[threading.Event], None] = lambda stopped: None) -> None:
        """Work until `stop`; then end running jobs, which begin again with the next worker.

        Args:
            beside: called once, to do what it likes on a thread of its own until the event is set.
        """
        for consumer in self._consumers:
            consumer.start()
        self._look_after()
        beside(self._stopped)
        logger.info("worker %s waits for jobs", self.name)
        while not self._stopped.wait(BEAT_SECONDS):
            self._look_after()
        self._runner.stop()
        for consumer in self._consumers:
            consumer.stop(graceful=True)
        logger.info("worker %s has stopped", self.name)

    def stop(self) -> None:
        """Make `run` return; safe in a signal handler."""
        self._stopped.set()

    def recover(self) -> None:
        """Queue waiting jobs that the queue has lost, take up those whose worker is gone, and tasks left over."""
        active = self._store.find(states=ACTIVE, limit=KEPT)
        for job in active:
            if job.state == "queued":
                self.jobs.send(job)
            elif job.worker == self.name:
                if job.id not in self._runner.running:  # its end could not be recorded
                    self._runner.restart(job, f"it broke off while {job.state}, as the worker's log says")
            elif _orphaned(job):
                if job.process is not None and on_this_machine(job):
                    kill_group(job.process)
                self._runner.restart(job, f"its worker died while {job.state}")
        for project in self._leases.due():
            if not any(job.kind == PREDICTION and job.project == project for job in active):
                job, _ = self.jobs.submit(project, PREDICTION)
                self._store.log(job.id, "began by itself: predictions are wanted that nobody makes any more")

    def _look_after(self) -> None:
        try:
            self._store.beat(self.name)
            self.recover()
            for consumer in self._consumers:
                consumer.check_worker_health()
        except Exception:  # a full disk or a locked file now may be gone at the next beat
            logger.exception("looking after the jobs failed; tried again in %.0f s", BEAT_SECONDS)


class _Consumer(Consumer):  # type: ignore[misc]
    """Huey's consumer, which leaves the process's signals to the worker."""

    def _set_signal_handlers(self) -> None:
        pass


def worker_name() -> str:
    """What this process is called in job records: "host/pid:start"."""
    return f"{socket.gethostname()}/{identity(os.getpid())}"


def _orphaned(job: Job) -> bool:
    if on_this_machine(job):
        return not is_alive((job.worker or "").rpartition("/")[2])
    return abs(time.time() - job.beat) > DEAD_AFTER_SECONDS  # their clocks may differ


def build_runner(
    settings: Settings,
    parts: Parts,
    training: Sequence[str] = training.COMMAND,
    annotation: Sequence[str] = annotation.COMMAND,
) -> Runner:
    """What does the jobs that the settings describe, with the commands of their processes."""
    plan = Plan(
        preset=settings.train_preset,
        minutes=settings.train_minutes,
        device=_device(settings.device),
        min_accepted=settings.min_accepted,
        group_field=settings.group_field,
    )
    trainer = TrainingWork(
        registry=parts.registry,
        starter=starter(settings),
        client=parts.connections.client,
        images=parts.connections.images,
        plan=plan,
        learned=parts.automatic.learned,
        command=training,
    )
    kinds: dict[str, Work] = {TRAINING: trainer, PREDICTION: PredictionWork(annotation)}
    return Runner(parts.store, parts.leases, kinds, settings.data_dir / "jobs")


def main(environ: Mapping[str, str], **commands: Sequence[str]) -> int:
    """Run a worker until SIGTERM or SIGINT; returns the exit code.

    Args:
        environ: the settings.
        commands: as for `build_runner`.
    """
    try:
        settings = Settings.from_environ(environ)
        configure_logging(settings.log_level, settings.log_format, settings.secrets)
        parts = assemble(settings)
        worker = Worker(parts.store, parts.leases, parts.queues, build_runner(settings, parts, **commands))
    except BackendError as error:
        print(f"premask worker: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run(lambda stopped: parts.automatic.watch(worker.jobs, parts.connections.client, stopped, BEAT_SECONDS))
    return 0


def _device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    # `premask serve` starts it, and a worker without its server would go on unseen.
    die_with_parent(os.environ.get(PARENT))
    sys.exit(main(os.environ))
