"""Shares: which workers do a prediction job, and how far each is. The job's figures are the sums.

A free worker takes a share of the job that has the fewest workers for its due tasks; among equals, of the one that has
waited longest. Its process leases chunks of tasks, so it may come and go at any moment. After a while it leaves a job
if another has none or far fewer, so a small project waits for a chunk and not for the end of a large one. The worker
that leaves last ends the job: in the same transaction no task is due to it or leased to one of its shares.

There is a row per job and worker. Its `tally` counts the tasks that the worker's processes have struck off, in the same
transaction: a kill at any moment leaves both or neither.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, case, delete, func, or_, select, update

from backend.database.bounded import CUT_OFF, bounded
from backend.database.engine import Database, insert_into
from backend.database.jobs import PREDICTION, Job
from backend.database.leases import Leases, share_holder
from backend.database.tables import ACTIVE, JOBS, SHARES

WORKING, LEFT, FAILED = "working", "left", "failed"
RESTARTS = 3  # deaths of a job's workers or processes without a prediction in between
MAX_PROBLEMS = 100  # tasks whose reason is kept
MAX_NAMED = 10
OUTCOMES = {
    "predicted": "predicted",
    "present": "had a prediction of this version already",
    "unanswered": "without an answer (the log says why)",
    "refused": "not stored by Label Studio (the log says why)",
    "gone": "deleted meanwhile",
}

Row = SHARES.c


@dataclass(frozen=True)
class Share:
    """A worker's share of a job.

    Attributes:
        job: the job's id.
        worker: "machine/pid:start".
        state: working, left or failed.
        process: its process, "pid:start".
        beat: Unix time of the worker's last sign of life.
        ended: Unix time at which it left; None while it works.
        tally: tasks by outcome, with "problems": a list of {"task", "reason"}, and how many of these are "untold".
        drawn: tasks of the chunk at hand that are predicted, and not stored yet.
        pace: seconds per task; None while unknown.
        reason: why it left, if not because there was nothing to do.
    """

    job: str
    worker: str
    state: str
    process: str | None = None
    beat: float = 0.0
    ended: float | None = None
    tally: dict[str, Any] = field(default_factory=dict)
    drawn: int = 0
    pace: float | None = None
    reason: str = ""


class Shares:
    """The shares of all prediction jobs, safe to use from several threads and processes at once.

    Args:
        database: where they are kept.
        leases: in the same database.
        clock: Unix time; None for the database's.

    Attributes:
        leases: the same.
    """

    def __init__(self, database: Database, leases: Leases, clock: Callable[[], float] | None = None) -> None:
        self._database, self._clock = database, clock or database.time
        self.leases = leases

    def take(self, worker: str, job_id: str | None = None) -> Job | None:
        """Give a worker a share of a job with due tasks; None if there is none that it could help.

        Args:
            worker: it; a job that it failed at is left to others while these are at it.
            job_id: only of this job.
        """

        def work(connection: Connection) -> Job | None:
            found = connection.execute(self._helpable(worker, job_id)).first()
            job = None if found is None else _active(connection, found.id)
            if job is None:
                return None
            now = self._clock()
            values = {"state": WORKING, "process": None, "beat": now, "ended": None, "reason": "", "drawn": 0}
            values |= {"pace": None}
            rows = insert_into(connection, SHARES).values(job=job.id, worker=worker, **values)
            connection.execute(rows.on_conflict_do_update(index_elements=[Row.job, Row.worker], set_=values))
            # Of an earlier release, whose jobs had one worker.
            self.leases.give_back(connection, job.project, job.id)
            began = {"state": "predicting", "worker": None, "process": None, "beat": now, "updated": now}
            began |= {"started": job.started or now, "message": job.message or "loading the model"}
            connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(began))
            return _active(connection, job.id)

        return self._database.change(work)

    def awaited(self, worker: str, job_id: str) -> bool:
        """Whether another job needs this worker more than the one that it works on."""

        def work(connection: Connection) -> bool:
            found = connection.execute(self._helpable(worker, None)).first()
            if found is None:
                return False
            here = select(func.count()).where(Row.job == job_id, Row.state == WORKING)
            return bool(found.workers == 0 or found.workers + 2 <= connection.execute(here).scalar_one())

        return self._database.read(work)

    def report(self, job: Job, worker: str, message: str | None = None, **changes: Any) -> bool:
        """Set fields of a share that is worked on, and the job's sums.

        Args:
            job: the job.
            worker: whose share.
            message: its current step; None leaves the job's sums as they are.
            changes: fields of `Share`.

        Returns:
            False if the job is over or the share was taken from the worker.
        """

        def work(connection: Connection) -> bool:
            now = _active(connection, job.id)
            share = None if now is None else _share(connection, job.id, worker)
            if now is None or share is None or share.state != WORKING:
                return False
            connection.execute(update(SHARES).where(*_key(job.id, worker)).values(**changes))
            if message is not None:
                self._add_up(connection, now, message)
            return True

        return self._database.change(work)

    def finish(
        self,
        job: str,
        worker: str,
        project: str,
        tasks: Collection[str],
        outcome: str,
        problems: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """Strike tasks of a share off, and count them.

        Args:
            job: the job's id.
            worker: whose share.
            project: Label Studio's project id.
            tasks: ids.
            outcome: one of `OUTCOMES`.
            problems: {"task", "reason"} of those that got no prediction.

        Returns:
            The number of those that the worker still leased: no other counts them.
        """

        def work(connection: Connection) -> int:
            return self.leases.strike_off(connection, project, tasks, share_holder(job, worker))

        return self._count(job, worker, work, outcome, problems)

    def refuse(
        self, job: str, worker: str, project: str, tasks: Collection[str], problems: Sequence[Mapping[str, Any]]
    ) -> int:
        """Lay tasks aside that Label Studio did not store, and count them; arguments and result as for `finish`."""

        def work(connection: Connection) -> int:
            return self.leases.refuse(connection, project, tasks, share_holder(job, worker), job)

        return self._count(job, worker, work, "refused", problems)

    def leave(self, job: Job, worker: str, state: str, reason: str, *, killed: bool) -> Job | None:
        """End a worker's share; what it was predicting is due again.

        Args:
            job: the job.
            worker: whose share.
            state: LEFT, or FAILED for a worker that cannot do the job.
            reason: why, in words; "" if there was nothing to do.
            killed: the worker or its process died: after some deaths without a prediction in between it failed.

        Returns:
            The job, if that ended it.
        """

        def work(connection: Connection) -> Job | None:
            now = _active(connection, job.id)
            share = _share(connection, job.id, worker)
            if share is None or share.state != WORKING:
                return None
            ended, why = state, reason
            if now is not None and killed:
                deaths = now.restarts + 1
                if deaths > RESTARTS:
                    ended = FAILED
                    why = f"{reason}; that makes {deaths} times: look for a lack of memory, then start it again"
                changes = {"restarts": deaths, "reason": f"{reason}; it began again"}
                connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(changes))
            elif now is not None and reason:
                connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(reason=reason))
            left = {"state": ended, "reason": why, "process": None, "drawn": 0, "ended": self._clock()}
            connection.execute(update(SHARES).where(*_key(job.id, worker)).values(left))
            self.leases.give_back(connection, job.project, share_holder(job.id, worker))
            if now is None:
                return None
            return self._settle(connection, now, why if ended == FAILED else "")

        return self._database.change(work)

    def settle(self, job: Job) -> Job | None:
        """End a job that no worker is at if nothing is left to do; returns it then."""

        def work(connection: Connection) -> Job | None:
            now = _active(connection, job.id)
            return None if now is None else self._settle(connection, now, "")

        return self._database.change(work)

    def working(self, job_id: str | None = None) -> list[Share]:
        """The shares that are worked on, of all jobs or of one."""
        query = select(SHARES).where(Row.state == WORKING).order_by(Row.job, Row.worker)
        if job_id is not None:
            query = query.where(Row.job == job_id)
        return self._database.read(lambda connection: [Share(**row._asdict()) for row in connection.execute(query)])

    def holds(self, job_id: str, worker: str) -> bool:
        """Whether a job goes on, and the worker has a share of it."""

        def work(connection: Connection) -> bool:
            query = select(JOBS.c.id).join(SHARES, Row.job == JOBS.c.id)
            mine = query.where(*_key(job_id, worker), Row.state == WORKING, JOBS.c.state.in_(ACTIVE))
            return connection.execute(mine).first() is not None

        return self._database.read(work)

    def beat(self, worker: str) -> None:
        """Record a sign of life of a worker."""
        alive = update(SHARES).where(Row.worker == worker, Row.state == WORKING).values(beat=self._clock())
        self._database.change(lambda connection: connection.execute(alive))

    def forget(self) -> None:
        """Remove the shares of jobs that are over, and of those that are no longer on record."""
        active = select(JOBS.c.id).where(JOBS.c.state.in_(ACTIVE))
        over = delete(SHARES).where(Row.job.not_in(active), Row.state != WORKING)
        self._database.change(lambda connection: connection.execute(over))

    def _helpable(self, worker: str, job_id: str | None) -> Any:
        """Ids of the jobs that a worker could help, with their number of workers, the neediest first."""
        of_job = Row.job == JOBS.c.id
        workers = select(func.count()).where(of_job, Row.state == WORKING).scalar_subquery()
        last = select(func.max(func.coalesce(Row.ended, 0.0))).where(of_job).scalar_subquery()
        at_it = select(Row.job).where(Row.worker == worker, Row.state == WORKING)
        failed_at = select(Row.job).where(Row.worker == worker, Row.state == FAILED)
        query = select(JOBS.c.id, workers.label("workers")).where(
            JOBS.c.kind == PREDICTION,
            JOBS.c.state.in_(ACTIVE),
            JOBS.c.id.not_in(at_it),
            or_(workers == 0, JOBS.c.id.not_in(failed_at)),
            self.leases.due_of(JOBS.c.project),
        )
        if job_id is not None:
            query = query.where(JOBS.c.id == job_id)
        waits_since = case((last > JOBS.c.created, last), else_=JOBS.c.created)
        return query.order_by(workers, waits_since, JOBS.c.created, JOBS.c.id).limit(1)

    def _count(
        self,
        job: str,
        worker: str,
        work: Callable[[Connection], int],
        outcome: str,
        problems: Sequence[Mapping[str, Any]],
    ) -> int:
        """Run `work`, and add the number that it returns to a share's tally, in one transaction."""

        def both(connection: Connection) -> int:
            # Rows in the order of all other changes: the job's, the share's, the leases'.
            if outcome == "predicted":  # what stores some before it is killed may be restarted any number of times
                again = update(JOBS).where(JOBS.c.id == job, or_(JOBS.c.restarts > 0, JOBS.c.reason != ""))
                connection.execute(again.values(restarts=0, reason=""))
            share = _share(connection, job, worker, locked=True)
            count = work(connection)
            if share is not None and (count or problems):
                tally = _sum(share.tally, {outcome: count, "problems": list(problems)})
                counted = {"tally": tally, "drawn": max(share.drawn - count, 0)}
                connection.execute(update(SHARES).where(*_key(job, worker)).values(counted))
            return count

        return self._database.change(both)

    def _add_up(self, connection: Connection, job: Job, message: str) -> None:
        shares = _shares(connection, job.id)
        tally = self._tally(connection, job, shares)
        told = _told_of(tally)
        done = sum(tally.values()) + sum(share.drawn for share in shares)
        due, leased = self.leases.outstanding(connection, job.project, job.id)
        total = max(sum(tally.values()) + due + leased, done)
        at_work = [share for share in shares if share.state == WORKING]
        by = f" by {len(at_work)} workers" if len(at_work) > 1 else ""
        speed = sum(1 / share.pace for share in at_work if share.pace)
        changes: dict[str, Any] = {
            "message": f"{done} of {total} tasks{by}: {message}",
            "figures": {"done": done, "total": total} | ({"workers": len(at_work)} if by else {}),
            "report": bounded(tally | told),
            "progress": done / total if total else 0.0,
            "eta": round((total - done) / speed, 1) if speed else None,
            "updated": self._clock(),
        }
        connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(changes))

    def _tally(self, connection: Connection, job: Job, shares: list[Share]) -> dict[str, Any]:
        tally: dict[str, Any] = dict.fromkeys(OUTCOMES, 0) | {"problems": []}
        for share in shares:
            tally = _sum(tally, share.tally)
        # Some may have been refused again and again.
        return tally | {"refused": len(self.leases.refused(connection, job.project, job.id))}

    def _settle(self, connection: Connection, job: Job, failure: str) -> Job | None:
        shares = _shares(connection, job.id)
        if any(share.state == WORKING for share in shares):
            return None
        left = sum(self.leases.outstanding(connection, job.project, job.id))
        changes: dict[str, Any] = {"updated": self._clock(), "eta": None, "message": ""}
        tally = self._tally(connection, job, shares)
        told = _told_of(tally)
        refused = self.leases.refused(connection, job.project, job.id)
        if failure:
            changes |= {"state": "failed", "reason": failure}
        elif left:
            changes |= {"state": "queued"}
        elif refused:
            changes |= {"state": "failed", "reason": _not_stored(refused, tally, told.get("problems", []))}
        else:
            changes |= {"state": "done", "progress": 1.0, "reason": "", "message": _told(tally)}
        if changes["state"] != "queued":
            done = sum(tally.values())
            changes["figures"] = {"done": done, "total": done + left}
            changes["report"] = bounded(tally | told)
            self.leases.make_due(connection, job.project, job.id)
        connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(changes))
        if changes["state"] == "queued":
            return None
        return Job(**connection.execute(select(JOBS).where(JOBS.c.id == job.id)).one()._asdict())


def _told_of(tally: dict[str, Any]) -> dict[str, Any]:
    """What a tally says besides numbers of tasks, taken out of it, as a job's report says it."""
    problems, untold = tally.pop("problems"), tally.pop("untold", 0)
    told = {"problems": problems} if problems else {}
    return told | ({CUT_OFF: {"problems": untold}} if untold else {})


def _told(tally: Mapping[str, int]) -> str:
    """The number of tasks by outcome, in words."""
    counts = ", ".join(f"{count} {OUTCOMES.get(what, what)}" for what, count in tally.items() if count)
    return counts or "no prediction was requested"


def _not_stored(tasks: list[str], tally: Mapping[str, int], problems: list[Mapping[str, Any]]) -> str:
    named = ", ".join(tasks[:MAX_NAMED]) + (", ..." if len(tasks) > MAX_NAMED else "")
    reasons = (str(one["reason"]) for one in problems if str(one["task"]) in tasks)
    why = next(reasons, "the job's log says why").rpartition("did not store its prediction: ")[2]
    return (
        f"Label Studio did not store {len(tasks)} predictions, of tasks {named}: {why}; {tally.get('predicted', 0)} "
        "are stored; the job's log says more; those tasks stay requested, and the project's next prediction job tries "
        "them again"
    )


def _sum(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two tallies added up."""
    numbers = {what: one.get(what, 0) + other.get(what, 0) for what in {**one, **other} if what != "problems"}
    problems = [*one.get("problems", []), *other.get("problems", [])]
    if (more := len(problems) - MAX_PROBLEMS) > 0:
        numbers["untold"] = numbers.get("untold", 0) + more
    return {**numbers, "problems": problems[:MAX_PROBLEMS]}


def _key(job_id: str, worker: str) -> tuple[Any, Any]:
    return Row.job == job_id, Row.worker == worker


def _share(connection: Connection, job_id: str, worker: str, *, locked: bool = False) -> Share | None:
    query = select(SHARES).where(*_key(job_id, worker))
    row = connection.execute(query.with_for_update() if locked else query).one_or_none()
    return None if row is None else Share(**row._asdict())


def _shares(connection: Connection, job_id: str) -> list[Share]:
    return [Share(**row._asdict()) for row in connection.execute(select(SHARES).where(Row.job == job_id))]


def _active(connection: Connection, job_id: str) -> Job | None:
    """A job that is not over, locked: all changes of its shares follow one another."""
    query = select(JOBS).where(JOBS.c.id == job_id, JOBS.c.state.in_(ACTIVE)).with_for_update()
    row = connection.execute(query).one_or_none()
    return None if row is None else Job(**row._asdict())
