"""The prediction job: starts the process that predicts many tasks (`prediction_run`) and records its progress."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from backend.database.bounded import CUT_OFF
from backend.jobs.running import Attempt

COMMAND = (sys.executable, "-m", "backend.entrypoints.prediction_job")
OUTCOMES = {
    "predicted": "predicted",
    "present": "had a prediction of this version already",
    "unanswered": "without an answer (the log says why)",
    "refused": "not stored by Label Studio (the log says why)",
    "gone": "deleted meanwhile",
}


class PredictionWork:
    """The work of prediction jobs, as the worker sees it.

    Args:
        command: starts the process, which may be killed at any moment; the project and the job's id are appended.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = command

    def do(self, attempt: Attempt) -> str:
        """Predict every requested task of the project; returns the number of tasks by outcome."""
        attempt.say(state="predicting", message="loading the model")
        tally: dict[str, int] = {}

        def report(line: Mapping[str, Any]) -> None:
            if line.get("stage") != "predicting":
                return
            done, total = int(line["done"]), int(line["total"])
            tally.update(line["tally"])
            # A process that stores something before it is killed may be restarted any number of times.
            survived = {"restarts": 0} if tally["predicted"] else {}
            known = {"eta": float(line["left"])} if isinstance(line.get("left"), int | float) else {}
            problems = {"problems": line["problems"]} if line.get("problems") else {}
            cut = {CUT_OFF: {"problems": line["untold"]}} if line.get("untold") else {}
            attempt.say(
                progress=min(done / total, 1.0) if total else 0.0,
                message=f"{done} of {total} tasks: {line['message']}",
                figures={"done": done, "total": total},
                report=dict(tally) | problems | cut,
                **known,
                **survived,
            )

        attempt.process([*self._command, attempt.job.project, attempt.job.id], report)
        counts = ", ".join(f"{count} {OUTCOMES[what]}" for what, count in tally.items() if count)
        return counts or "no prediction was requested"
