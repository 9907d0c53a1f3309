"""`premask serve` with real processes and real signals, but a pipeline and a training that need no networks.

python -m tests.backend.faults.stack serve | worker | bulk PROJECT JOB
"""

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from flask import Flask

from backend.entrypoints import prediction_job as bulk_process
from backend.entrypoints import supervisor, worker, wsgi
from backend.entrypoints.supervisor import Supervisor
from backend.settings import Settings
from backend.system.processes import PARENT, die_with_parent
from models.segment import Prediction
from tests.backend.fakes import FakePipeline
from tests.backend.jobs.conftest import FAKE_TRAINING

IMAGE_SECONDS = 0.03
IMPORT_SECONDS = 5.0  # our Label Studio answers in a moment, so nobody need wait a minute and a half


class SlowPipeline(FakePipeline):
    """Takes its time with each image."""

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        time.sleep(IMAGE_SECONDS * len(images))
        return super().predict(images)


def load(device: str) -> Any:
    return SlowPipeline


def build_app() -> Flask:
    """For gunicorn."""
    return wsgi.build_app(load)


def main(what: str, *arguments: str) -> int:
    this = (sys.executable, "-m", "tests.backend.faults.stack")
    if what == "serve":
        server = (*supervisor.SERVER, "tests.backend.faults.stack:build_app()")
        Supervisor(Settings.from_environ(os.environ), os.environ, server, (*this, "worker")).run()
        return 0
    die_with_parent(os.environ.get(PARENT))
    if what == "worker":
        training = (sys.executable, str(FAKE_TRAINING), "slow")
        return worker.main(os.environ, training_command=training, prediction_command=(*this, "bulk"))
    project, job = arguments
    return bulk_process.main(os.environ, project, job, load=load, import_seconds=IMPORT_SECONDS)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
