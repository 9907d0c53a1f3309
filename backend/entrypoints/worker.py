"""`python -m backend.entrypoints.worker`: a job worker, as the environment describes it."""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

from backend.database.jobs import PREDICTION, REVIEW, TRAINING
from backend.errors import BackendError
from backend.jobs import prediction, training
from backend.jobs.prediction import PredictionWork
from backend.jobs.review import ReviewWork
from backend.jobs.running import Runner, Work
from backend.jobs.training import Plan, TrainingWork, preparing
from backend.jobs.worker import BEAT_SECONDS, Worker
from backend.settings import Settings
from backend.system.logs import configure_logging
from backend.system.processes import PARENT, die_with_parent
from backend.versions.registry import Registry
from backend.wiring import Parts, assemble, device_of, notifier, starter

SWEEP_SECONDS = 6 * 3600.0  # between two looks for files in the store that belong to no version


def build_runner(
    settings: Settings,
    parts: Parts,
    training_command: Sequence[str] = training.COMMAND,
    prediction_command: Sequence[str] = prediction.COMMAND,
) -> Runner:
    """The runner of jobs that the settings describe.

    Args:
        settings: what is configured.
        parts: made from them.
        training_command: starts the process of a training.
        prediction_command: starts the process of a prediction job.
    """
    device = device_of(settings)  # that it is there is better known now
    plan = Plan(
        preset=settings.train_preset,
        minutes=settings.train_minutes,
        device=settings.device,  # which GPU has most free memory is another one when a training begins
        processes=settings.train_processes,
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
        command=training_command,
        prepare=preparing(settings, plan.device),
    )
    reviewer = ReviewWork(
        registry=parts.registry,
        starter=starter(settings),
        client=parts.connections.client,
        images=parts.connections.images,
        reviews=parts.reviews,
        device=device,
    )
    kinds: dict[str, Work] = {
        TRAINING: trainer,
        PREDICTION: PredictionWork(prediction_command),
        REVIEW: reviewer,
    }
    return Runner(parts.store, parts.leases, kinds, settings.data_dir / "jobs", notifier(settings, parts))


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
        runner = build_runner(settings, parts, **commands)
        worker = Worker(parts.store, parts.leases, parts.queues, runner, settings.loops_dir)
    except BackendError as error:
        print(f"premask worker: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())

    def beside(stopped: threading.Event) -> None:
        parts.automatic.watch(worker.jobs, parts.connections.client, stopped, BEAT_SECONDS)
        threading.Thread(target=_sweep, args=(parts.registry, stopped), name="sweep", daemon=True).start()

    worker.run(beside)
    return 0


def _sweep(registry: Registry, stopped: threading.Event) -> None:
    while not stopped.wait(SWEEP_SECONDS):
        registry.sweep()


if __name__ == "__main__":
    # `premask serve` starts it, and a worker without its server would go on unseen.
    die_with_parent(os.environ.get(PARENT))
    sys.exit(main(os.environ))
