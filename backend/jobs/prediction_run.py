"""Predictions for every task of a project that wants one: looked up, predicted and imported in chunks.

It can be killed at any moment and begun again: the leases knows which tasks are still wanted, and Label Studio is asked
before and after predicting whether a task has a prediction of the served version. Only what may be on its way into
Label Studio, because an import was interrupted, is waited for before it is looked up again.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from backend.database.leases import UNLABELLED, Leases
from backend.database.records import Result
from backend.errors import JobError, LabelStudioError
from backend.label_studio.client import TaskRow
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.label_studio.protocol import PredictRequest

logger = logging.getLogger(__name__)

CHUNK = 32  # tasks per import: Label Studio counts anew at each, and a kill costs no more than these
HOLD_SECONDS = 600.0  # a chunk should be predicted by then
IMPORT_SECONDS = 90.0  # more than an import's time-out: then Label Studio has stored it or never will
PATIENCE_SECONDS = 600.0  # with a Label Studio that does not answer
FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0  # seconds between two tries
MAX_LOST = 5  # imports in a row without an answer
REFUSED = (401, 403, 404)  # trying again or one by one does not help
AWAY = (429, 502, 503, 504)  # what proxies say while Label Studio restarts


class Project(Protocol):
    """What is asked of `backend.label_studio.client.LabelStudio`."""

    def project(self, project_id: str) -> Mapping[str, Any]:
        """The project's settings, `label_config` among them."""

    def task_rows(
        self, project_id: str, task_ids: Collection[int] | None = None, *, annotated: bool | None = None
    ) -> list[TaskRow]:
        """Tasks in short."""

    def import_predictions(self, project_id: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Store predictions."""


class Predictions(Protocol):
    """What is asked of `backend.prediction.predictor.Predictor`."""

    def predict(self, request: PredictRequest) -> list[Any]:
        """One entry per task, an empty list for a task without an answer."""


@dataclass
class Tally:
    """What became of the tasks.

    Attributes:
        predicted: their prediction was stored.
        present: they had one of the served version.
        unanswered: no prediction could be made; the log says why.
        refused: Label Studio does not take their prediction; the log says why.
        gone: they exist no longer.
    """

    predicted: int = 0
    present: int = 0
    unanswered: int = 0
    refused: int = 0
    gone: int = 0

    @property
    def done(self) -> int:
        """All of them."""
        return sum(asdict(self).values())


class PredictionRun:
    """One run over a project.

    Args:
        project: Label Studio's project id.
        job: the job's id, under which tasks are held.
        client: the project's Label Studio.
        predictor: makes the predictions.
        served: which version answers for the project, given its classes; None if none does.
        leases: says which tasks.
        tell: called with the tally, the number of tasks in all, and a sentence.
        pause: waits for some seconds.
        patience: seconds after which a Label Studio that does not answer is given up.
        import_seconds: how long Label Studio may take to store a chunk.
    """

    def __init__(
        self,
        project: str,
        job: str,
        client: Project,
        predictor: Predictions,
        served: Callable[[Sequence[str]], str | None],
        leases: Leases,
        tell: Callable[[Tally, int, str], None],
        *,
        pause: Callable[[float], None] = time.sleep,
        patience: float = PATIENCE_SECONDS,
        import_seconds: float = IMPORT_SECONDS,
    ) -> None:
        self.tally = Tally()
        self._project, self._job = project, job
        self._client, self._predictor, self._served, self._leases = client, predictor, served, leases
        self._tell, self._pause = tell, pause
        self._patience, self._import_seconds = patience, import_seconds
        self._lost = 0

    def run(self) -> Tally:
        """Go on until no task is left.

        Raises:
            BackendError: it cannot go on; what is stored stays, and the next run goes on from there.
        """
        while True:
            taken = self._leases.acquire_due(self._project, self._job, CHUNK, HOLD_SECONDS)
            if tasks := [int(task) for task in taken if task.isdigit()]:
                self._chunk(tasks)
            elif taken:
                self._look_up(taken)
            else:
                left, wait = self._leases.remaining(self._project, self._job)
                if wait is None:
                    return self.tally
                self._say(f"waiting to see whether {left} tasks were stored when an import was interrupted")
                self._pause(min(max(wait, 0.1), 5.0))

    def _look_up(self, scopes: Sequence[str]) -> None:
        """Put the tasks of "all" or "unlabelled" into the leases."""
        annotated = False if all(scope == UNLABELLED for scope in scopes) else None
        self._say("looking up the project's tasks")
        rows = self._patiently(lambda: self._client.task_rows(self._project, annotated=annotated))
        self._leases.request(self._project, [str(row.id) for row in rows])
        self._finish(scopes)

    def _chunk(self, tasks: Sequence[int]) -> None:
        # Each time anew: labels may be renamed and tasks deleted while this goes on for hours.
        config = parse_label_config(self._patiently(lambda: self._client.project(self._project))["label_config"])
        rows = self._rows(tasks)
        version = self._served(config.classes)
        if version is None:
            raise JobError(
                f"no model knows any of the project's classes ({', '.join(config.classes)}): annotate some tasks and "
                "press Start Training"
            )
        gone = [task for task in tasks if task not in rows]
        present = [task for task, row in rows.items() if version in row.versions]
        self.tally.gone += len(gone)
        self.tally.present += len(present)
        self._finish([*gone, *present])
        asked: list[dict[str, Any]] = [
            {"id": task, "data": rows[task].data} for task in tasks if task in rows and task not in present
        ]
        if asked:
            self._say(f"predicting with {version}")
            entries = self._entries(asked, config)
            if unanswered := [task for task in asked if not entries[task["id"]]]:
                # Most images come from Label Studio: perhaps it was away for a moment.
                self._patiently(lambda: self._client.project(self._project))
                entries |= self._entries(unanswered, config)
            self._hand_in(entries, version)
        self._say(f"predicting with {version}")

    def _entries(self, tasks: list[dict[str, Any]], config: LabelConfig) -> dict[int, Any]:
        entries = self._predictor.predict(PredictRequest(self._project, tasks, config))
        return {task["id"]: entry for task, entry in zip(tasks, entries, strict=True)}

    def _hand_in(self, entries: Mapping[int, Any], version: str) -> None:
        """Store a chunk's entries, except what was stored while they were made."""
        unanswered = [task for task, entry in entries.items() if not entry]
        self.tally.unanswered += len(unanswered)
        self._finish(unanswered)
        answered = {str(task): {**entry, "task": task} for task, entry in entries.items() if entry}
        # From here on nobody else has these stored. What another has taken over meanwhile is that one's.
        mine = self._leases.commit(self._project, answered, self._job, self._import_seconds, version=version)
        self._import([answered[task] for task in answered if task in mine])

    def _import(self, entries: Sequence[Mapping[str, Any]]) -> None:
        now = self._rows([entry["task"] for entry in entries])
        gone = [entry["task"] for entry in entries if entry["task"] not in now]
        present = [task for task, entry in _by_task(entries, now) if entry["model_version"] in now[task].versions]
        self.tally.gone += len(gone)
        self.tally.present += len(present)
        self._finish([*gone, *present])
        missing = [entry for task, entry in _by_task(entries, now) if task not in present]
        if not missing:
            return
        try:
            self._client.import_predictions(self._project, missing)
        except LabelStudioError as error:
            self._not_imported(missing, error)
        else:
            self._lost = 0
            self.tally.predicted += len(missing)
            self._finish([entry["task"] for entry in missing])

    def _not_imported(self, entries: Sequence[Mapping[str, Any]], error: LabelStudioError) -> None:
        if error.status in REFUSED:
            raise error
        if _away(error):
            # It may store them all the same. They stay held, and are looked up again when the hold is over.
            self._lost += 1
            if self._lost >= MAX_LOST:
                raise error
            self._say(f"an import got no answer: {error}")
        elif len(entries) > 1:
            logger.warning("%d predictions were refused together and are imported one by one: %s", len(entries), error)
            for entry in entries:
                self._import([entry])
        else:
            (entry,) = entries
            logger.warning("task %s: its prediction was refused: %s", entry["task"], error)
            self.tally.refused += 1
            self._finish([entry["task"]])

    def _rows(self, tasks: Collection[int]) -> dict[int, TaskRow]:
        found = self._patiently(lambda: self._client.task_rows(self._project, tasks))
        return {row.id: row for row in found}

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """What a call that changes nothing answers, asked again while Label Studio is away."""
        since, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                return call()
            except LabelStudioError as error:
                if not _away(error):
                    raise
                if time.monotonic() - since >= self._patience:
                    raise LabelStudioError(
                        f"Label Studio has not answered for {self._patience / 60:.0f} minutes: {error}. What is done "
                        "stays; start it again when Label Studio is back",
                        error.status,
                    ) from error
                self._say(f"Label Studio does not answer and is asked again in {pause:.0f} s: {error}")
                self._pause(pause)
                pause = min(pause * 2, MAX_PAUSE)

    def _finish(self, tasks: Sequence[int | str]) -> None:
        if tasks:
            self._leases.finish(self._project, [str(task) for task in tasks], self._job)

    def _say(self, sentence: str) -> None:
        left, _ = self._leases.remaining(self._project, self._job)
        self._tell(self.tally, self.tally.done + left, sentence)


def _away(error: LabelStudioError) -> bool:
    return error.status is None or error.status in AWAY


def _by_task(entries: Sequence[Mapping[str, Any]], rows: Mapping[int, TaskRow]) -> list[tuple[int, Mapping[str, Any]]]:
    return [(entry["task"], entry) for entry in entries if entry["task"] in rows]
