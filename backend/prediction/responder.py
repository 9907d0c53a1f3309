"""The answer to /predict: streamed as it is made, complete at the deadline; a job predicts the tasks left out.

Label Studio wants one entry per task, in order. A task that was not reached by the deadline gets an empty list, which
Label Studio passes over, and stays in the leases as wanted: a job predicts it and imports it. So does every task of a
request whose answer does not arrive, because this process was killed or Label Studio hung up.

Label Studio stores what it is told and has no lock, so three people who open the same fresh task would give it three
predictions. Here the first gets the entry; to the others the answer is an empty list as soon as Label Studio has the
first one's, which it then shows them. But it does not store every answer: Send Test Request is asked like any other. So
a task that was left to another request stays requested, and after a while a job looks whether it has a prediction.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

from backend.database.jobs import PREDICTION
from backend.database.leases import Leases
from backend.errors import BackendError
from backend.jobs.queue import JobQueue
from backend.label_studio.client import TaskRow
from backend.label_studio.protocol import PredictRequest
from backend.label_studio.status import LATE, NO_MODEL, failed, status_entry
from backend.prediction.cache import Entry
from backend.prediction.leases import RequestLeases
from backend.prediction.predictor import NOTHING, Predictor
from backend.prediction.prefetch import Prefetch, Requests
from backend.prediction.streaming import BLANK, until
from backend.versions.serving import Resolved

logger = logging.getLogger(__name__)

GATHERED, GATHER_SECONDS = 32, 1.0  # entries whose leases are committed together


class Tasks(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used."""

    def task_rows(self, project_id: str, task_ids: list[int], *, timeout: tuple[float, float]) -> list[TaskRow]:
        """Tasks in short."""


class Responder:
    """Answers prediction requests within a deadline. Safe to share between threads.

    Args:
        predictor: makes the entries.
        leases: who has which task's prediction stored.
        jobs: where the rest goes.
        client: Label Studio of a project.
        deadline: seconds after which an answer is complete, with what is finished by then.
        margin: seconds by which an answer may miss its deadline: a batch is always finished.
        patience: seconds that someone waits who opens a task that another has just opened.
        blank_every: seconds of silence before a blank is sent.
        requests: where a request counts while it is answered.
        prefetch: predicts the tasks that come after one that was opened.
    """

    def __init__(
        self,
        predictor: Predictor,
        leases: Leases,
        jobs: JobQueue,
        client: Callable[[str], Tasks],
        *,
        deadline: float = 60.0,
        margin: float = 10.0,
        patience: float = 2.0,
        blank_every: float = 1.0,
        requests: Requests | None = None,
        prefetch: Prefetch | None = None,
    ) -> None:
        self._predictor = predictor
        self._leases = leases
        self._jobs = jobs
        self._client = client
        self._deadline, self._margin, self._patience = deadline, margin, patience
        self._blank_every = blank_every
        self._lock = threading.Lock()
        # Requests being answered: their project, and tasks that others have asked for meanwhile.
        self._running: dict[RequestLeases, tuple[str, set[str]]] = {}
        self._requests = requests or Requests()
        self._prefetch = prefetch

    def answer(self, asked: PredictRequest, resolved: Resolved | None) -> Iterator[bytes]:
        """The body piece by piece, so that a thousand tasks' masks are never in memory together.

        Args:
            asked: the request; its tasks are predicted, no prompt is answered.
            resolved: the version that answers for its project, None if no model covers it.
        """
        with self._requests.answering():
            yield from self._answer(asked, resolved)
        if self._prefetch is not None and len(asked.tasks) == 1 and resolved is not None:
            self._prefetch.opened(asked, resolved.version)

    def _answer(self, asked: PredictRequest, resolved: Resolved | None) -> Iterator[bytes]:
        began = time.monotonic()
        yield b'{"results": ['
        version = None if resolved is None else resolved.version
        leases = RequestLeases(asked, version, self._leases, self._deadline + self._margin)
        complete = False
        again: set[str] = set()
        reasons: list[str] = []
        with self._lock:
            self._running[leases] = (asked.project_id, again)
        try:
            held = [task for task in asked.tasks if leases.holds(task)]
            stored = False
            if len(asked.tasks) == 1 and not held:
                stored = yield from self._wait(asked)
            if not stored:
                self._again(asked.project_id, leases)
            stream = self._predictor.stream(replace(asked, tasks=held), resolved, lambda _, why: reasons.append(why))

            def instead(late: bool) -> Entry:
                return _told(asked, resolved, late, reasons)

            with closing(until(began + self._deadline, stream, self._blank_every)) as batches:
                yield from _body(asked.tasks, held, leases, gathered(batches), instead)
            if late := leases.close():
                self._submit(asked.project_id, f"{late} of {len(asked.tasks)} tasks were not reached in time")
            yield b"]}\n"
            complete = True
            if reasons and instead(False) != NOTHING:  # Label Studio asks no more, so a job tries once again
                leases.request(leases.unanswered())
        finally:
            if leases.end(complete):
                self._submit(asked.project_id, "its answer did not arrive")
            with self._lock:
                del self._running[leases]
            # Only now: what it delivered counts as no longer requested.
            leases.request(again & leases.given())

    def _again(self, project: str, leases: RequestLeases) -> None:
        """Request the tasks that a request leaves to others, also once those others have delivered them."""
        left = leases.left_to_others()
        with self._lock:
            for of, again in self._running.values():
                if of == project:
                    again.update(left)
        leases.request(left)

    def _wait(self, asked: PredictRequest) -> Generator[bytes, None, bool]:
        """Blanks until Label Studio has the prediction of a request's only task that another request was given.

        Returns:
            Whether it has.
        """
        until_then = time.monotonic() + self._patience
        while (left := until_then - time.monotonic()) > 0:
            yield BLANK
            try:
                client = self._client(asked.project_id)
                rows = client.task_rows(asked.project_id, [int(asked.tasks[0]["id"])], timeout=(left, left))
                if any(row.versions for row in rows):
                    return True
            except (BackendError, ValueError) as error:
                logger.debug("project %s: cannot ask whether the prediction is stored: %s", asked.project_id, error)
            time.sleep(min(0.2, left))
        return False

    def _submit(self, project: str, why: str) -> None:
        try:
            job, _ = self._jobs.submit(project, PREDICTION)
            logger.info("project %s: %s; job %s predicts what is missing", project, why, job.id)
        except BackendError:
            logger.exception("project %s: %s; the worker will find out", project, why)


def gathered(batches: Iterator[list[Entry] | None]) -> Iterator[list[Entry] | None]:
    """The same, more entries at a time: leases are committed in one transaction for many tasks, not for each.

    Entries wait for others for `GATHER_SECONDS` at most, and for no longer than they come one after another.
    """
    entries: list[Entry] = []
    until_then = 0.0
    for batch in batches:
        if batch is None and not entries:
            yield None
        if not entries:
            until_then = time.monotonic() + GATHER_SECONDS
        entries.extend(batch or ())
        if entries and (batch is None or len(entries) >= GATHERED or time.monotonic() >= until_then):
            yield entries
            entries = []
    if entries:
        yield entries


def _told(asked: PredictRequest, resolved: Resolved | None, late: bool, reasons: Sequence[str]) -> Entry:
    """What a task without an entry gets: a sentence for whoever opened it, if the config has a place for one.

    Not where there is something to see already, nor for many tasks at once, which nobody looks at.
    """
    label = asked.config.status
    task = asked.tasks[0]
    if label is None or len(asked.tasks) != 1 or task.get("predictions") or task.get("annotations"):
        return NOTHING
    sentence = LATE if late else NO_MODEL if resolved is None else failed(reasons[0] if reasons else "")
    return json.dumps(status_entry(label, sentence)).encode()


def _body(
    tasks: Sequence[Mapping[str, Any]],
    held: Sequence[Mapping[str, Any]],
    leases: RequestLeases,
    batches: Iterator[list[Entry] | None],
    instead: Callable[[bool], Entry],
) -> Iterator[bytes]:
    """The entries of all tasks with commas between them, and blanks while there is none.

    Args:
        tasks: of the request.
        held: those among them whose entries come in `batches`.
        leases: of the request.
        batches: entries as they are finished, None after a while without any; ends early at the deadline.
        instead: what a task gets that has no entry, from whether that was too late.
    """
    ready: deque[Entry] = deque()
    reached, late = 0, False
    for number, task in enumerate(tasks):
        entry = NOTHING
        if leases.holds(task):
            while not ready and not late:
                batch = next(batches, [])
                if batch is None:
                    yield BLANK
                    continue
                late = not batch
                ready.extend(leases.checked(held[reached : reached + len(batch)], batch))
                reached += len(batch)
            if ready:
                entry = ready.popleft()
            if entry == NOTHING:
                entry = instead(late)
        yield (b"," if number else b"") + entry
