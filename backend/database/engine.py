"""The database that the server and the workers share: a SQLite file on one machine, PostgreSQL on several.

SQLite's locks are not reliable over a network file system, so several machines need PostgreSQL. Every change is a
transaction. On SQLite it begins with BEGIN IMMEDIATE, so changes follow one another; on PostgreSQL statements lock the
rows that they change, and two transactions that wait for each other are run again.
"""

import math
import os
import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from filelock import FileLock
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, Select, Table, column, create_engine, event, inspect, select, table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from backend.database.tables import METADATA, REVISION, VERSION_TABLE
from backend.errors import DatabaseError, DiskFull

Result = TypeVar("Result")

# Called first in a transaction that only the holder of something may make: raises if the caller holds it no more.
Fence = Callable[[Connection], None]

LOCK_SECONDS = 30  # that a change waits for another
CONNECT_SECONDS = 5
# A machine may vanish without a word, in the middle of a transaction: neither side waits for the other for long, and
# what it had locked is free before those who wait for it give up.
IDLE_SECONDS = 20  # of a transaction in which nothing is asked
VANISHED = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}
OLDEST_SERVER = 13
TRIES = 5  # of transactions that collide
CHANGED = ("42P01", "42703")  # undefined_table, undefined_column
CHANGED_FILE = ("no such table", "no such column", "has no column")  # the same in SQLite's words
FULL = ("too many clients", "too many connections", "connection slots are reserved")
FORBIDDEN = ("42501", "3F000")  # insufficient_privilege, invalid_schema_name
SKEW_SECONDS = 60.0  # between two looks at the database's clock
MAX_SKEW = 2.0  # seconds between two clocks that nobody notices
COLLISIONS = ("40001", "40P01")  # serialization_failure, deadlock_detected
UPGRADE_LOCK = 7_366_275  # any number: key of PostgreSQL's advisory lock
# Two servers must not hold more than PostgreSQL's usual 100 connections.
POOL, OVERFLOW = 5, 25
NEWER_BESIDE = "another release has changed its tables: stop this process, and start it with that release"
WITHOUT_IT = "jobs begin again then, and the next start says how to take the versions over"
NO_ROOM, NO_ROOM_IN_FILE = "53100", "disk is full"  # disk_full, and SQLite's words
CORRUPT = ("malformed", "not a database", "encrypted")


class Database:
    """A database with the tables of `tables`. Safe to use from several threads, and by several processes at once.

    Attributes:
        name: for people, without a password.
        dsn: psycopg's connection string, None for SQLite.
        close: closes every connection; so does the end of the process, or of this object.
    """

    def __init__(self, engine: Engine, name: str, remedy: str, dsn: str | None = None) -> None:
        self._engine, self._remedy = engine, remedy
        self.name, self.dsn = name, dsn
        self.close = weakref.finalize(self, engine.dispose)
        self._ahead, self._asked = 0.0, -math.inf  # by how much its clock is, and when that was looked up
        self.change(self._look)
        self.change(self._upgrade)

    @classmethod
    def sqlite(cls, path: Path) -> "Database":
        """The database in a file, which is created.

        Raises:
            DatabaseError: it cannot be read or written, is corrupt, or of a newer release.
        """
        # Connections are kept: when SQLite closes a file's last one, it writes all of its log back.
        engine = create_engine(
            URL.create("sqlite", database=str(path)),
            pool_size=POOL,
            max_overflow=OVERFLOW,
            connect_args={"timeout": LOCK_SECONDS},
        )

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _: object) -> None:
            connection.isolation_level = None  # BEGIN is ours, see below
            connection.execute("pragma synchronous=normal")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            # What is written into a file that has no name any more is gone with the last process that has it open.
            if not _is_still(opened, path):
                raise DatabaseError(
                    f"the database {path} cannot be used: its file was removed or replaced while it was open",
                    "stop every premask of that folder, put the file back, and start them",
                )
            immediate = connection.get_execution_options().get("immediate")
            connection.exec_driver_sql("begin immediate" if immediate else "begin")

        try:
            _prepare(path)
            opened = path.stat()
        except (OSError, sqlite3.Error) as error:
            raise DatabaseError(f"the database {path} cannot be used: {error}", _sqlite_remedy(path, error)) from error
        return cls(engine, str(path), _sqlite_remedy(path))

    @classmethod
    def postgresql(cls, url: str) -> "Database":
        """The database at an address as libpq understands it, such as postgresql://user:password@host:5432/premask.

        Raises:
            DatabaseError: it cannot be reached, read or written, or is of a newer release.
        """
        try:
            known: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": "premask"}
            known.update(VANISHED)
            known.update(conninfo_to_dict(url))
        except psycopg.Error as error:
            raise DatabaseError("the address of the database cannot be read", "check PREMASK_DATABASE_URL") from error
        dsn = make_conninfo(**known)
        engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: psycopg.connect(dsn),
            pool_pre_ping=True,  # PostgreSQL may have been restarted
            pool_size=POOL,
            max_overflow=OVERFLOW,
        )

        @event.listens_for(engine, "connect")
        def configure(connection: psycopg.Connection[Any], _: object) -> None:
            connection.execute(f"set lock_timeout = '{LOCK_SECONDS}s'".encode())
            for name, value in VANISHED.items():
                connection.execute(f"set tcp_{name.removeprefix('tcp_')} = {value}".encode())
            connection.execute(f"set idle_in_transaction_session_timeout = '{IDLE_SECONDS}s'".encode())
            # An index leads to all that is asked, but PostgreSQL reads the whole of a table that has just grown.
            connection.execute("set enable_seqscan = off")
            connection.execute("set enable_bitmapscan = off")
            connection.commit()

        host, port = known.get("host", "its socket"), known.get("port", 5432)
        name = f"{known.get('dbname', known.get('user', ''))} at {host}:{port}"
        return cls(engine, name, "check PREMASK_DATABASE_URL, and that PostgreSQL runs and lets this machine in", dsn)

    def change(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work` in a transaction that changes something; it may be run more than once.

        Raises:
            DatabaseError: the database cannot be used.
        """
        for _ in range(TRIES - 1):
            try:
                return self._attempt(work)
            except DatabaseError as error:
                cause = error.__cause__
                if not isinstance(cause, DBAPIError) or getattr(cause.orig, "sqlstate", None) not in COLLISIONS:
                    raise
        return self._attempt(work)

    def read(self, work: Callable[[Connection], Result]) -> Result:
        """Run `work`, which changes nothing.

        Raises:
            DatabaseError: the database cannot be used.
        """
        with self._errors(), self._engine.connect() as connection, connection.begin():
            return work(connection)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While one process creates tables, others that want to wait."""
        with self._errors(), self._engine.connect() as connection, connection.begin():
            _lock_others_out(connection)
            if self.dsn is not None:  # what they do meanwhile is elsewhere, and may take its time
                connection.execute(text("set local idle_in_transaction_session_timeout = 0"))
            yield

    def check(self) -> None:
        """Look whether the tables are still of this release.

        Raises:
            DatabaseError: they are not, or the database cannot be used.
        """
        query: Select[Any] = select(column("version_num")).select_from(table(VERSION_TABLE))
        if (found := self.read(lambda connection: connection.execute(query).scalar())) != REVISION:
            raise DatabaseError(
                f"the database {self.name} has the revision {found}, and this release's is {REVISION}", NEWER_BESIDE
            )

    def time(self) -> float:
        """Unix time by the database's clock: leases and signs of life are of many machines, whose own clocks differ."""
        if self.dsn is not None and time.monotonic() - self._asked > SKEW_SECONDS:
            self._asked = time.monotonic()
            with suppress(DatabaseError):  # what was right a minute ago
                self._ahead = self.skew()
        return time.time() + self._ahead

    def skew(self) -> float:
        """Seconds by which the database's clock is ahead of this machine's; 0 for a file."""
        if self.dsn is None:
            return 0.0
        there = self.read(lambda c: float(c.execute(text("select extract(epoch from clock_timestamp())")).scalar_one()))
        return there - time.time()

    def _attempt(self, work: Callable[[Connection], Result]) -> Result:
        with (
            self._errors(),
            self._engine.connect().execution_options(immediate=True) as connection,
            connection.begin(),
        ):
            return work(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
            says = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
            remedy = self._remedy if self.dsn is not None else _sqlite_remedy(Path(self.name), cause)
            state = getattr(cause, "sqlstate", None)
            full = NO_ROOM_IN_FILE in says if self.dsn is None else state == NO_ROOM
            if state in FORBIDDEN:
                remedy = "let its user create and change tables: make it the owner of the database"
            elif any(word in says for word in FULL):
                remedy = "raise PostgreSQL's max_connections: the chapter on several machines says what each takes"
            elif full:
                remedy = "make room on its disk"
            elif state in CHANGED or (self.dsn is None and any(word in says for word in CHANGED_FILE)):
                remedy = NEWER_BESIDE
            kind = DiskFull if full and self.dsn is None else DatabaseError
            raise kind(f"the database {self.name} cannot be used: {says}", remedy) from error

    def _look(self, connection: Connection) -> None:
        """Refuse a server that cannot be written to, before anything is asked of it."""
        if self.dsn is None:
            return

        def shown(what: str) -> str:
            return str(connection.execute(text(f"show {what}")).scalar_one())

        if int(shown("server_version_num")) < OLDEST_SERVER * 10_000:
            raise DatabaseError(
                f"the database {self.name} is PostgreSQL {shown('server_version')}, and {OLDEST_SERVER} is the oldest "
                "that will do",
                "upgrade it",
            )
        if shown("server_encoding") != "UTF8":
            raise DatabaseError(
                f"the database {self.name} has the encoding {shown('server_encoding')}",
                "create one with the encoding UTF8",
            )
        if shown("transaction_read_only") == "on":
            raise DatabaseError(
                f"the database {self.name} cannot be written to: it is read-only",
                "name the primary server in PREMASK_DATABASE_URL, not a replica",
            )

    def _upgrade(self, connection: Connection) -> None:
        """Bring the tables to this release's revision; other processes wait meanwhile."""
        _lock_others_out(connection)
        names = set(inspect(connection).get_table_names())
        ours = set(METADATA.tables)
        found = None
        if VERSION_TABLE in names:
            rows = connection.execute(select(table(VERSION_TABLE, column("version_num")))).scalars().all()
            found = rows[0] if len(rows) == 1 else None
        if found is None and (foreign := sorted(names & ours)):
            raise DatabaseError(
                f"the database {self.name} has a table {foreign[0]!r} and no revision of premask",
                "give premask an empty database of its own, or restore a copy",
            )
        if found != REVISION:
            from backend.database.migrations import upgrade  # Alembic is loaded where there is something to do

            upgrade(connection, self.name, found)
        elif lacking := sorted(ours - names):
            raise DatabaseError(
                f"the database {self.name} is corrupt: it lacks the table {lacking[0]!r}",
                f"restore a copy, or give premask an empty one: {WITHOUT_IT}",
            )


def no_fence(connection: Connection) -> None:
    """Lets everybody pass."""


def insert_into(connection: Connection, into: Table) -> Any:
    """An INSERT of the connection's dialect, which can say what to do with rows that are there already."""
    return postgresql.insert(into) if connection.dialect.name == "postgresql" else sqlite.insert(into)


def _lock_others_out(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # on SQLite the transaction does
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": UPGRADE_LOCK})


def _prepare(path: Path) -> None:
    """Create a file that its user alone may read, and look whether a present one is whole."""
    path.touch(mode=0o600)
    # Server and worker start together, and SQLite does not wait when two switch a new file to WAL at once.
    with FileLock(f"{path}.lock"), closing(sqlite3.connect(path, timeout=LOCK_SECONDS)) as connection:
        # Readers (the API) then never wait for the writer (the worker).
        connection.execute("pragma journal_mode=wal")
        ((found,),) = connection.execute("pragma quick_check(1)").fetchall()
        if found != "ok":
            raise sqlite3.DatabaseError(f"it is malformed: {' '.join(str(found).split())}")


def _is_still(opened: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(opened, path.stat())
    except OSError:
        return False


def _sqlite_remedy(path: Path, error: BaseException | None = None) -> str:
    if any(word in str(error) for word in CORRUPT):
        return f"restore a copy, or move it away (mv {path} {path}.corrupt): {WITHOUT_IT}"
    return "check the disk and who may write"
