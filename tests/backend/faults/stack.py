"""`premask serve` with real processes and real signals, but a pipeline and a training that need no networks.

python -m tests.backend.faults.stack serve | server | worker | predict PROJECT JOB WORKER
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask

from backend.database.shares import Shares
from backend.entrypoints import prediction_job, supervisor, worker, wsgi
from backend.entrypoints.supervisor import Supervisor
from backend.settings import Settings
from backend.system.processes import PARENT, die_with_parent
from models.segment import Prediction
from tests.backend.fakes import FakeModel
from tests.backend.jobs.conftest import FAKE_TRAINING

IMAGE_SECONDS = 0.03
SLICE_SECONDS = 1.0
IMPORT_SECONDS = 5.0  # the fake Label Studio answers in a moment


# Names a file: once a chunk is struck off, its number is written there, and this process dies with its worker.
DIES = "DIES_AFTER_STRIKING_OFF"


class SlowModel(FakeModel):
    """Takes its time with each image."""

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        time.sleep(IMAGE_SECONDS * len(images))
        return super().predict(images)


def load(device: str) -> Any:
    return SlowModel


def die_after_striking_off(told: Path) -> None:
    real = Shares.finish

    def last(*arguments: Any) -> int:
        count = real(*arguments)
        told.write_text(str(count))
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        return count

    Shares.finish = last  # type: ignore[method-assign, assignment]


def build_app() -> Flask:
    """For gunicorn."""
    return wsgi.build_app(load)


def main(what: str, *arguments: str) -> int:
    this = (sys.executable, "-m", "tests.backend.faults.stack")
    if what in ("serve", "server"):
        server = (*supervisor.SERVER, "tests.backend.faults.stack:build_app()")
        helper = (*this, "worker") if what == "serve" else None
        Supervisor(Settings.from_environ(os.environ), os.environ, server, helper).run()
        return 0
    die_with_parent(os.environ.get(PARENT))
    if what == "worker":
        training = (sys.executable, str(FAKE_TRAINING), "slow")
        return worker.main(os.environ, training_command=training, prediction_command=(*this, "predict"))
    if DIES in os.environ:
        die_after_striking_off(Path(os.environ[DIES]))
    project, job, worker_name = arguments
    return prediction_job.main(
        os.environ, project, job, worker_name, load, SLICE_SECONDS, import_seconds=IMPORT_SECONDS
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
