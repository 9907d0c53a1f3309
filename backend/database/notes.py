"""What automatic training remembers: projects with news, and the annotations that trainings have learned from."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, delete, insert, select, update

from backend.database.engine import Database, insert_into
from backend.database.tables import LEARNED, NOTES


@dataclass(frozen=True)
class Note:
    """A project's annotations have changed.

    Attributes:
        since: Unix time of the first change since the project was looked at.
        at: Unix time at which it is to be looked at.
    """

    since: float
    at: float


class Notes:
    """Safe to use from several threads and processes at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, project: str, following: Callable[[Note | None], Note]) -> None:
        """Note a change; `following` makes the new note of the one that is there."""

        def work(connection: Connection) -> None:
            before = _note(connection, project)
            after = asdict(following(before))
            if before is not None:
                connection.execute(update(NOTES).where(NOTES.c.project == project).values(after))
            else:  # another process may do so this moment
                rows = insert_into(connection, NOTES).values(project=project, **after)
                connection.execute(
                    rows.on_conflict_do_update(index_elements=[NOTES.c.project], set_={"at": after["at"]})
                )

        self._database.change(work)

    def noted(self) -> dict[str, Note]:
        """The notes by project."""
        rows = self._database.read(lambda connection: connection.execute(select(NOTES)).all())
        return {row.project: Note(row.since, row.at) for row in rows}

    def remove(self, project: str, note: Note) -> None:
        """Remove a note, unless another change came meanwhile."""

        def work(connection: Connection) -> None:
            if _note(connection, project) == note:
                connection.execute(delete(NOTES).where(NOTES.c.project == project))

        self._database.change(work)

    def learn(self, project: str, annotations: Mapping[str, str]) -> None:
        """Keep the annotations, by task, that a training begins to learn from, in place of the last one's."""

        def work(connection: Connection) -> None:
            connection.execute(delete(LEARNED).where(LEARNED.c.project == project))
            rows = [{"project": project, "task": task, "annotations": stamp} for task, stamp in annotations.items()]
            if rows:
                connection.execute(insert(LEARNED), rows)

        self._database.change(work)

    def learned(self, project: str) -> dict[str, str]:
        """The annotations, by task, that a project's last training learned from."""
        query = select(LEARNED.c.task, LEARNED.c.annotations).where(LEARNED.c.project == project)
        return self._database.read(lambda connection: {row.task: row.annotations for row in connection.execute(query)})


def _note(connection: Connection, project: str) -> Note | None:
    row = connection.execute(select(NOTES).where(NOTES.c.project == project).with_for_update()).one_or_none()
    return None if row is None else Note(row.since, row.at)
