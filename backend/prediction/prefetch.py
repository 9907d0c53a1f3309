"""The next tasks' predictions, made while an annotator works on this one.

Label Studio asks for a task when it is opened, and the annotator waits. So when one is opened, those that the project
shows next are predicted into the prediction cache, where the request that opens them finds them.

Nobody waits for these, so everything else goes first: one image at a time, on a thread of its own, and only while no
request is being answered; a request waits for one image at most. Label Studio is asked for a list once for several
openings, and is left alone for a while when it does not answer.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from backend.errors import BackendError
from backend.label_studio.client import TaskRow
from backend.label_studio.protocol import PredictRequest

logger = logging.getLogger(__name__)

LISTED = 4  # times as many tasks are listed as are predicted ahead, so that not every opening asks for a list
MAX_PROJECTS = 8  # that are predicted ahead at the same time; the one opened longest ago is dropped
TIMEOUT = (2.0, 10.0)  # of a list, seconds: to connect, to read
REST_SECONDS = 60.0  # without a question to a Label Studio that did not answer


class Tasks(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used."""

    def next_tasks(self, project_id: str, task: int, count: int, *, timeout: tuple[float, float]) -> list[TaskRow]:
        """Tasks in short, in the order in which the project shows them."""

    def task_rows(self, project_id: str, task_ids: Collection[int], *, timeout: tuple[float, float]) -> list[TaskRow]:
        """Tasks in short."""


class Predicts(Protocol):
    """The part of `backend.prediction.predictor.Predictor` that is used."""

    def prepare(self, request: PredictRequest) -> None:
        """Predict tasks into the cache."""


class Requests:
    """The requests that are being answered. Safe to share between threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count one more while this block runs."""
        with self._changed:
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until none is left, at most this long; whether none is left."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, seconds)


@dataclass(eq=False)
class _Project:
    """What is known of a project: the request that opened its last task, and the tasks listed after it."""

    request: PredictRequest
    version: str
    listed: list[TaskRow] = field(default_factory=list)
    rest_until: float = 0.0  # on the clock of `time.monotonic`


class Prefetch:
    """Predicts ahead. Safe to share between threads.

    Args:
        predictor: makes predictions and keeps them.
        client: Label Studio of a project.
        requests: those being answered, which go first.
        ahead: tasks that are predicted after each opening; 0 predicts none.
    """

    def __init__(
        self, predictor: Predicts, client: Callable[[str], Tasks], requests: Requests, *, ahead: int = 2
    ) -> None:
        self._predictor, self._client, self._requests, self._ahead = predictor, client, requests, ahead
        self._changed = threading.Condition()
        self._projects: OrderedDict[str, _Project] = OrderedDict()
        self._opened: OrderedDict[str, None] = OrderedDict()  # projects with an opening that is not worked on yet
        self._thread: threading.Thread | None = None

    def opened(self, request: PredictRequest, version: str) -> None:
        """Note that a task was opened; what was to be predicted after the project's last opening is dropped.

        Args:
            request: of that one task.
            version: the model version that answers for the project.
        """
        if not self._ahead or not str(request.tasks[0].get("id")).isdigit():
            return
        with self._changed:
            known = self._projects.pop(request.project_id, None) or _Project(request, version)
            if (known.version, known.request.config) != (version, request.config):
                known.listed = []
            known.request, known.version = request, version
            self._projects[request.project_id] = known
            self._opened.pop(request.project_id, None)
            self._opened[request.project_id] = None
            while len(self._projects) > MAX_PROJECTS:
                dropped, _ = self._projects.popitem(last=False)
                self._opened.pop(dropped, None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._opened)
                project_id, _ = self._opened.popitem(last=False)
                project = self._projects[project_id]
                request, version = project.request, project.version
            try:
                self._predict_ahead(project, request, version)
            except BackendError as error:
                project.rest_until = time.monotonic() + REST_SECONDS
                logger.debug("project %s: no task is predicted ahead: %s", project_id, error)
            except Exception:
                project.rest_until = time.monotonic() + REST_SECONDS
                logger.exception("project %s: predicting ahead failed", project_id)

    def _predict_ahead(self, project: _Project, request: PredictRequest, version: str) -> None:
        if not self._idle(request):
            return
        for row in self._next(project, request, version):
            if not self._idle(request):
                return
            self._predictor.prepare(replace(request, tasks=[{"id": row.id, "data": row.data}]))

    def _idle(self, request: PredictRequest) -> bool:
        """Wait until no request is being answered; whether the project's last opening is still this one."""
        while not self._requests.wait(1.0):
            if self._superseded(request):
                return False
        return not self._superseded(request)

    def _next(self, project: _Project, request: PredictRequest, version: str) -> Sequence[TaskRow]:
        """The tasks after the opened one that lack a prediction of the served version."""
        opened = int(request.tasks[0]["id"])
        places = [index for index, row in enumerate(project.listed) if row.id == opened]
        left = project.listed[places[0] + 1 :] if places else []
        if len(left) < self._ahead and time.monotonic() >= project.rest_until:
            client = self._client(request.project_id)
            rows = client.next_tasks(request.project_id, opened, LISTED * self._ahead, timeout=TIMEOUT)
            known = client.task_rows(request.project_id, [row.id for row in rows], timeout=TIMEOUT)
            predicted = {row.id for row in known if version in row.versions}
            left = [row for row in rows if row.id not in predicted]
            project.listed = [TaskRow(opened, {}, "", frozenset()), *left]
            if len(left) < self._ahead:
                project.rest_until = time.monotonic() + REST_SECONDS  # the project's end: the list does not grow
        return left[: self._ahead]

    def _superseded(self, request: PredictRequest) -> bool:
        """Whether another task of the project was opened since."""
        with self._changed:
            known: Any = self._projects.get(request.project_id)
            return known is None or known.request is not request
