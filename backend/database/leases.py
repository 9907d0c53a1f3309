"""Which tasks want a prediction, and who is having one stored: so that no task is lost and none gets two.

Predictions reach Label Studio in two ways: it stores the answer to /predict itself, one by one and in its own time, and
jobs import through its API. It has no lock against storing the same twice. So whoever is about to have a task's
prediction stored, by either way, first holds the task here. A hold ends by itself after a while, because whoever has
it may be killed; a task that is still wanted then falls to a job, which first asks Label Studio what it has.

A row per task: {"wanted": bool, "holder": str, "firm": bool, "version": str, "until": Unix time}. A hold that is not
firm yet means "I am predicting it" and may be taken over by a request that an annotator waits for; a firm one means "it
is being stored" and keeps off everybody else who has a prediction of the same model version.
"""

import time
from collections.abc import Callable, Collection, Iterable

from backend.database.records import Document, Records, Result

# In place of a task's id: all tasks, or those without an accepted annotation. The job finds out which those are.
ALL, UNLABELLED = "all", "unlabelled"
TABLE = "tasks:"
MAX_SECONDS = 3600.0  # no hold lasts longer: one that seems to was made before the clock was set back


class Leases:
    """The rows of every project, safe to use from several threads and processes at once.

    Every method takes Label Studio's project id first, and tasks by the text of their ids.
    """

    def __init__(self, records: Records, clock: Callable[[], float] = time.time) -> None:
        self._records = records
        self._clock = clock

    def request(self, project: str, tasks: Iterable[str]) -> None:
        """Note that these tasks want a prediction; whoever holds one of them goes on with it."""

        def work(rows: dict[str, Document]) -> None:
            for task in tasks:
                rows[task] = {**rows.get(task, _free()), "wanted": True}

        self._change(project, work)

    def acquire(
        self, project: str, tasks: Collection[str], holder: str, seconds: float, *, version: str, committed: bool
    ) -> set[str]:
        """Hold tasks for a request to /predict, which are wanted from now on; those being stored stay with others.

        Args:
            project: Label Studio's project id.
            tasks: ids.
            holder: the request.
            seconds: until somebody else may have them.
            version: the model version that predicts them.
            firm: from the beginning.

        Returns:
            The tasks that are held.
        """

        def work(rows: dict[str, Document]) -> set[str]:
            mine = {task for task in tasks if task not in rows or not self._storing(rows[task], version)}
            for task in mine:
                rows[task] = {"wanted": True, **self._hold(holder, seconds, committed=committed, version=version)}
            return mine

        return self._change(project, work, tasks)

    def commit(self, project: str, tasks: Collection[str], holder: str, seconds: float, *, version: str) -> set[str]:
        """Make holds firm: what is stored from now on is stored by `holder`.

        Returns:
            The tasks that `holder` still had; the others were taken over or given up and must not be stored by it.
        """

        def work(rows: dict[str, Document]) -> set[str]:
            mine = {task for task in tasks if task in rows and rows[task]["holder"] == holder}
            for task in mine:
                rows[task].update(self._hold(holder, seconds, committed=True, version=version))
            return mine

        return self._change(project, work, tasks)

    def delivered(self, project: str, tasks: Collection[str], holder: str, seconds: float) -> None:
        """Note that Label Studio has a request's whole answer; it may take `seconds` to store it."""

        def work(rows: dict[str, Document]) -> None:
            for task in tasks:
                if task in rows and rows[task]["holder"] == holder:
                    version = rows[task]["version"]
                    rows[task] = {"wanted": False, **self._hold(holder, seconds, committed=True, version=version)}

        self._change(project, work, tasks)

    def release(self, project: str, tasks: Collection[str], holder: str) -> int:
        """End holds without a prediction: those tasks are due; returns how many."""

        def work(rows: dict[str, Document]) -> int:
            mine = [task for task in tasks if task in rows and rows[task]["holder"] == holder]
            for task in mine:
                rows[task] = {**_free(), "wanted": True}
            return len(mine)

        return self._change(project, work, tasks)

    def acquire_due(self, project: str, job: str, limit: int, seconds: float) -> list[str]:
        """Hold the next tasks for a job: wanted ones that nobody holds, or that it held when it was interrupted."""

        def work(rows: dict[str, Document]) -> list[str]:
            due = [task for task, row in rows.items() if row["wanted"] and (not self._live(row) or _soft(row, job))]
            taken = sorted(due, key=_order)[:limit]
            for task in taken:
                rows[task] = {"wanted": True, **self._hold(job, seconds, committed=False)}
            return taken

        return self._change(project, work)

    def finish(self, project: str, tasks: Collection[str], holder: str) -> None:
        """Strike off tasks that `holder` holds: they have their prediction, or there will be none."""

        def work(rows: dict[str, Document]) -> None:
            for task in tasks:
                if task in rows and rows[task]["holder"] == holder:
                    del rows[task]

        self._change(project, work, tasks)

    def abandon(self, project: str, job: str) -> None:
        """Strike off everything that a job would have to do; what requests hold stays."""

        def work(rows: dict[str, Document]) -> None:
            for task, row in list(rows.items()):
                if row["holder"] == job or not self._live(row):
                    del rows[task]

        self._change(project, work)

    def remaining(self, project: str, job: str) -> tuple[int, float | None]:
        """What a job still has to do.

        Returns:
            How many tasks are due or its own; and the seconds until the next of them can be taken, None if none is
            left. More than 0 after an interrupted import: Label Studio may be storing it still.
        """
        now = self._clock()
        rows = [row for row in self._records.read(TABLE + project).values() if row["wanted"]]
        own = [row for row in rows if row["holder"] == job or not self._live(row)]
        waits = [max(row["until"] - now, 0.0) if row["firm"] and self._live(row) else 0.0 for row in own]
        return len(own), min(waits, default=None)

    def due(self) -> list[str]:
        """Projects with tasks that are wanted and held by nobody; removes rows that have become meaningless."""
        projects = []
        for table in self._records.tables(TABLE):
            project = table.removeprefix(TABLE)
            over = [row["wanted"] for row in self._records.read(table).values() if not self._live(row)]
            if not all(over):
                self._change(project, lambda rows: None)
            if any(over):
                projects.append(project)
        return projects

    def _change(
        self, project: str, work: Callable[[dict[str, Document]], Result], tasks: Collection[str] | None = None
    ) -> Result:
        def tidied(rows: dict[str, Document]) -> Result:
            for task in [task for task, row in rows.items() if not row["wanted"] and not self._live(row)]:
                del rows[task]
            return work(rows)

        return self._records.change(TABLE + project, tidied, tasks)

    def _live(self, row: Document) -> bool:
        return bool(0 < row["until"] - self._clock() <= MAX_SECONDS)

    def _storing(self, row: Document, version: str) -> bool:
        return bool(row["firm"] and self._live(row) and row["version"] == version)

    def _hold(self, holder: str, seconds: float, *, committed: bool, version: str = "") -> Document:
        until = self._clock() + min(seconds, MAX_SECONDS)
        return {"holder": holder, "firm": committed, "version": version, "until": until}


def _free() -> Document:
    return {"wanted": False, "holder": "", "firm": False, "version": "", "until": 0.0}


def _soft(row: Document, holder: str) -> bool:
    return bool(row["holder"] == holder and not row["firm"])


def _order(task: str) -> tuple[int, int, str]:
    # Whole projects come last: their tasks are looked up when nothing else is to do.
    return (0, int(task), "") if task.isdigit() else (1, 0, task)
