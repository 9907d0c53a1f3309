"""The answer to /predict: streamed as it is made, complete at the deadline, and what is missing left to a job.

Label Studio wants one entry per task, in order. A task that was not reached by the deadline gets an empty list, which
Label Studio passes over, and stays in the leases as wanted: a job predicts it and imports it. So does every task of a
request whose answer does not arrive, because this process was killed or Label Studio hung up.

Label Studio stores what it is told and has no lock, so three people who open the same fresh task would give it three
predictions. Here the first gets the entry; to the others the answer is an empty list as soon as Label Studio has the
first one's, which it then shows them.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from backend.database.jobs import PREDICTION
from backend.database.leases import Leases
from backend.errors import BackendError, JobError
from backend.jobs.queue import JobQueue
from backend.label_studio.client import TaskRow
from backend.label_studio.protocol import PredictRequest
from backend.prediction.predictor import NOTHING, Predictor
from backend.prediction.streaming import BLANK, until

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

# Label Studio stores an answer's predictions one by one, 0.15 s each on two busy cores; this is twice that.
STORING_SECONDS, STORING_SECONDS_EACH = 5.0, 0.3
MARGIN_SECONDS = 10.0  # by which an answer may miss its deadline: a batch is always finished
PATIENCE_SECONDS = 2.0  # of someone who opens a task that another has just opened
LATE: dict[str, Any] = {}  # stands for the entry of a task that was not reached


class Tasks(Protocol):
    """What is asked of `backend.label_studio.client.LabelStudio`."""

    def task_rows(self, project_id: str, task_ids: list[int], *, timeout: tuple[float, float]) -> list[TaskRow]:
        """Tasks in short."""


class Delivery:
    """PredictionCache prediction requests within a deadline. Safe to share between threads.

    Args:
        predictor: makes the entries.
        leases: who has which task's prediction stored.
        jobs: where the rest goes.
        client: Label Studio of a project.
        deadline: seconds after which an answer is complete, whatever is missing.
        blank_every: seconds of silence before a blank is sent.
    """

    def __init__(
        self,
        predictor: Predictor,
        leases: Leases,
        jobs: JobQueue,
        client: Callable[[str], Tasks],
        *,
        deadline: float = 60.0,
        blank_every: float = 1.0,
    ) -> None:
        self._predictor = predictor
        self._leases = leases
        self._jobs = jobs
        self._client = client
        self._deadline = deadline
        self._blank_every = blank_every

    def answer(self, asked: PredictRequest) -> Iterator[bytes]:
        """The body piece by piece, so that a thousand tasks' masks are never in memory together."""
        began = time.monotonic()
        yield b'{"results": ['
        # A smart tool's answer is shown and not stored; without a model there is nothing to store.
        version = self._predictor.version(asked) if asked.context is None else None
        claim = None if version is None else _Claim(asked, version, self._leases, self._deadline)
        complete = False
        try:
            held = [task for task in asked.tasks if claim is None or claim.holds(task)]
            if len(asked.tasks) == 1 and not held:
                yield from self._wait(asked)
            stream = self._predictor.stream(replace(asked, tasks=held))
            with closing(until(began + self._deadline, stream, self._blank_every)) as entries:
                for number, task in enumerate(asked.tasks):
                    entry: Any = NOTHING
                    if claim is None or claim.holds(task):
                        while (entry := next(entries, LATE)) is None:
                            yield BLANK
                    if claim is not None:
                        entry = claim.checked(task, entry)
                    yield (b"," if number else b"") + json.dumps(NOTHING if entry is LATE else entry).encode()
            if claim is not None and (late := claim.close()):
                self._submit(asked.project_id, f"{late} of {len(asked.tasks)} tasks were not reached in time")
            yield b"]}\n"
            complete = True
        finally:
            if claim is not None and claim.end(complete):
                self._submit(asked.project_id, "its answer did not arrive")

    def _wait(self, asked: PredictRequest) -> Iterator[bytes]:
        """Blanks until Label Studio has the prediction of a request's only task that another request was given."""
        until_then = time.monotonic() + PATIENCE_SECONDS
        while (left := until_then - time.monotonic()) > 0:
            yield BLANK
            try:
                client = self._client(asked.project_id)
                rows = client.task_rows(asked.project_id, [int(asked.tasks[0]["id"])], timeout=(left, left))
                if any(row.versions for row in rows):
                    return
            except (BackendError, ValueError) as error:
                logger.debug("project %s: cannot look whether the prediction is stored: %s", asked.project_id, error)
            time.sleep(min(0.2, left))

    def _submit(self, project: str, why: str) -> None:
        try:
            job, _ = self._jobs.submit(project, PREDICTION)
            logger.info("project %s: %s; job %s predicts what is missing", project, why, job.id)
        except BackendError:
            logger.exception("project %s: %s; the worker will find out", project, why)


class _Claim:
    """One request's holds in the leases.

    While the leases cannot be used, tasks are answered as far as the deadline allows; the rest is asked for again by
    the next press.
    """

    def __init__(self, asked: PredictRequest, version: str, leases: Leases, deadline: float) -> None:
        self._leases, self._project = leases, asked.project_id
        self._holder, self._version = uuid.uuid4().hex, version
        self._seconds = deadline + MARGIN_SECONDS
        self._broken = False
        self._given: set[str] = set()
        # Label Studio's ids are numbers; anything else is answered, but no job could import it.
        self._tasks = {str(task["id"]) for task in asked.tasks if type(task["id"]) is int}
        # A single task has an annotator who waits for it: nobody else may take it over.
        committed = len(asked.tasks) == 1
        self._held = self._ask(
            lambda: leases.acquire(
                self._project, self._tasks, self._holder, self._seconds, version=version, committed=committed
            ),
            self._tasks,
        )

    def holds(self, task: Mapping[str, Any]) -> bool:
        """Whether this request is to answer for a task."""
        return str(task["id"]) in self._held or str(task["id"]) not in self._tasks

    def checked(self, task: Mapping[str, Any], entry: Any) -> Any:
        """The entry, or nothing if somebody else has taken the task over meanwhile."""
        key = str(task["id"])
        if key not in self._held or entry is LATE:
            return entry
        if not entry:
            if key not in self._given:  # the same task may come twice, with an image and without
                self._ask(lambda: self._leases.finish(self._project, [key], self._holder), None)
        elif self._confirm({key}, self._seconds):
            self._given.add(key)
            return entry
        return NOTHING

    def close(self) -> int:
        """Before the last bytes: leave what was not reached to a job; returns how many tasks those are.

        Raises:
            JobError: a job has taken over what this answer gives; Label Studio must not get it.
        """
        if self._confirm(self._given, self._storing) != self._given:
            raise JobError(f"project {self._project}: the answer to /predict took too long and was given up")
        late = self._held - self._given
        return self._ask(lambda: self._leases.release(self._project, late, self._holder), 0)

    def end(self, complete: bool) -> bool:
        """After the last bytes: whether a job has to do all of it, because they were not sent."""
        if complete:
            given = self._given
            self._ask(lambda: self._leases.delivered(self._project, given, self._holder, self._storing), None)
            return False
        return self._ask(lambda: self._leases.release(self._project, self._held, self._holder), 0) > 0

    @property
    def _storing(self) -> float:
        """Seconds that Label Studio may take to store what was given."""
        return STORING_SECONDS + STORING_SECONDS_EACH * len(self._given)

    def _confirm(self, tasks: set[str], seconds: float) -> set[str]:
        leases, version = self._leases, self._version
        return self._ask(lambda: leases.commit(self._project, tasks, self._holder, seconds, version=version), tasks)

    def _ask(self, call: Callable[[], Answer], otherwise: Answer) -> Answer:
        if self._broken:
            return otherwise
        try:
            return call()
        except BackendError as error:
            self._broken = True
            logger.error("project %s: %s; predictions may be stored twice", self._project, error)
            return otherwise
