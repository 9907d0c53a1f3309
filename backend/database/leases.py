"""Leases on tasks: no requested prediction is lost, and none is stored twice.

Predictions reach Label Studio in two ways: it stores the answer to /predict itself, one by one and in its own time, and
jobs import through its API. It has no lock against storing the same prediction twice. So a request or a job acquires a
lease on a task before it has a prediction stored. A lease expires, because its holder may be killed; a task that is
still requested is then due again, and a job takes it after asking Label Studio which predictions it has.

The holder is a request, or a worker's share of a job (`share_holder`): several workers do one job, each by leases of
its own.

A lease that is not committed says "I am predicting this task"; a request that an annotator waits for may take it over.
A committed lease says "this prediction is being stored"; it excludes every other holder of the same model version.

There is a row per task. It is `requested` until its prediction is on its way; `holder` is the request or job that
leases it ("" for none) until the time `expires` (0 where none did); `number` puts the tasks in order. Every call reads
and writes as many rows as it is asked about, however many there are: indexes lead to the tasks that are due, and the
number of a project's requested tasks is a row, which changes in the same transactions as they do.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    delete,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    update,
)

from backend.database.engine import Database, insert_into
from backend.database.tables import EMPTY, LEASES, REQUESTED, SHARES, Words

# In place of a task's id: all tasks, or those without an accepted annotation. The job finds out which those are.
ALL, UNLABELLED = "all", "unlabelled"
MAX_SECONDS = 3600.0  # no lease lasts longer: one that seems to was made before the clock was set back

BATCH = 1000  # rows per statement
COUNTED = 2000  # tasks that are counted at most
LAST = 2**63 - 1  # number of a task whose id is none

Row = LEASES.c


class Leases:
    """The leases of every project, safe to use from several threads and processes at once.

    Every method takes Label Studio's project id first, and tasks by the text of their ids.
    """

    def __init__(self, database: Database, clock: Callable[[], float] | None = None) -> None:
        self._database = database
        self._clock = clock or database.time

    def request(self, project: str, tasks: Iterable[str]) -> None:
        """Request a prediction of these tasks; leases on them stay with their holders."""
        for batch in _batches(tasks):
            self._database.change(partial(self._request, project=project, tasks=batch))

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
        lease = self._lease(holder, seconds, committed=committed, version=version)
        storing = and_(Row.committed, Row.version == version, self._live())

        def work(connection: Connection) -> set[str]:
            taken: set[str] = set()
            new = 0
            for batch in _batches(tasks):
                new += _put(connection, project, batch, except_where=storing)
                free = [row.task for row in _locked(connection, project, batch, not_(storing))]
                _set(connection, project, free, lease)
                taken.update(free)
            _count(connection, project, new)
            return taken

        return self._database.change(work)

    def commit(self, project: str, tasks: Collection[str], holder: str, seconds: float, *, version: str) -> set[str]:
        """Commit leases: from now on `holder` alone stores these predictions.

        Returns:
            The tasks that `holder` still leased; the others were taken over or released, and it must not store them.
        """
        lease = self._lease(holder, seconds, committed=True, version=version)
        return set(self._update(project, tasks, holder, lease))

    def delivered(self, project: str, tasks: Collection[str], holder: str, seconds: float) -> None:
        """Note that Label Studio has a request's whole answer and may take `seconds` to store it."""
        expires = self._clock() + min(seconds, MAX_SECONDS)
        self._update(project, tasks, holder, {"requested": False, "committed": True, "expires": expires})

    def release(self, project: str, tasks: Collection[str], holder: str) -> int:
        """End leases without a prediction: those tasks are due; returns their number."""
        return len(self._update(project, tasks, holder, _requested()))

    def acquire_due(self, project: str, holder: str, limit: int, seconds: float) -> list[str]:
        """Lease the next tasks to a holder: the due ones, and those it was predicting when it was interrupted."""
        now = self._clock()
        lease = self._lease(holder, seconds, committed=False)
        # One by one, because each is in the order of an index: no more than `limit` rows are read for each.
        ways: list[tuple[ColumnElement[bool], Sequence[ColumnElement[Any]]]] = [
            (and_(_held_by([holder]), not_(Row.committed)), [Row.number]),
            (Row.expires == 0, [Row.number]),
            (and_(Row.expires > 0, Row.expires <= now), [Row.expires, Row.number]),
            (Row.expires > now + MAX_SECONDS, [Row.expires, Row.number]),
        ]

        def work(connection: Connection) -> list[str]:
            due: dict[str, int] = {}
            for condition, order in ways:
                query = select(Row.task, Row.number).where(Row.project == project, _is_requested(), condition)
                # Rows that another transaction changes this moment are not due to this one.
                locked = query.order_by(*order).limit(limit).with_for_update(skip_locked=True)
                due.update((task, number) for task, number in connection.execute(locked))
            taken = sorted(due, key=lambda task: (due[task], task))[:limit]
            _set(connection, project, taken, lease)
            return taken

        return self._database.change(work)

    def finish(self, project: str, tasks: Collection[str], holder: str) -> None:
        """Remove tasks that `holder` leases: they have their prediction, or there will be none."""
        self._database.change(lambda connection: self.strike_off(connection, project, tasks, holder))

    def strike_off(self, connection: Connection, project: str, tasks: Collection[str], holder: str) -> int:
        """Do what `finish` does within a transaction, at its end; returns the number of tasks."""
        removed = 0
        for batch in _batches(tasks):
            own = _locked(connection, project, batch, Row.holder == holder)
            _remove(connection, project, own)
            removed += len(own)
        return removed

    def abandon(self, project: str, job: str) -> None:
        """Remove everything that a job would have to do; tasks leased to requests stay."""
        holders = self._database.read(lambda connection: [*_holders(connection, job), _refused_holder(job)])
        for condition in (_held_by(holders), *(and_(_is_requested(), free) for free in self._not_leased())):
            some = select(Row.task, Row.requested).where(Row.project == project, condition).limit(BATCH)

            def work(connection: Connection, some: Any = some) -> int:
                rows = connection.execute(some.with_for_update(skip_locked=True)).all()
                _remove(connection, project, rows)
                return len(rows)

            # In pieces, so that whoever opens a task does not wait until a million are removed.
            while self._database.change(work) == BATCH:
                pass

    def refuse(self, connection: Connection, project: str, tasks: Collection[str], holder: str, job: str) -> int:
        """Lay tasks that `holder` leases aside: Label Studio did not store their prediction; returns their number.

        They are due to the project's next job, or after an hour, so that none is lost whatever happens to this one.
        """
        lease = self._lease(_refused_holder(job), MAX_SECONDS, committed=True)
        return len(_changed(connection, project, tasks, holder, lease))

    def refused(self, connection: Connection, project: str, job: str) -> list[str]:
        """The tasks that a job has laid aside."""
        query = select(Row.task).where(Row.project == project, _held_by([_refused_holder(job)]))
        return list(connection.execute(query.order_by(Row.number, Row.task)).scalars())

    def give_back(self, connection: Connection, project: str, holder: str) -> None:
        """Make due what a holder that is gone was predicting; of what it was storing Label Studio may have the rest."""
        gone = (Row.project == project, _held_by([holder]), not_(Row.committed))
        connection.execute(update(LEASES).where(*gone).values(_requested()))

    def make_due(self, connection: Connection, project: str, job: str) -> None:
        """Make due the tasks that a job has laid aside."""
        aside = (Row.project == project, _held_by([_refused_holder(job)]))
        connection.execute(update(LEASES).where(*aside).values(_requested()))

    def outstanding(self, connection: Connection, project: str, job: str) -> tuple[int, int]:
        """The number of tasks that are due, as `remaining` counts them, and that are leased to the shares of a job."""
        held = (Row.project == project, _is_requested(), _held_by(_holders(connection, job)), self._live())
        leased = connection.execute(select(func.count()).select_from(LEASES).where(*held)).scalar_one()
        return self._due(connection, project), leased

    def due_of(self, project: ColumnElement[str]) -> ColumnElement[bool]:
        """Whether a project has a due task, for a query over projects."""
        # The first of them, not EXISTS, for which PostgreSQL may read them all.
        some = (
            select(literal(1)).where(Row.project == project, _is_requested(), condition).limit(1).scalar_subquery()
            for condition in self._not_leased()
        )
        return or_(*(one.is_not(None) for one in some))

    def waiting(self) -> int:
        """The number of due tasks of all projects."""
        # Those of small projects, of which there may be thousands, by one query.
        counts = (
            select(func.count())
            .where(Row.project == REQUESTED.c.project, _is_requested(), condition)
            .correlate(REQUESTED)
            .scalar_subquery()
            for condition in self._not_leased()
        )
        of_small = select(func.sum(sum(counts))).where(REQUESTED.c.tasks.between(1, COUNTED))
        large = select(REQUESTED.c.project).where(REQUESTED.c.tasks > COUNTED)

        def work(connection: Connection) -> int:
            projects = connection.execute(large).scalars().all()
            due = sum(self._due(connection, project) for project in projects)
            return due + int(connection.execute(of_small).scalar() or 0)

        return self._database.read(work)

    def remaining(self, project: str, holder: str) -> tuple[int, float | None]:
        """The rest of a holder's work.

        Returns:
            The number of tasks that are due or leased to it; and the seconds until it can take the next of them, None
            if none is left. More than 0 after an interrupted import: Label Studio may be storing it still.
        """
        now = self._clock()

        def work(connection: Connection) -> tuple[int, float | None]:
            own = select(Row.committed, Row.expires).where(Row.project == project, _is_requested(), _held_by([holder]))
            leased = [row for row in connection.execute(own) if now < row.expires <= now + MAX_SECONDS]
            due = self._due(connection, project)
            if not due and not leased:
                return 0, None
            wait = 0.0 if due else min(row.expires - now if row.committed else 0.0 for row in leased)
            return due + len(leased), wait

        return self._database.read(work)

    def due(self) -> list[str]:
        """Projects with requested tasks without a lease; removes rows that have become meaningless."""
        # A step per project, not per row.
        first = select(func.min(Row.project).label("project")).cte("projects", recursive=True)
        later = select(func.min(Row.project)).where(Row.project > first.c.project).scalar_subquery()
        projects = first.union_all(select(later).where(first.c.project.is_not(None)))
        query = select(projects.c.project).where(projects.c.project.is_not(None), self.due_of(projects.c.project))
        self._database.change(
            lambda connection: [
                connection.execute(delete(LEASES).where(Row.requested.is_(false()), condition))
                for condition in self._not_leased()
            ]
        )
        return self._database.read(lambda connection: sorted(connection.execute(query).scalars()))

    def _request(self, connection: Connection, project: str, tasks: Sequence[str]) -> None:
        _count(connection, project, _put(connection, project, tasks))

    def _update(self, project: str, tasks: Collection[str], holder: str, values: dict[str, Any]) -> list[str]:
        """Set fields of those of the tasks that `holder` leases; returns these."""
        return self._database.change(lambda connection: _changed(connection, project, tasks, holder, values))

    def _due(self, connection: Connection, project: str) -> int:
        """The number of tasks of a project that are due.

        Of more than some thousands it is what is requested less what is leased, of which as many are counted at most.
        """

        def count(*conditions: ColumnElement[bool]) -> int:
            some = (
                select(literal(1)).where(Row.project == project, _is_requested(), one).limit(COUNTED + 1).subquery()
                for one in conditions
            )
            return sum(connection.execute(select(func.count()).select_from(one)).scalar_one() for one in some)

        if (few := count(*self._not_leased())) <= COUNTED:
            return few
        requested = select(REQUESTED.c.tasks).where(REQUESTED.c.project == project)
        return max((connection.execute(requested).scalar() or 0) - count(self._live()), COUNTED + 1)

    def _live(self) -> ColumnElement[bool]:
        now = self._clock()
        return and_(Row.expires > now, Row.expires <= now + MAX_SECONDS)

    def _not_leased(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """The two ways in which a row is leased to none: apart, because each is a piece of an index."""
        now = self._clock()
        return Row.expires <= now, Row.expires > now + MAX_SECONDS

    def _lease(self, holder: str, seconds: float, *, committed: bool, version: str = "") -> dict[str, Any]:
        expires = self._clock() + min(seconds, MAX_SECONDS)
        return {"holder": holder, "committed": committed, "version": version, "expires": expires}


def recount(connection: Connection, project: str) -> None:
    """Count a project's requested tasks, which were put in by others."""
    of_it = select(func.count()).select_from(LEASES).where(Row.project == project, _is_requested())
    rows = insert_into(connection, REQUESTED).values(project=project, tasks=connection.execute(of_it).scalar_one())
    again = {"tasks": rows.excluded.tasks}
    connection.execute(rows.on_conflict_do_update(index_elements=[REQUESTED.c.project], set_=again))


def _count(connection: Connection, project: str, more: int) -> None:
    """Note that so many more of a project's tasks are requested: late in a transaction, whose end the next awaits."""
    if more:
        rows = insert_into(connection, REQUESTED).values(project=project, tasks=more)
        both = {"tasks": REQUESTED.c.tasks + rows.excluded.tasks}
        connection.execute(rows.on_conflict_do_update(index_elements=[REQUESTED.c.project], set_=both))


def _put(
    connection: Connection, project: str, tasks: Sequence[str], except_where: ColumnElement[bool] | None = None
) -> int:
    """Request tasks, except where a condition holds; returns how many were not requested before."""
    rows = [{"project": project, "task": task, "number": task_number(task)} | _requested() for task in tasks]
    turned: ColumnElement[bool] = Row.requested.is_(false())
    if except_where is not None:
        turned = and_(turned, not_(except_where))
    # One after the other in their order, which also locks those that are there already.
    put = insert_into(connection, LEASES).on_conflict_do_update(
        index_elements=[Row.project, Row.task], set_={"requested": True}, where=turned
    )
    return connection.execute(put.execution_options(preserve_rowcount=True), rows).rowcount if rows else 0


def _changed(
    connection: Connection, project: str, tasks: Collection[str], holder: str, values: dict[str, Any]
) -> list[str]:
    """Set fields of those of the tasks that `holder` leases; returns these."""
    changed: list[str] = []
    more = 0
    for batch in _batches(tasks):
        own = _locked(connection, project, batch, Row.holder == holder)
        _set(connection, project, [row.task for row in own], values)
        changed += [row.task for row in own]
        if "requested" in values:
            more += sum(values["requested"] - row.requested for row in own)
    _count(connection, project, more)
    return changed


def _set(connection: Connection, project: str, tasks: Sequence[str], values: dict[str, Any]) -> None:
    """Set fields of tasks."""
    if tasks:
        each = update(LEASES).where(Row.project == project, Row.task == bindparam("of")).values(values)
        connection.execute(each, [{"of": task} for task in tasks])


def _remove(connection: Connection, project: str, rows: Sequence[Any]) -> None:
    """Remove tasks, which are locked: `rows` says of each whether it is requested."""
    if rows:
        each = delete(LEASES).where(Row.project == project, Row.task == bindparam("of"))
        connection.execute(each, [{"of": row.task} for row in rows])
    _count(connection, project, -sum(row.requested for row in rows))


def _requested() -> dict[str, Any]:
    """A task that is requested and leased to none."""
    return {"requested": True, "holder": "", "committed": False, "version": "", "expires": 0.0}


def task_number(task: str) -> int:
    """The place of a task among its project's; whole projects, which have to be looked up, come last."""
    return min(int(task), LAST) if task.isascii() and task.isdigit() and len(task) < 20 else LAST


def _is_requested() -> ColumnElement[bool]:
    return Row.requested.is_(true())  # as in the index


def share_holder(job: str, worker: str) -> str:
    """The holder of the leases of a worker's share of a job."""
    return f"{job}/{worker}"


def _refused_holder(job: str) -> str:
    return f"{job}/refused"


def _holders(connection: Connection, job: str) -> list[str]:
    """The holders of a job's leases: its shares, and the job itself in an earlier release."""
    workers = connection.execute(select(SHARES.c.worker).where(SHARES.c.job == job)).scalars()
    return [job, *(share_holder(job, worker) for worker in workers)]


def _held_by(holders: Sequence[str]) -> ColumnElement[bool]:
    return and_(Row.holder.in_(holders), Row.holder != EMPTY)  # as in the index


def _batches(tasks: Iterable[str]) -> Iterator[Sequence[str]]:
    """Tasks in order, because two transactions that lock the same rows in different order wait for each other."""
    ordered = sorted(set(tasks))
    return (ordered[begin : begin + BATCH] for begin in range(0, len(ordered), BATCH))


def _locked(connection: Connection, project: str, tasks: Sequence[str], where: ColumnElement[bool]) -> list[Any]:
    """Lock tasks in their order; returns those for which a condition holds, each with whether it is requested."""
    query = select(Row.task, Row.requested, where.label("holds")).where(Row.project == project)
    if connection.dialect.name == "postgresql":
        # Each is looked up by its key alone: by any other condition, a list of tasks included, PostgreSQL may read the
        # whole project, where it believes that to be small, as it does of one that has just grown.
        asked = func.unnest(literal(list(tasks), ARRAY(Words))).table_valued("task").render_derived("asked")
        one = query.where(Row.task == asked.c.task).limit(1).with_for_update().lateral("one")
        query = select(one).select_from(asked.join(one, true()))
    else:  # SQLite locks the whole database
        query = query.where(Row.task.in_(tasks))
    return [row for row in connection.execute(query) if row.holds]
