"""The database as a whole: SQLite and PostgreSQL, sound and not."""

import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Connection, create_engine, insert, select, text, update
from sqlalchemy.exc import OperationalError

from backend.database import engine
from backend.database.engine import Database
from backend.database.jobs import JobStore
from backend.database.leases import Leases
from backend.database.migrations import config
from backend.database.tables import LEASES, METADATA, NOTES, REQUESTED, REVISION, SHARES, VERSION_TABLE
from backend.diagnosis import checks
from backend.errors import DatabaseError, DiskFull
from tests.backend import postgresql
from tests.backend.conftest import BOTH_STORAGES

NEWER = text(f"update {VERSION_TABLE} set version_num = '0999'")
NOTE = {"project": "3", "since": 1.0, "at": 2.0}


def add_note(connection: Connection) -> None:
    connection.execute(insert(NOTES).values(NOTE))


@BOTH_STORAGES
def test_the_revisions_make_the_tables_that_the_code_knows(records: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"version_table": VERSION_TABLE, "include_name": lambda name, *_: not str(name).startswith("huey")}
        return compare_metadata(MigrationContext.configure(connection, opts=options), METADATA)

    assert records.read(differences) == []
    assert ScriptDirectory.from_config(config()).get_current_head() == REVISION


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_upgrade_counts_requested_tasks_and_adds_up_a_shares_tallies(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Those of the release before were two: of a worker's process, and of its earlier ones."""
    path = tmp_path / "old.sqlite"
    url = "" if kind == "sqlite" else request.getfixturevalue("postgresql_server").create("old")
    creator = (lambda: sqlite3.connect(path)) if kind == "sqlite" else (lambda: psycopg.connect(url))
    engine = create_engine("sqlite://" if kind == "sqlite" else "postgresql+psycopg://", creator=creator)
    lease = "insert into leases values ('3', :task, 1, :requested, '', false, '', 0)"
    share = "insert into shares values ('job', :worker, 'working', null, 0, null, :earlier, :tally, 0, null, '')"
    earlier, tally = {"predicted": 3, "gone": 1, "problems": [1]}, {"predicted": 2, "problems": [2]}
    texts = {"earlier": json.dumps(earlier), "tally": json.dumps(tally)}
    with engine.begin() as connection:
        command.upgrade(config(connection), "0004")
        for task in range(5):
            connection.execute(text(lease), {"task": str(task), "requested": task > 0})
        connection.execute(text(share), {"worker": "a", **texts})
        connection.execute(text(share), {"worker": "b", "earlier": "{}", "tally": "{}"})
    engine.dispose()
    database = Database.sqlite(path) if kind == "sqlite" else Database.postgresql(url)
    kept = database.read(
        lambda c: (c.execute(select(REQUESTED)).all(), c.execute(select(SHARES.c.tally)).scalars().all())
    )
    assert kept[0] == [("3", 4)]
    assert {"predicted": 5, "gone": 1, "problems": [1, 2]} in kept[1]
    assert {"problems": []} in kept[1]
    database.close()


@BOTH_STORAGES
def test_a_change_that_fails_changes_nothing(records: Database) -> None:
    def fails(connection: Connection) -> None:
        add_note(connection)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        records.change(fails)
    assert records.read(lambda connection: connection.execute(select(NOTES)).all()) == []


@BOTH_STORAGES
def test_changes_at_the_same_moment_are_not_lost(records: Database) -> None:
    records.change(add_note)

    def count(_: int) -> None:
        def work(connection: Connection) -> None:
            at = connection.execute(select(NOTES.c.at).with_for_update()).scalar_one()
            connection.execute(NOTES.update().values(at=at + 1))

        records.change(work)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    assert records.read(lambda connection: connection.execute(select(NOTES.c.at)).scalar_one()) == 42


@BOTH_STORAGES
def test_of_two_that_wait_for_each_other_both_are_done_in_the_end(records: Database) -> None:
    leases = Leases(records)
    leases.request("3", ["1", "2"])
    both = threading.Barrier(2)
    met: list[str] = []

    def change(order: str) -> None:
        def work(connection: Connection) -> None:
            for place, task in enumerate(order):
                row = LEASES.update().where(LEASES.c.task == task)
                connection.execute(row.values(version=LEASES.c.version + order))
                if place == 0 and records.dsn is not None and len(met) < 2:
                    met.append(order)
                    both.wait(20)

        records.change(work)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(change, ["12", "21"]))
    versions = records.read(lambda connection: connection.execute(select(LEASES.c.version)).scalars().all())
    assert sorted(map(sorted, versions)) == [list("1122")] * 2


@BOTH_STORAGES
def test_any_text_can_be_kept(records: Database) -> None:
    store = JobStore(records)
    job, _ = store.submit("training", "pro\0ject \udc80")
    store.claim(job.id, "host/1:1")
    store.log(job.id, "line\0 \udc80 \U0001f600")
    store.advance(store.get(job.id), message="\0", figures={"loss": float("inf"), "text": "\0"})
    assert store.log_tail(job.id)[0].endswith("line\ufffd ? \U0001f600")
    assert store.get(job.id).figures == {"loss": float("inf"), "text": "\0"}
    assert store.submit("training", "pro\0ject \udc80")[0].id == job.id


def test_server_and_worker_may_make_the_file_at_the_same_moment(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Database.sqlite(tmp_path / "new.sqlite"), range(8)))
    assert {JobStore(one).submit("training", "3")[0].id for one in made} == {JobStore(made[0]).find()[0].id}


def test_server_and_worker_may_make_the_tables_at_the_same_moment(postgresql_server: postgresql.Server) -> None:
    url = postgresql_server.create("new")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: Database.postgresql(url), range(4)))
    assert {JobStore(one).submit("training", "3")[0].id for one in made} == {JobStore(made[0]).find()[0].id}
    for one in made:
        one.close()


@pytest.mark.parametrize("happens", ["removed", "replaced"])
def test_a_file_that_goes_while_it_is_open_takes_nothing_that_would_be_lost(tmp_path: Path, happens: str) -> None:
    """Its processes would go on with a file that has no name, and say that all is well."""
    database, path, kept = Database.sqlite(tmp_path / "a.sqlite"), tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    path.rename(kept)
    if happens == "replaced":
        shutil.copy(kept, path)
    for use in (database.check, lambda: database.change(lambda connection: connection.execute(text("select 1")))):
        with pytest.raises(DatabaseError, match=r"removed or replaced while it was open; stop every premask"):
            use()
    kept.rename(path)
    database.check()


def test_only_its_user_may_read_the_file(tmp_path: Path) -> None:
    Database.sqlite(tmp_path / "new.sqlite").change(add_note)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("new.sqlite*") if path.suffix != ".lock"} == {0}


def test_connections_are_kept_so_that_the_log_is_not_written_back_after_each_change(tmp_path: Path) -> None:
    database = Database.sqlite(tmp_path / "new.sqlite")
    database.change(add_note)
    assert (tmp_path / "new.sqlite-wal").stat().st_size > 0
    database.close()
    assert not (tmp_path / "new.sqlite-wal").exists()


# What can be wrong with it. Each is said in one sentence, with a remedy.


def a_folder(path: Path) -> None:
    path.mkdir()


def a_text(path: Path) -> None:
    path.write_text("no database at all, but long enough to be looked at" * 100)


def scribbled_over(path: Path) -> None:
    database = Database.sqlite(path)
    Leases(database).request("3", map(str, range(2000)))
    database.close()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"scribble" * 4000)


def cut_short(path: Path) -> None:
    database = Database.sqlite(path)
    Leases(database).request("3", map(str, range(2000)))
    database.close()
    os.truncate(path, path.stat().st_size // 2)


def of_a_newer_release(path: Path) -> None:
    Database.sqlite(path).change(lambda connection: connection.execute(NEWER))


def lacking_a_table(path: Path) -> None:
    Database.sqlite(path).change(lambda connection: connection.execute(text("drop table leases")))


def of_something_else(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table jobs (a)")


@pytest.mark.parametrize(
    ("spoil", "says", "remedy"),
    [
        (a_folder, "unable to open database file", "check the disk and who may write"),
        (a_text, "file is not a database", "restore a copy, or move it away"),
        (scribbled_over, "malformed", "restore a copy, or move it away"),
        (cut_short, "malformed", "restore a copy, or move it away"),
        (
            of_a_newer_release,
            f"of a newer release of premask: its revision is 0999, this one's {REVISION}",
            "update",
        ),
        (lacking_a_table, "is corrupt: it lacks the table 'leases'", "restore a copy"),
        (of_something_else, "has a table 'jobs' and no revision of premask", "an empty database of its own"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_in_a_sentence(
    tmp_path: Path, spoil: Callable[[Path], None], says: str, remedy: str
) -> None:
    path = tmp_path / "premask.sqlite"
    spoil(path)
    with pytest.raises(DatabaseError) as caught:
        Database.sqlite(path)
    assert str(path) in caught.value.cause
    assert says in caught.value.cause
    assert remedy in caught.value.remedy
    assert "\n" not in str(caught.value)


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who owns nothing; root may write anywhere."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_that_others_own_is_said_to_be_read_only() -> None:
    folder = Path(tempfile.mkdtemp(prefix="premask-", dir="/tmp"))
    try:
        path = folder / "premask.sqlite"
        Database.sqlite(path).close()
        path.chmod(0o444)
        folder.chmod(0o555)
        with nobody(), pytest.raises(DatabaseError, match=r"cannot be used: .*(Permission denied|readonly)") as caught:
            Database.sqlite(path)
        assert str(path) in caught.value.cause
        assert caught.value.remedy == "check the disk and who may write"
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("place", "kind", "error"),
    [
        ("file", DiskFull, sqlite3.OperationalError("database or disk is full")),
        ("server", DatabaseError, psycopg.errors.DiskFull("could not extend file: No space left on device")),
    ],
)
def test_a_database_whose_disk_is_full_asks_for_room(
    place: str, kind: type[DatabaseError], error: Exception, records: Database, postgresql_url: str
) -> None:
    """Of a file it is a job's own fault, perhaps; a PostgreSQL's is waited for."""

    def work(_: Connection) -> None:
        raise OperationalError("insert", {}, error)

    with pytest.raises(DatabaseError, match=f"{error}; make room on its disk") as caught:
        (records if place == "file" else Database.postgresql(postgresql_url)).change(work)
    assert type(caught.value) is kind


def test_a_postgresql_that_cannot_be_used_is_said_in_a_sentence_without_its_password(
    postgresql_server: postgresql.Server,
) -> None:
    server = postgresql_server
    url = server.create("standby")
    Database.postgresql(url).close()
    server.execute(f"create role {postgresql.GUARDED} login password 'right'", database="standby")
    newer = server.create("newer")
    other = Database.postgresql(newer)
    other.change(lambda connection: connection.execute(NEWER))
    other.close()
    server.execute("create database latin template template0 encoding 'LATIN1' locale 'C'")
    server.execute("alter database standby set default_transaction_read_only = on")
    closed = server.create("closed")
    server.execute("create role crowded login connection limit 0")
    server.execute("create role other login", "revoke create on schema public from public", database="closed")
    cases = {
        "postgresql://u:s3cret@127.0.0.1:1/premask": "refused",
        server.url("standby", postgresql.GUARDED, "s3cret"): "password authentication failed",
        server.url("missing"): 'database "missing" does not exist',
        url: "cannot be written to: it is read-only",
        newer: "of a newer release of premask: its revision is 0999",
        server.url("closed", "crowded"): "too many connections",
        server.url("latin"): "has the encoding LATIN1",
        closed.replace("postgres@", "other@"): "permission denied",
        "postgresql://u:s3cret@127.0.0.1:1/premask?sslmode=perhaps": "perhaps",
        "postgresql://u:s3cret@host/premask?colour=red": "cannot be read",
    }
    for address, says in cases.items():
        with pytest.raises(DatabaseError) as caught:
            Database.postgresql(address)
        assert says in caught.value.cause, address
        assert ("max_connections" in caught.value.remedy) == (says == "too many connections")
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_clocks_that_differ_are_seen(records: Database, monkeypatch: pytest.MonkeyPatch, postgresql_url: str) -> None:
    assert records.skew() == 0
    database = Database.postgresql(postgresql_url)
    assert abs(database.skew()) < 30  # both are this machine's; it may be busy
    monkeypatch.setattr("backend.database.engine.time.time", lambda: 0.0)
    assert database.skew() > 1e9
    database.close()


def test_all_machines_go_by_the_databases_clock(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of one is minutes ahead: it takes no live worker for dead, and no lease for expired."""
    here = Database.postgresql(postgresql_url)
    Leases(here).request("1", ["1"])
    assert Leases(here).acquire_due("1", "job", 9, 100) == ["1"]
    real = time.time
    monkeypatch.setattr("backend.database.engine.time.time", lambda: real() + 200)
    there = Database.postgresql(postgresql_url)
    assert abs(there.time() - real()) < 30
    assert Leases(there).due() == []
    assert Leases(there).acquire_due("1", "other", 9, 100) == []
    job, _ = JobStore(there).submit("training", "1")
    assert abs(job.created - real()) < 30
    for database in (here, there):
        database.close()


def test_a_machine_that_vanishes_keeps_nobody_waiting(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was in the middle of a transaction: its locks go with it, before those who wait for them give up."""
    monkeypatch.setattr(engine, "IDLE_SECONDS", 1)
    assert engine.IDLE_SECONDS < engine.LOCK_SECONDS
    gone, here = Database.postgresql(postgresql_url), Database.postgresql(postgresql_url)

    def vanish(connection: Connection) -> None:
        Leases(here).request("2", ["1"])  # of another project, which is locked by nobody
        connection.execute(update(LEASES).values(holder="gone"))
        began = time.monotonic()
        Leases(here).request("1", ["1"])
        assert 0.5 < time.monotonic() - began < engine.LOCK_SECONDS / 2

    Leases(here).request("1", ["1"])
    with pytest.raises(DatabaseError, match="idle-in-transaction"):
        gone.change(vanish)
    assert Leases(here).acquire_due("1", "job", 9, 60) == ["1"]
    with here.alone():
        time.sleep(1.5)  # looks into the store, whose answer takes a while
    for database in (gone, here):
        assert conninfo_to_dict(database.dsn or "")["tcp_user_timeout"] == "25000"  # for the queues, too
        database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_process_beside_which_another_release_was_started_says_so(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A rolling update: what goes on with the older release meets tables that it does not know."""
    if kind == "sqlite":
        older = Database.sqlite(tmp_path / "premask.sqlite")
    else:
        older = Database.postgresql(request.getfixturevalue("postgresql_server").create("rolling"))
    checks.revision(older)
    older.change(lambda connection: (connection.execute(NEWER), connection.exec_driver_sql("drop table notes")))
    asked: list[Callable[[], object]] = [older.check, lambda: older.change(add_note)]
    for ask in asked:
        with pytest.raises(DatabaseError) as caught:
            ask()
        assert caught.value.remedy.startswith("another release has changed its tables: stop this process")
    found = checks.check("database", lambda: checks.revision(older))
    assert found.state == checks.BROKEN
    assert "has the revision 0999, and this release's is" in found.found
    older.close()
