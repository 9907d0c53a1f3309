"""The run inside a prediction job's process: requested tasks are looked up, predicted and imported in chunks.

It can be killed at any moment and started again: the leases keep the tasks that are still requested, and Label Studio
is asked before and after predicting whether a task has a prediction of the served version. After an interrupted import
it waits until Label Studio has stored the predictions or never will, and looks the tasks up again.

What counts is what Label Studio has, not what it answers. It is looked up after every import, and what is missing is
sent one by one by another call; what is missing even then stays requested, and the job fails in the end.

Several runs, each of a worker, do one job: a task is leased to one of them.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from backend.database.engine import Result
from backend.database.leases import ALL, UNLABELLED, share_holder
from backend.database.shares import Shares
from backend.errors import JobError, LabelStudioError
from backend.label_studio.client import TaskRow
from backend.label_studio.label_config import LabelConfig, parse_label_config
from backend.label_studio.protocol import PredictRequest

logger = logging.getLogger(__name__)

CHUNK = 32  # tasks per import: Label Studio recounts the project at each, and a kill costs no more than these
LEASE_SECONDS = 600.0  # time to predict a chunk
IMPORT_SECONDS = 90.0  # above an import's time-out: by then Label Studio has stored it or never will
PATIENCE_SECONDS = 600.0  # with a Label Studio that does not answer
FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0  # seconds between two tries
LEAVE_SECONDS = 5  # between two looks, while it is away, for a job that goes first
MAX_LOST = 5  # imports in a row without an answer
REFUSED = (401, 403, 404)  # trying again or one by one does not help
EVERY = 0.5  # seconds between two reports of tasks that are predicted
AWAY = (429, 502, 503, 504)  # a proxy's answers while Label Studio restarts


class GaveWay(LabelStudioError):
    """Label Studio does not answer, and another job can do something meanwhile: this one goes on later."""


class Project(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used here."""

    def project(self, project_id: str) -> Mapping[str, Any]:
        """The project's settings, `label_config` among them."""

    def task_rows(
        self, project_id: str, task_ids: Collection[int] | None = None, *, annotated: bool | None = None
    ) -> list[TaskRow]:
        """Tasks in short."""

    def import_predictions(self, project_id: str, rows: Sequence[Mapping[str, Any]]) -> int:
        """Store predictions; returns the number that Label Studio gives."""

    def create_prediction(self, row: Mapping[str, Any]) -> None:
        """Store one prediction."""


class Predictions(Protocol):
    """The part of `backend.prediction.predictor.Predictor` that is used here."""

    def predict(
        self, request: PredictRequest, done: Callable[[int], None], problem: Callable[[Any, str], None]
    ) -> list[Any]:
        """One entry per task, an empty list for a task without an answer; `done` and `problem` are told meanwhile."""


@dataclass
class Tally:
    """Number of tasks by outcome.

    Attributes:
        predicted: their prediction is stored: Label Studio lists it.
        present: they had one of the served version.
        unanswered: no prediction could be made; the log says why.
        refused: Label Studio did not store their prediction; the log says why.
        gone: they were deleted.
    """

    predicted: int = 0
    present: int = 0
    unanswered: int = 0
    refused: int = 0
    gone: int = 0

    def add(self, outcome: str, count: int) -> None:
        """Count tasks."""
        setattr(self, outcome, getattr(self, outcome) + count)

    @property
    def done(self) -> int:
        """Number of tasks with an outcome."""
        return sum(asdict(self).values())


class PredictionRun:
    """One run over a project.

    Args:
        project: Label Studio's project id.
        job: the job's id.
        client: the project's Label Studio.
        predictor: makes the predictions.
        served: gives the version that answers for the project, from its classes; None if there is none.
        shares: of jobs, with the leases of the requested tasks.
        tell: called with a sentence when it gets on.
        pause: waits for a number of seconds.
        patience: seconds after which the run fails if Label Studio does not answer.
        import_seconds: how long Label Studio may take to store a chunk.
        every: seconds between two reports of tasks that are predicted.
        waiting: gives the version that could be promoted, from the project's classes; "" if there is none.
        worker: the worker whose share of the job this is; its tally is in the database.
        leave: asked after each chunk, and while Label Studio is away: whether the rest is to be left to others.
        chunk: tasks that are leased, predicted and imported together.
        spent: seconds of the patience that earlier runs of the job have spent, none of which got an answer.

    Attributes:
        tally: tasks by outcome, of this run.
        drawn: tasks of the chunk at hand that are predicted, and not stored yet.
        pace: seconds per task so far; None while unknown.
    """

    def __init__(
        self,
        project: str,
        job: str,
        client: Project,
        predictor: Predictions,
        served: Callable[[Sequence[str]], str | None],
        shares: Shares,
        tell: Callable[[str], None],
        *,
        pause: Callable[[float], None] = time.sleep,
        patience: float = PATIENCE_SECONDS,
        import_seconds: float = IMPORT_SECONDS,
        every: float = EVERY,
        waiting: Callable[[Sequence[str]], str] = lambda classes: "",
        worker: str = "",
        leave: Callable[[], bool] = lambda: False,
        chunk: int = CHUNK,
        spent: float = 0.0,
    ) -> None:
        self.tally = Tally()
        self.drawn = 0
        self.pace: float | None = None
        self._every, self._said_at = every, -math.inf
        self._made, self._seconds, self._chunk_began = 0, 0.0, time.monotonic()
        self._project, self._job, self._worker, self._holder = project, job, worker, share_holder(job, worker)
        self._leave, self._tasks = leave, chunk
        self._client, self._predictor, self._served, self._waiting = client, predictor, served, waiting
        self._shares, self._leases = shares, shares.leases
        self._tell, self._pause = tell, pause
        self._patience, self._import_seconds = patience, import_seconds
        self._lost, self._spent = 0, spent
        self._singly = False  # this Label Studio does not store what it is sent together

    def run(self) -> Tally:
        """Predict until no task is left, or `leave` says so.

        Raises:
            BackendError: it cannot continue; stored predictions stay, and the next run continues from there.
        """
        while True:
            taken = self._leases.acquire_due(self._project, self._holder, self._tasks, LEASE_SECONDS)
            if tasks := [int(task) for task in taken if task.isdigit()]:
                self._chunk(tasks)
            elif scopes := [scope for scope in taken if scope in (ALL, UNLABELLED)]:
                self._look_up(scopes)
            elif taken:
                logger.warning("%s are no ids of tasks and are passed over", ", ".join(map(repr, taken))[:200])
                self._leases.finish(self._project, taken, self._holder)
            else:
                left, wait = self._leases.remaining(self._project, self._holder)
                if wait is None:
                    return self.tally
                self._say(f"waiting to see whether {left} tasks were stored when an import was interrupted")
                self._pause(min(max(wait, 0.1), 5.0))
                continue
            # What an interrupted import may have stored is this run's to look up.
            if self._leave() and not self._lost:
                return self.tally

    def _look_up(self, scopes: Sequence[str]) -> None:
        """Request a prediction of each task of "all" or "unlabelled"."""
        annotated = False if all(scope == UNLABELLED for scope in scopes) else None
        self._say("looking up the project's tasks")
        rows = self._patiently(lambda: self._client.task_rows(self._project, annotated=annotated))
        self._leases.request(self._project, [str(row.id) for row in rows])
        self._leases.finish(self._project, scopes, self._holder)

    def _chunk(self, tasks: Sequence[int]) -> None:
        # Read for each chunk: labels may be renamed and tasks deleted while this runs for hours.
        config = parse_label_config(self._patiently(lambda: self._client.project(self._project))["label_config"])
        rows = self._rows(tasks)
        version = self._served(config.classes)
        if version is None:
            if waiting := self._waiting(config.classes):
                raise JobError(f"no version is served: {waiting} waits to be promoted; promote it, then ask again")
            raise JobError(
                f"no model knows any of the project's classes ({', '.join(config.classes)}): annotate some tasks and "
                "press Start Training"
            )
        gone = [task for task in tasks if task not in rows]
        present = [task for task, row in rows.items() if version in row.versions]
        self._finish(gone, "gone")
        self._finish(present, "present")
        asked: list[dict[str, Any]] = [
            {"id": task, "data": rows[task].data} for task in tasks if task in rows and task not in present
        ]
        if asked:
            self._chunk_began = time.monotonic()
            self._say(f"predicting with {version}")
            entries, reasons = self._entries(asked, config, version)
            if unanswered := [task for task in asked if not entries[task["id"]]]:
                # Most images come from Label Studio: perhaps it was away for a moment.
                self._patiently(lambda: self._client.project(self._project))
                again, reasons = self._entries(unanswered, config, version)
                entries |= again
            self._store(entries, version, reasons)
            self._made, self.drawn = self._made + len(asked), 0
            self._seconds += time.monotonic() - self._chunk_began
            self._chunk_began = time.monotonic()
        self._say(f"predicting with {version}")

    def _entries(
        self, tasks: list[dict[str, Any]], config: LabelConfig, version: str
    ) -> tuple[dict[int, Any], dict[str, str]]:
        """The entry of each task, and why there is none of some."""
        reasons: dict[str, str] = {}
        retried = self.drawn > 0  # these were counted the first time

        def done(count: int) -> None:
            self.drawn = self.drawn if retried else count
            if time.monotonic() - self._said_at >= self._every:
                self._say(f"predicting with {version}")

        def problem(task: Any, why: str) -> None:
            reasons[str(task)] = why

        entries = self._predictor.predict(PredictRequest(self._project, tasks, config), done, problem)
        return {task["id"]: entry for task, entry in zip(tasks, entries, strict=True)}, reasons

    def _store(self, entries: Mapping[int, Any], version: str, reasons: Mapping[str, str]) -> None:
        """Import a chunk's entries, except for tasks that got a prediction meanwhile."""
        unanswered = [task for task, entry in entries.items() if not entry]
        why = [_problem(task, reasons.get(str(task), "no answer; the log says more")) for task in unanswered]
        self._finish(unanswered, "unanswered", why)
        answered = {str(task): {**entry, "task": task} for task, entry in entries.items() if entry}
        # From here on no other holder stores these. Tasks that a request took over meanwhile are left to it.
        mine = self._leases.commit(self._project, answered, self._holder, self._import_seconds, version=version)
        self._import([answered[task] for task in answered if task in mine])

    def _import(self, entries: Sequence[Mapping[str, Any]]) -> None:
        now = self._rows([entry["task"] for entry in entries])
        gone = [entry["task"] for entry in entries if entry["task"] not in now]
        present = [task for task, entry in _by_task(entries, now) if entry["model_version"] in now[task].versions]
        self._finish(gone, "gone")
        self._finish(present, "present")
        missing = [entry for task, entry in _by_task(entries, now) if task not in present]
        if self._singly:
            self._import_singly(missing)
        elif missing:
            self._import_together(missing)

    def _import_together(self, entries: Sequence[Mapping[str, Any]]) -> None:
        try:
            created = self._client.import_predictions(self._project, entries)
        except LabelStudioError as error:
            if not self._tolerated(error):
                logger.warning("%d predictions were refused together and are sent one by one: %s", len(entries), error)
                self._import_singly(entries)
            return
        if missing := self._looked_up(entries):
            self._singly = True
            logger.warning(
                "Label Studio was sent %d predictions, says that it stored %d and lacks %d; from here on each is sent "
                "by itself",
                len(entries),
                created,
                len(missing),
            )
            self._import_singly(missing)

    def _import_singly(self, entries: Sequence[Mapping[str, Any]]) -> None:
        sent = []
        for entry in entries:
            task, version = str(entry["task"]), entry["model_version"]
            # Each may take as long as a whole import, so the lease begins again.
            if not self._leases.commit(self._project, [task], self._holder, self._import_seconds, version=version):
                continue
            try:
                self._client.create_prediction(entry)
            except LabelStudioError as error:
                if self._tolerated(error):
                    break
                self._refuse(entry, str(error))
            else:
                sent.append(entry)
        for entry in self._looked_up(sent):
            self._refuse(entry, "it answered that it was stored, and does not list it")

    def _looked_up(self, entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Count the predictions that Label Studio lists, and return the others; deleted tasks are neither."""
        if not entries:
            return []
        self._lost = 0
        now = self._rows([entry["task"] for entry in entries])
        gone = [entry["task"] for entry in entries if entry["task"] not in now]
        stored = [task for task, entry in _by_task(entries, now) if entry["model_version"] in now[task].versions]
        self._finish(gone, "gone")
        self._finish(stored, "predicted")
        return [entry for task, entry in _by_task(entries, now) if task not in stored]

    def _tolerated(self, error: LabelStudioError) -> bool:
        """Whether predictions may be stored although the call failed: they are looked up when their leases expire.

        Raises:
            LabelStudioError: trying again or another way does not help.
        """
        if error.status in REFUSED:
            raise error
        if not away(error):
            return False
        self._lost += 1
        if self._lost >= MAX_LOST:
            raise error
        self._say(f"an import got no answer: {error}")
        return True

    def _refuse(self, entry: Mapping[str, Any], why: str) -> None:
        logger.warning("task %s: its prediction was not stored: %s", entry["task"], why)
        problem = _problem(entry["task"], f"Label Studio did not store its prediction: {why}")
        # Requested again at the end of the job, which would otherwise not end.
        count = self._shares.refuse(self._job, self._worker, self._project, [str(entry["task"])], [problem])
        self.tally.add("refused", count)

    def _rows(self, tasks: Collection[int]) -> dict[int, TaskRow]:
        found = self._patiently(lambda: self._client.task_rows(self._project, tasks))
        return {row.id: row for row in found}

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """Result of a call that changes nothing, repeated while Label Studio is away.

        Raises:
            GaveWay: it is away, and another job needs the worker, perhaps one of another Label Studio.
        """
        since, pause = time.monotonic() - self._spent, FIRST_PAUSE
        while True:
            try:
                result = call()
            except LabelStudioError as error:
                # A 500 is its answer, too, while its database is away.
                if not away(error) and (error.status or 0) < 500:
                    raise
                if time.monotonic() - since >= self._patience:
                    raise LabelStudioError(
                        f"Label Studio has not answered for {self._patience / 60:.0f} minutes: {error}. What is done "
                        "stays; start it again when Label Studio is back",
                        error.status,
                    ) from error
                self._say(f"Label Studio does not answer and is asked again in {pause:.0f} s: {error}")
                for waited in range(0, math.ceil(pause), LEAVE_SECONDS):
                    if self._leave():
                        raise GaveWay(f"Label Studio does not answer, and another job goes first: {error}") from error
                    self._pause(min(pause - waited, LEAVE_SECONDS))
                pause = min(pause * 2, MAX_PAUSE)
            else:
                self._spent = 0.0
                return result

    def _finish(self, tasks: Sequence[int], outcome: str, problems: Sequence[Mapping[str, Any]] = ()) -> None:
        if tasks:
            named = [str(task) for task in tasks]
            count = self._shares.finish(self._job, self._worker, self._project, named, outcome, problems)
            self.tally.add(outcome, count)

    def _say(self, sentence: str) -> None:
        now = time.monotonic()
        self._said_at, made = now, self._made + self.drawn
        if made:
            spent = self._seconds + (now - self._chunk_began if self.drawn else 0.0)
            self.pace = round(spent / made, 4)
        self._tell(sentence)


def _problem(task: int, why: str) -> dict[str, Any]:
    return {"task": task, "reason": why[:500]}


def away(error: LabelStudioError) -> bool:
    """Whether Label Studio did not answer, or something in front of it did."""
    return error.status is None or error.status in AWAY


def _by_task(entries: Sequence[Mapping[str, Any]], rows: Mapping[int, TaskRow]) -> list[tuple[int, Mapping[str, Any]]]:
    return [(entry["task"], entry) for entry in entries if entry["task"] in rows]
