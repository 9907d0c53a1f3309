"""Carries a SQLite file's rows into an empty PostgreSQL: one machine becomes several."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, StaticPool, Table, create_engine, func, insert, select

from backend.database.engine import Database
from backend.database.tables import METADATA
from backend.errors import DatabaseError

BATCH = 5000  # rows per statement


def copy_database(
    path: Path, target: Database, tell: Callable[[str, int, int], None] = lambda table, done, total: None
) -> dict[str, int]:
    """Copy every row, in one transaction: afterwards the target has all of them or none.

    Args:
        path: the SQLite file. It is brought to this release's revision, and not changed besides.
        target: a PostgreSQL without a row.
        tell: called with a table, how many of its rows are copied, and how many there are.

    Returns:
        The number of rows by table.

    Raises:
        DatabaseError: a process uses the file, the target has rows already, or one of both cannot be used.
    """
    if not path.is_file():
        raise DatabaseError(f"there is no database {path}", "name the data folder in PREMASK_DATA_DIR")
    with _unused(path):
        pass  # before anything of it is changed
    Database.sqlite(path).close()
    with _unused(path) as source:

        def work(connection: Connection) -> dict[str, int]:
            for table in METADATA.sorted_tables:
                if connection.execute(select(table).limit(1)).first() is not None:
                    raise DatabaseError(
                        f"the database {target.name} has rows already, in {table.name}",
                        "name an empty one; nothing was changed",
                    )
            return {table.name: _copy(table, source, connection, tell) for table in METADATA.sorted_tables}

        return target.change(work)


def _copy(table: Table, source: Connection, target: Connection, tell: Callable[[str, int, int], None]) -> int:
    of_all = select(func.count()).select_from(table)
    total, done = source.execute(of_all).scalar_one(), 0
    with source.execution_options(yield_per=BATCH).execute(select(table)) as rows:
        for some in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in some])
            done += len(some)
            tell(table.name, done, total)
    if (there := target.execute(of_all).scalar_one()) != total:
        raise DatabaseError(f"{there} of {total} rows of {table.name} were copied", "nothing was changed; try again")
    if (number := table.autoincrement_column) is not None and total:
        # Rows that were given their number leave the sequence where it was.
        last = select(func.max(number)).scalar_subquery()
        target.execute(select(func.setval(func.pg_get_serial_sequence(table.name, number.name), last)))
    return total


@contextmanager
def _unused(path: Path) -> Iterator[Connection]:
    """The database in a file that no other process has open, or can open meanwhile."""
    raw = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        _lock(raw, path)
        engine = create_engine("sqlite://", creator=lambda: raw, poolclass=StaticPool)
        with engine.connect() as connection:
            yield connection
    finally:
        raw.close()


def _lock(raw: sqlite3.Connection, path: Path) -> None:
    try:
        # Servers and workers keep connections, and each holds a lock that is shared with no exclusive one.
        raw.execute("pragma locking_mode=exclusive")
        raw.execute("begin exclusive")
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise DatabaseError(
                f"the database {path} is in use", "stop every `premask serve` and `premask worker` of that data folder"
            ) from error
        raise DatabaseError(
            f"the database {path} cannot be used: {error}", "check the disk, or restore a copy"
        ) from error
