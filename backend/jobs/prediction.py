"""A worker's share of a prediction job: starts the process that predicts (`prediction_run`), records its progress."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from backend.jobs.running import Attempt

COMMAND = (sys.executable, "-m", "backend.entrypoints.prediction_job")


class PredictionWork:
    """The work of prediction jobs, as the worker sees it.

    Args:
        command: starts the process, which may be killed at any moment; the project, the job's id and the worker's name
            are appended.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command

    def do(self, attempt: Attempt) -> str:
        """Predict requested tasks of the project until none is due, or another job needs this worker more."""

        def report(line: Mapping[str, Any]) -> None:
            if line.get("stage") != "predicting":
                return
            pace = line.get("pace")
            attempt.say(
                message=str(line["message"]),
                drawn=int(line["drawn"]),
                pace=float(pace) if isinstance(pace, int | float) else None,
            )

        attempt.process([*self._command, attempt.job.project, attempt.job.id, attempt.worker], report)
        return ""
