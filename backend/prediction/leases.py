"""The leases of one request to /predict: which of its tasks it answers for, and until when."""

import logging
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from backend.database.leases import Leases
from backend.errors import BackendError, JobError
from backend.label_studio.protocol import PredictRequest
from backend.prediction.cache import Entry
from backend.prediction.predictor import NOTHING

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

# Label Studio stores an answer's predictions one by one, 0.15 s each on two busy cores; this is twice that.
STORING_SECONDS, STORING_SECONDS_EACH = 5.0, 0.3


class RequestLeases:
    """Acquires the request's tasks at once; those that are being stored already stay with others.

    While the leases cannot be used, tasks are answered as far as the deadline allows; the rest is asked for again by
    the next press.

    Args:
        asked: the request.
        version: the model version that answers; None if there is none, and nothing to lease.
        leases: of all requests and jobs.
        seconds: that predicting may take; then others may have the tasks.
    """

    def __init__(self, asked: PredictRequest, version: str | None, leases: Leases, seconds: float) -> None:
        self._leases, self._project, self._seconds = leases, asked.project_id, seconds
        self._holder, self._version = uuid.uuid4().hex, version or ""
        self._broken = False
        self._given: set[str] = set()
        self._unanswered: set[str] = set()  # there is no entry for them, and no job has to try
        # Label Studio's ids are numbers from 1 up; anything else is answered, but no job could import it.
        self._tasks = set() if version is None else {str(t["id"]) for t in asked.tasks if _is_id(t["id"])}
        # An annotator waits for a single task: no other request may take it over.
        self._committed = len(asked.tasks) == 1
        self._held = self._acquire() if self._tasks else set()

    def holds(self, task: Mapping[str, Any]) -> bool:
        """Whether this request is to answer for a task."""
        return str(task["id"]) in self._held or str(task["id"]) not in self._tasks

    def left_to_others(self) -> set[str]:
        """Tasks that others were having stored when this request came."""
        return self._tasks - self._held

    def given(self) -> set[str]:
        """Tasks that have an entry in this answer."""
        return set(self._given)

    def unanswered(self) -> set[str]:
        """Tasks that it could not answer."""
        return set(self._unanswered)

    def request(self, tasks: set[str]) -> None:
        """Request tasks that were given to another: perhaps not for storing, as the answer to Send Test Request.

        Once that lease expires, a job looks the tasks up and predicts those that have no prediction.
        """
        if tasks:
            self._ask(lambda: self._leases.request(self._project, tasks), None)

    def checked(self, tasks: Sequence[Mapping[str, Any]], entries: Sequence[Entry]) -> list[Entry]:
        """The entries of tasks that it holds, without those of tasks that others have taken over meanwhile."""
        keys = [str(task["id"]) for task in tasks]
        leased = [(key, entry) for key, entry in zip(keys, entries, strict=True) if key in self._held]
        answered = {key for key, entry in leased if entry != NOTHING}
        self._given |= answered if self._committed else self._commit(answered, self._seconds)
        # The same task may come twice, with an image and without.
        if empty := {key for key, _ in leased} - answered - self._given:
            self._unanswered |= empty
            self._ask(lambda: self._leases.finish(self._project, empty, self._holder), None)
        return [
            entry if key in self._given or key not in self._held else NOTHING
            for key, entry in zip(keys, entries, strict=True)
        ]

    def close(self) -> int:
        """Before the last bytes: leave the tasks that were not reached to a job; returns how many those are.

        Raises:
            JobError: a job has taken over what this answer gives; Label Studio must not get it.
        """
        if self._commit(self._given, self._storing) != self._given:
            raise JobError(f"project {self._project}: the answer to /predict took too long and was given up")
        return self._release(self._held - self._given - self._unanswered)

    def end(self, complete: bool) -> bool:
        """After the last bytes: whether a job has to do all of it, because they were not sent."""
        if not complete:
            return self._release(self._held - self._unanswered) > 0
        if given := self._given:
            self._ask(lambda: self._leases.delivered(self._project, given, self._holder, self._storing), None)
        return False

    @property
    def _storing(self) -> float:
        """Seconds that Label Studio may take to store what was given."""
        return STORING_SECONDS + STORING_SECONDS_EACH * len(self._given)

    def _acquire(self) -> set[str]:
        call = self._leases.acquire
        tasks, version, committed = self._tasks, self._version, self._committed
        return self._ask(
            lambda: call(self._project, tasks, self._holder, self._seconds, version=version, committed=committed), tasks
        )

    def _commit(self, tasks: set[str], seconds: float) -> set[str]:
        if not tasks:
            return set()
        commit, version = self._leases.commit, self._version
        return self._ask(lambda: commit(self._project, tasks, self._holder, seconds, version=version), tasks)

    def _release(self, tasks: set[str]) -> int:
        return self._ask(lambda: self._leases.release(self._project, tasks, self._holder), 0) if tasks else 0

    def _ask(self, call: Callable[[], Result], otherwise: Result) -> Result:
        if self._broken:
            return otherwise
        try:
            return call()
        except BackendError as error:
            self._broken = True
            logger.error("project %s: %s; predictions may be stored twice", self._project, error)
            return otherwise


def _is_id(value: object) -> bool:
    return type(value) is int and 0 < value < 1 << 63
