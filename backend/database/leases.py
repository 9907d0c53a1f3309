"""Leases on tasks: no requested prediction is lost, and none is stored twice.

Predictions reach Label Studio in two ways: it stores the answer to /predict itself, one by one and in its own time, and
jobs import through its API. It has no lock against storing the same prediction twice. So a request or a job acquires a
lease on a task before it has a prediction stored. A lease expires, because its holder may be killed; a task that is
still requested is then due again, and a job takes it after asking Label Studio which predictions it has.

A lease that is not committed says "I am predicting this task"; a request that an annotator waits for may take it over.
A committed lease says "this prediction is being stored"; it excludes every other holder of the same model version.
"""

import time
from collections.abc import Callable, Collection, Iterable

from backend.database.records import Document, Records, Result

# In place of a task's id: all tasks, or those without an accepted annotation. The job finds out which those are.
ALL, UNLABELLED = "all", "unlabelled"
MAX_SECONDS = 3600.0  # no lease lasts longer: one that seems to was made before the clock was set back

# A row per task: {"wanted": bool, "holder": str, "firm": bool, "version": str, "until": Unix time}. Names of tables and
# keys are those of the first release, because rows outlive an upgrade: "wanted" is requested, "firm" is committed.
TABLE = "tasks:"


class Leases:
    """The leases of every project, safe to use from several threads and processes at once.

    Every method takes Label Studio's project id first, and tasks by the text of their ids.
    """

    def __init__(self, records: Records, clock: Callable[[], float] = time.time) -> None:
        self._records = records
        self._clock = clock

    def request(self, project: str, tasks: Iterable[str]) -> None:
        """Request a prediction of these tasks; leases on them stay with their holders."""

        def work(rows: dict[str, Document]) -> None:
            for task in tasks:
                rows[task] = rows.get(task, _requested()) | {"wanted": True}

        self._change(project, work)

    def acquire(
        self, project: str, tasks: Collection[str], holder: str, seconds: float, *, version: str, committed: bool
    ) -> set[str]:
        """Request tasks and lease them to a request to /predict, except those that another holder is storing.

        Args:
            project: Label Studio's project id.
            tasks: ids.
            holder: the request.
            seconds: until the lease expires.
            version: the model version that predicts them.
            committed: whether the lease is committed from the beginning.

        Returns:
            The leased tasks.
        """

        def work(rows: dict[str, Document]) -> set[str]:
            mine = {task for task in tasks if task not in rows or not self._storing(rows[task], version)}
            for task in mine:
                rows[task] = {"wanted": True, **self._lease(holder, seconds, committed=committed, version=version)}
            return mine

        return self._change(project, work, tasks)

    def commit(self, project: str, tasks: Collection[str], holder: str, seconds: float, *, version: str) -> set[str]:
        """Commit leases: from now on `holder` alone stores these predictions.

        Returns:
            The tasks that `holder` still leased; the others were taken over or released, and it must not store them.
        """

        def work(rows: dict[str, Document]) -> set[str]:
            mine = {task for task in tasks if task in rows and rows[task]["holder"] == holder}
            for task in mine:
                rows[task].update(self._lease(holder, seconds, committed=True, version=version))
            return mine

        return self._change(project, work, tasks)

    def delivered(self, project: str, tasks: Collection[str], holder: str, seconds: float) -> None:
        """Note that Label Studio has a request's whole answer and may take `seconds` to store it."""

        def work(rows: dict[str, Document]) -> None:
            for task in tasks:
                if task in rows and rows[task]["holder"] == holder:
                    version = rows[task]["version"]
                    rows[task] = {"wanted": False, **self._lease(holder, seconds, committed=True, version=version)}

        self._change(project, work, tasks)

    def release(self, project: str, tasks: Collection[str], holder: str) -> int:
        """End leases without a prediction: those tasks are due; returns their number."""

        def work(rows: dict[str, Document]) -> int:
            mine = [task for task in tasks if task in rows and rows[task]["holder"] == holder]
            for task in mine:
                rows[task] = _requested()
            return len(mine)

        return self._change(project, work, tasks)

    def acquire_due(self, project: str, job: str, limit: int, seconds: float) -> list[str]:
        """Lease the next tasks to a job: the due ones, and those it was predicting when it was interrupted."""

        def work(rows: dict[str, Document]) -> list[str]:
            requested = [(task, row) for task, row in rows.items() if row["wanted"]]
            due = [task for task, row in requested if not self._live(row) or _predicting(row, job)]
            taken = sorted(due, key=_order)[:limit]
            for task in taken:
                rows[task] = {"wanted": True, **self._lease(job, seconds, committed=False)}
            return taken

        return self._change(project, work)

    def finish(self, project: str, tasks: Collection[str], holder: str) -> None:
        """Remove tasks that `holder` leases: they have their prediction, or there will be none."""

        def work(rows: dict[str, Document]) -> None:
            for task in tasks:
                if task in rows and rows[task]["holder"] == holder:
                    del rows[task]

        self._change(project, work, tasks)

    def abandon(self, project: str, job: str) -> None:
        """Remove everything that a job would have to do; tasks leased to requests stay."""

        def work(rows: dict[str, Document]) -> None:
            for task, row in list(rows.items()):
                if row["holder"] == job or not self._live(row):
                    del rows[task]

        self._change(project, work)

    def remaining(self, project: str, job: str) -> tuple[int, float | None]:
        """The rest of a job's work.

        Returns:
            The number of tasks that are due or leased to it; and the seconds until it can take the next of them, None
            if none is left. More than 0 after an interrupted import: Label Studio may be storing it still.
        """
        now = self._clock()
        rows = [row for row in self._records.read(TABLE + project).values() if row["wanted"]]
        own = [row for row in rows if row["holder"] == job or not self._live(row)]
        waits = [max(row["until"] - now, 0.0) if row["firm"] and self._live(row) else 0.0 for row in own]
        return len(own), min(waits, default=None)

    def due(self) -> list[str]:
        """Projects with requested tasks without a lease; removes rows that have become meaningless."""
        projects = []
        for table in self._records.tables(TABLE):
            project = table.removeprefix(TABLE)
            expired = [row["wanted"] for row in self._records.read(table).values() if not self._live(row)]
            if not all(expired):
                self._change(project, lambda rows: None)
            if any(expired):
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

    def _lease(self, holder: str, seconds: float, *, committed: bool, version: str = "") -> Document:
        until = self._clock() + min(seconds, MAX_SECONDS)
        return {"holder": holder, "firm": committed, "version": version, "until": until}


def _requested() -> Document:
    return {"wanted": True, "holder": "", "firm": False, "version": "", "until": 0.0}


def _predicting(row: Document, holder: str) -> bool:
    return bool(row["holder"] == holder and not row["firm"])


def _order(task: str) -> tuple[int, int, str]:
    # Whole projects come last: their tasks are looked up when nothing else is to do.
    return (0, int(task), "") if task.isdigit() else (1, 0, task)
