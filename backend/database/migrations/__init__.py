"""Revisions of the tables, by Alembic: `versions` has a file for each."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from backend.database.tables import REVISION
from backend.errors import DatabaseError


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; `connection` is what the revisions are applied to."""
    made = Config()
    # Alembic reads its values as templates.
    made.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    made.attributes["connection"] = connection
    return made


def upgrade(connection: Connection, name: str, found: str | None) -> None:
    """Bring the tables to the newest revision, inside the transaction of `connection`.

    Args:
        connection: to the database.
        name: of the database, for people.
        found: its revision; None if it is empty.

    Raises:
        DatabaseError: this release does not know that revision.
    """
    made = config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(made).walk_revisions()}
    if found is not None and found not in known:
        raise DatabaseError(
            f"the database {name} is of a newer release of premask: its revision is {found}, this one's {REVISION}",
            "update premask on this machine, or restore a copy from before that update",
        )
    command.upgrade(made, REVISION)
