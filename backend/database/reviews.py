"""The review queue: accepted tasks that are worth a second look, until a lead says that they are fine."""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, insert, select, update

from backend.database.engine import Database, Fence, no_fence
from backend.database.tables import REVIEWS
from backend.errors import UnknownTask

BATCH = 500  # rows a statement


@dataclass(frozen=True)
class Doubt:
    """Why an accepted task is worth a second look.

    Attributes:
        task: Label Studio's id.
        annotations: ids of its annotations, as one text: what was looked at.
        image: the doubtful image or page of it, "" where it has one.
        label: the doubtful class.
        kind: "missed", "surplus", "differs" or "label".
        suspicion: how likely the annotation is wrong, in [0, 1].
        sentence: the reason, for people.
        version: the model that disagrees.
        learnt: that model has learnt the annotation, and disagrees all the same.
    """

    task: str
    annotations: str
    image: str
    label: str
    kind: str
    suspicion: float
    sentence: str
    version: str
    learnt: bool


class Reviews:
    """Safe to use from several threads and processes at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def replace(self, project: str, doubts: Collection[Doubt], fence: Fence = no_fence) -> int:
        """Put new doubts, one a task, in the place of the earlier ones; returns how many are in the queue.

        A task that was found to be fine stays out of the queue until its annotations change.

        Args:
            project: Label Studio's project id.
            doubts: at most one of each task.
            fence: as for `Registry.publish`.
        """

        def work(connection: Connection) -> int:
            fence(connection)
            of = REVIEWS.c.project == project
            connection.execute(delete(REVIEWS).where(of, REVIEWS.c.fine.is_(None)))
            query = select(REVIEWS.c.task, REVIEWS.c.annotations).where(of)
            fine = {row.task: row.annotations for row in connection.execute(query)}
            new = [one for one in doubts if fine.get(one.task) != one.annotations]
            for start in range(0, len(new), BATCH):
                part = new[start : start + BATCH]
                connection.execute(delete(REVIEWS).where(of, REVIEWS.c.task.in_([one.task for one in part])))
                connection.execute(insert(REVIEWS), [{"project": project, "fine": None, **asdict(one)} for one in part])
            return len(new)

        return self._database.change(work)

    def waiting(self, project: str) -> list[Doubt]:
        """The queue, the likeliest errors first."""
        query = (
            select(*(column for column in REVIEWS.c if column.name not in ("project", "fine")))
            .where(REVIEWS.c.project == project, REVIEWS.c.fine.is_(None))
            .order_by(REVIEWS.c.suspicion.desc(), REVIEWS.c.task)
        )
        rows: Sequence[Doubt] = self._database.read(
            lambda connection: [Doubt(**row) for row in connection.execute(query).mappings()]
        )
        return list(rows)

    def fine(self, project: str, task: str) -> None:
        """Take a task out of the queue: nothing is wrong with it.

        Raises:
            UnknownTask: it is not in the queue.
        """
        waits = (REVIEWS.c.project == project, REVIEWS.c.task == task, REVIEWS.c.fine.is_(None))

        def work(connection: Connection) -> int:
            return connection.execute(update(REVIEWS).where(*waits).values(fine=time.time())).rowcount

        if not self._database.change(work):
            raise UnknownTask(f"task {task} is not in the review queue of project {project}")
