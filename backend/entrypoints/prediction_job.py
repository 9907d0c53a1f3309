"""`python -m backend.entrypoints.prediction_job PROJECT JOB WORKER`: the process of a worker's share of a job.

It tells its progress as JSON lines.

Every report is an object with `stage`: "predicting" with `drawn`, `pace` and `message`; the last one's is "done" or
"failed", with `away` where database or store are, or where Label Studio is and another job goes first. Lines that are
no JSON are for the log. Tasks are counted in the database, where they are struck off.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.database.shares import OUTCOMES, Shares
from backend.errors import BackendError, DatabaseError, StoreError
from backend.jobs.prediction_run import GaveWay, PredictionRun
from backend.jobs.queue import close
from backend.prediction.cache import PredictionCache
from backend.settings import Settings
from backend.system.logs import configure_logging
from backend.system.processes import PARENT, die_with_parent, leave
from backend.wiring import Parts, assemble, predictor_of, serving_of
from models.families import Model

SLICE_SECONDS = 60.0  # for which a job is not left to another: the networks are loaded anew for each


def main(
    environ: Mapping[str, str],
    project: str,
    job: str,
    worker: str,
    load: Callable[[str], Callable[[Path], Model]] | None = None,
    slice_seconds: float = SLICE_SECONDS,
    **options: Any,
) -> int:
    """Predict what the leases have for a project, until none is due or another job needs the worker more.

    Returns the exit code.

    Args:
        environ: the settings.
        project: Label Studio's project id.
        job: id of the job that this is done for.
        worker: name of the worker that has a share of it.
        load: gives the loader of models on a device; None for that of the settings.
        slice_seconds: for which the job is not left to another.
        options: for `PredictionRun`.
    """
    try:
        settings = Settings.from_environ(environ)
        configure_logging(settings.log_level, settings.log_format, settings.secrets)
        parts = assemble(settings)
        close(parts.queues)  # tried out, and of no use here: connections are few
        serving = serving_of(settings, parts, load)
        # No task comes twice, so nothing is kept.
        cache = PredictionCache(max_bytes=0)
        predictor = predictor_of(settings, serving, parts, cache)
        shares = Shares(parts.database, parts.leases)
        began = time.monotonic()

        def leave() -> bool:
            return time.monotonic() - began >= slice_seconds and shares.awaited(worker, job)

        def waiting(classes: Sequence[str]) -> str:
            info = parts.registry.waiting(project, classes)
            return "" if info is None else info.version

        run = PredictionRun(
            project,
            job,
            parts.connections.client(project),
            predictor,
            lambda classes: serving.served_version(project, classes),
            shares,
            lambda message: _print({"stage": "predicting", "drawn": run.drawn, "pace": run.pace, "message": message}),
            waiting=waiting,
            worker=worker,
            leave=leave,
            spent=_spent(parts, job),
            **options,
        )
        run.run()
    except BackendError as error:
        away = any(isinstance(one, DatabaseError | StoreError | GaveWay) for one in (error, error.__cause__))
        _print({"stage": "failed", "reason": str(error), "away": away})
        return 1
    _print({"stage": "done"})
    return 0


def _spent(parts: Parts, job_id: str) -> float:
    """Seconds since a job began of which nothing is done yet: it may have given way to others again and again."""
    job = parts.store.get(job_id)
    done = any(job.report.get(outcome) for outcome in OUTCOMES)
    return 0.0 if done or job.started is None else max(parts.database.time() - job.started, 0.0)


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    # Two processes must not do one job: this one ends with its worker.
    die_with_parent(os.environ.get(PARENT))
    leave(main(os.environ, sys.argv[1], sys.argv[2], sys.argv[3]))
