"""Automatic training: after a number of newly accepted tasks, and never twice on the same ones.

A webhook only notes that something happened in a project: that takes milliseconds however many arrive. Some seconds
later the worker counts the accepted tasks. Webhooks are not counted, because Label Studio loses some, and a hook that
outlived its backend's registration sends each event twice.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from backend.database.engine import Database
from backend.database.jobs import ACTIVE, TRAINING
from backend.database.notes import Note, Notes
from backend.jobs.queue import JobQueue
from backend.label_studio.client import TaskRow
from backend.system.loops import Loop

logger = logging.getLogger(__name__)

CALM_SECONDS = 10.0  # a project is checked after this time without an event ...
MAX_SECONDS = 60.0  # ... or after this time, if events never cease
AGAIN_SECONDS = 60.0  # between the first tries with a Label Studio that does not answer


class Tasks(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used here."""

    def task_rows(self, project_id: str, *, annotated: bool) -> list[TaskRow]:
        """Tasks in short."""


class AutomaticTraining:
    """Notes events and starts trainings.

    Args:
        database: shared by server and workers.
        after: newly accepted tasks after which a project trains; 0 for never.
        clock: Unix time; None for the database's.
        reports: folder where its thread reports; None for nowhere.
    """

    def __init__(
        self, database: Database, after: int, clock: Callable[[], float] | None = None, reports: Path | None = None
    ) -> None:
        self._notes = Notes(database)
        self._after = after
        self._clock = clock or database.time
        self._loop = Loop("automatic-training", AGAIN_SECONDS, reports)

    def note(self, project: str) -> None:
        """Note that a project's annotations have changed: it is checked when no more such events come."""
        if not self._after:
            return
        now = self._clock()

        def following(note: Note | None) -> Note:
            since = now if note is None else note.since
            return Note(since, min(now + CALM_SECONDS, max(now, since + MAX_SECONDS)))

        self._notes.note(project, following)

    def learned(self, project: str, tasks: Sequence[Mapping[str, Any]]) -> None:
        """Keep the annotations that a training begins to learn from.

        Args:
            project: Label Studio's project id.
            tasks: as exported, with their annotations.
        """
        self._notes.learn(project, stamps_of(tasks))

    def look(self, jobs: JobQueue, client: Callable[[str], Tasks]) -> None:
        """Start a training for each noted project with enough that is new; one that fails is looked at again later.

        Raises:
            DatabaseError: the notes cannot be read.
        """
        noted = self._notes.noted()
        self._loop.keep(noted)
        for project, note in noted.items():
            # An event that seems far ahead was noted before the clock was set back.
            if not 0 < note.at - self._clock() <= MAX_SECONDS:
                self._loop.attempt(project, partial(self._look_at, project, note, jobs, client), self._clock())

    def watch(self, jobs: JobQueue, client: Callable[[str], Tasks], stopped: threading.Event, every: float) -> None:
        """Call `look` every `every` seconds on a thread of its own, since Label Studio may take its time."""
        if self._after:
            self._loop.start(lambda: self.look(jobs, client), every, stopped)

    def _look_at(self, project: str, note: Note, jobs: JobQueue, client: Callable[[str], Tasks]) -> None:
        if jobs.store.find(project, ACTIVE, kind=TRAINING):
            return  # events since it began are considered when it is over
        accepted = {
            str(row.id): stamp(row.annotations.split(",")) for row in client(project).task_rows(project, annotated=True)
        }
        known = self._notes.learned(project)
        new = sum(known.get(task) != now for task, now in accepted.items())
        if new >= self._after:
            job, _ = jobs.submit(project)
            logger.info("project %s: %d newly accepted tasks; job %s trains on them", project, new, job.id)
            jobs.store.log(job.id, f"began by itself: {new} newly accepted tasks")
        self._notes.remove(project, note)


def stamps_of(tasks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Task -> its annotations as one text, of exported tasks."""
    return {str(task["id"]): stamp(one["id"] for one in task.get("annotations") or []) for task in tasks}


def stamp(ids: Iterable[Any]) -> str:
    """Annotations of a task as one text, the same for any order."""
    return ",".join(sorted(str(one).strip() for one in ids))
