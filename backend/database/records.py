"""State that the server and the workers share: tables of small JSON documents, and logs.

A change is a function from a table's rows to its rows. It is atomic, and no other process changes the table
meanwhile. Two classes keep the tables, with one contract: a SQLite file for one machine, and Redis for several, because
SQLite's locks are not reliable over a network file system.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import redis
from filelock import FileLock

from backend.errors import JobError

Document = dict[str, Any]
Result = TypeVar("Result")

SCHEMA = """
create table if not exists documents (
    collection text not null, name text not null, document text not null, primary key (collection, name)
) without rowid;
create table if not exists lines (number integer primary key autoincrement, log text not null, line text not null);
create index if not exists lines_by_log on lines (log, number);
"""
REDIS_PREFIX = "premask:"


class Records(Protocol):
    """Tables by name. Safe to use from several threads and processes at once; every method may raise JobError."""

    def change(
        self, table: str, work: Callable[[dict[str, Document]], Result], names: Collection[str] | None = None
    ) -> Result:
        """Let `work` alter a table's rows in place; returns what it returns. It may be run more than once.

        Args:
            table: name of the table.
            work: gets the rows by name.
            names: it gets these rows alone, those of them that exist; None for all.
        """

    def read(self, table: str, names: Collection[str] | None = None) -> dict[str, Document]:
        """The rows of a table by name; `names` as in `change`."""

    def tables(self, prefix: str) -> list[str]:
        """Names of the tables that have rows and begin with `prefix`."""

    def append(self, log: str, line: str, keep: int) -> None:
        """Add a line to a log; the oldest lines beyond `keep` are removed."""

    def tail(self, log: str, lines: int) -> list[str]:
        """The last lines of a log, oldest first."""

    def discard(self, logs: Collection[str]) -> None:
        """Remove logs."""


class SqliteRecords:
    """Records in a SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Server and worker start together, and SQLite does not wait when two switch a new file to WAL at once.
        with FileLock(f"{path}.lock"), self._connection() as connection:
            # Readers (the API) then never wait for the writer (the worker).
            connection.execute("pragma journal_mode=wal")
            connection.executescript(SCHEMA)

    def change(
        self, table: str, work: Callable[[dict[str, Document]], Result], names: Collection[str] | None = None
    ) -> Result:
        """See `Records`."""
        with self._connection() as connection:
            connection.execute("begin immediate")
            before = self._load(connection, table, names)
            rows = _parsed(before)
            result = work(rows)
            written, removed = _difference(before, rows)
            connection.executemany(
                "insert or replace into documents values (?, ?, ?)",
                [(table, name, document) for name, document in written.items()],
            )
            connection.executemany(
                "delete from documents where collection = ? and name = ?", [(table, name) for name in removed]
            )
            connection.execute("commit")
        return result

    def read(self, table: str, names: Collection[str] | None = None) -> dict[str, Document]:
        """See `Records`."""
        with self._connection() as connection:
            return _parsed(self._load(connection, table, names))

    def tables(self, prefix: str) -> list[str]:
        """See `Records`."""
        with self._connection() as connection:
            found = connection.execute("select distinct collection from documents order by collection").fetchall()
        return [name for (name,) in found if name.startswith(prefix)]

    def append(self, log: str, line: str, keep: int) -> None:
        """See `Records`."""
        with self._connection() as connection:
            number = connection.execute("insert into lines (log, line) values (?, ?)", (log, line)).lastrowid
            if number is not None and number % 100 == 0:
                connection.execute(
                    "delete from lines where log = ? and number <= "
                    "(select number from lines where log = ? order by number desc limit 1 offset ?)",
                    (log, log, keep),
                )

    def tail(self, log: str, lines: int) -> list[str]:
        """See `Records`."""
        with self._connection() as connection:
            found = connection.execute(
                "select line from lines where log = ? order by number desc limit ?", (log, lines)
            ).fetchall()
        return [line for (line,) in reversed(found)]

    def discard(self, logs: Collection[str]) -> None:
        """See `Records`."""
        with self._connection() as connection:
            connection.executemany("delete from lines where log = ?", [(log,) for log in logs])

    @staticmethod
    def _load(connection: sqlite3.Connection, table: str, names: Collection[str] | None) -> dict[str, str]:
        sql, values = "select name, document from documents where collection = ?", [table]
        if names is not None:
            sql, values = f"{sql} and name in (select value from json_each(?))", [table, json.dumps(list(names))]
        return dict(connection.execute(sql, values).fetchall())

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for one operation: cheap beside what jobs do, and nothing to share between threads."""
        try:
            with closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as connection:
                connection.execute("pragma synchronous=normal")
                yield connection
        except sqlite3.Error as error:
            raise JobError(
                f"job records in {self._path} cannot be used: {error}", "check the disk and who may write"
            ) from error


class RedisRecords:
    """Records in Redis.

    Args:
        url: redis://[:password@]host:port/database, or rediss:// for TLS.
    """

    def __init__(self, url: str) -> None:
        # As Any: its annotations know neither a transaction's result nor plain dictionaries.
        self._redis: Any = redis.Redis.from_url(
            url, decode_responses=True, socket_connect_timeout=5, socket_timeout=30, health_check_interval=30
        )

    def change(
        self, table: str, work: Callable[[dict[str, Document]], Result], names: Collection[str] | None = None
    ) -> Result:
        """See `Records`."""
        key = REDIS_PREFIX + table

        def attempt(pipe: Any) -> Result:
            before = self._load(pipe, key, names)
            rows = _parsed(before)
            result = work(rows)
            written, removed = _difference(before, rows)
            pipe.multi()
            if written:
                pipe.hset(key, mapping=written)
            if removed:
                pipe.hdel(key, *removed)
            return result

        with self._errors():
            # Watched: when another process changes the table meanwhile, nothing is written and redis-py tries again.
            result: Result = self._redis.transaction(attempt, key, value_from_callable=True)
        return result

    def read(self, table: str, names: Collection[str] | None = None) -> dict[str, Document]:
        """See `Records`."""
        with self._errors():
            return _parsed(self._load(self._redis, REDIS_PREFIX + table, names))

    def tables(self, prefix: str) -> list[str]:
        """See `Records`."""
        with self._errors():
            keys = self._redis.scan_iter(f"{REDIS_PREFIX}{prefix}*", count=1000)
            return sorted({str(key).removeprefix(REDIS_PREFIX) for key in keys})

    def append(self, log: str, line: str, keep: int) -> None:
        """See `Records`."""
        with self._errors(), self._redis.pipeline() as pipe:
            pipe.rpush(_log(log), line)
            pipe.ltrim(_log(log), -keep, -1)
            pipe.execute()

    def tail(self, log: str, lines: int) -> list[str]:
        """See `Records`."""
        with self._errors():
            return [str(line) for line in self._redis.lrange(_log(log), -lines, -1)] if lines else []

    def discard(self, logs: Collection[str]) -> None:
        """See `Records`."""
        with self._errors():
            if logs:
                self._redis.delete(*map(_log, logs))

    @staticmethod
    def _load(source: Any, key: str, names: Collection[str] | None) -> dict[str, str]:
        if names is None:
            found: dict[str, str] = source.hgetall(key)
            return found
        asked = list(names)
        values = source.hmget(key, asked) if asked else []
        return {name: value for name, value in zip(asked, values, strict=True) if value is not None}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            # The address may hold a password.
            raise JobError(f"job records in Redis cannot be used: {error}", "check PREMASK_QUEUE_URL") from error


def _log(name: str) -> str:
    return f"{REDIS_PREFIX}log:{name}"


def _parsed(texts: Mapping[str, str]) -> dict[str, Document]:
    return {name: json.loads(text) for name, text in texts.items()}


def _difference(before: Mapping[str, str], rows: Mapping[str, Document]) -> tuple[dict[str, str], list[str]]:
    """Rows to write, as text, and names of rows to remove."""
    after = {name: json.dumps(document) for name, document in rows.items()}
    written = {name: text for name, text in after.items() if before.get(name) != text}
    return written, [name for name in before if name not in after]
