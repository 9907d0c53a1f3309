"""From a data folder's SQLite file into a PostgreSQL: all of it or nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from filelock import FileLock
from sqlalchemy import insert, select

from backend.cli import cli
from backend.database.copying import copy_database
from backend.database.credentials import Credentials
from backend.database.engine import Database
from backend.database.jobs import JobStore
from backend.database.leases import COUNTED, Leases
from backend.database.notes import Notes
from backend.database.opening import FILE
from backend.database.reviews import Doubt, Reviews
from backend.database.shares import Shares
from backend.database.tables import METADATA, NOTES
from backend.database.vault import KEY_FILE, Vault
from backend.errors import DatabaseError
from backend.versions.machines import meet
from backend.versions.opening import bind
from backend.versions.registry import Registry
from backend.versions.store import Store
from tests.backend.fakes import publish

MANY = COUNTED + 500


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database in use until a moment ago: rows in every table, a job half done, a clock ahead of all others."""
    path = tmp_path / FILE
    database = Database.sqlite(path)
    store, leases = JobStore(database), Leases(database)
    training, _ = store.submit("training", "3")
    store.claim(training.id, "host/1:1")
    store.advance(store.get(training.id), figures={"loss": float("nan")}, message="Gr\u00f6\u00dfe \ud800")
    for number in range(5):
        store.log(training.id, f"line {number}")
    leases.request("3", map(str, range(MANY)))
    job, _ = store.submit("prediction", "3")
    shares = Shares(database, leases)
    shares.take("host/1:1")
    taken = leases.acquire_due("3", f"{job.id}/host/1:1", 32, 600)
    shares.finish(job.id, "host/1:1", "3", taken[:10], "predicted")
    Notes(database).learn("3", {"1": "8,9"})
    database.change(lambda connection: connection.execute(insert(NOTES).values(project="3", since=1.0, at=2.0)))
    Credentials(database, Vault(tmp_path)).remember("3", "http://label-studio:8080", "token-of-three")
    store_of = Store(tmp_path / "models")
    bind(database, store_of, FileLock(tmp_path / "models.lock"))
    meet(database, store_of)
    registry = Registry(database, store_of)
    for _ in range(2):
        registry.promote("3", publish(registry, tmp_path))
    Reviews(database).replace("3", [Doubt("1", "8", "", "Lumen", "missed", 0.9, "it is there", "v1", False)])
    database.close()
    return path


@pytest.fixture
def target(postgresql_url: str) -> Iterator[Database]:
    database = Database.postgresql(postgresql_url)
    yield database
    database.close()


def rows(database: Database) -> dict[str, list[str]]:
    """All rows as text, by table: a figure that is no number is like no other."""

    def work(connection: Any) -> dict[str, list[str]]:
        return {
            table.name: sorted(str(tuple(row)) for row in connection.execute(select(table)))
            for table in METADATA.sorted_tables
        }

    return database.read(work)


def test_every_row_is_there_afterwards_and_all_goes_on(path: Path, target: Database, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    counts = copy_database(path, target, lambda *arguments: told.append(arguments))
    source = Database.sqlite(path)
    there = rows(source)
    assert rows(target) == there
    assert counts == {table: len(some) for table, some in there.items()}
    assert min(counts.values()) > 0, counts  # the test leaves out no table
    assert ("leases", MANY - 10, MANY - 10) in told
    store, leases = JobStore(target), Leases(target)
    training = store.find("3", kind="training")[0]
    store.log(training.id, "line 5")  # its number follows those that were copied
    assert [line.split(" ", 1)[1] for line in store.log_tail(training.id)] == [f"line {number}" for number in range(6)]
    assert store.submit("training", "3") == (training, False)
    assert leases.remaining("3", "other")[0] == MANY - 32
    assert Credentials(target, Vault(tmp_path)).of("3").api_key.get_secret_value() == "token-of-three"
    bind(target, Store(tmp_path / "models"), FileLock(tmp_path / "models.lock"))  # the same store
    registry = Registry(target, Store(tmp_path / "models"))
    served = registry.current("3")
    assert served is not None
    assert registry.names("3")[-1] != registry.reserve("3")
    assert registry.rollback("3") is not None
    source.close()


def test_a_target_with_rows_is_refused_and_left_as_it_is(path: Path, target: Database) -> None:
    target.change(lambda connection: connection.execute(insert(NOTES).values(project="9", since=1.0, at=2.0)))
    before = rows(target)
    with pytest.raises(DatabaseError, match="has rows already, in notes"):
        copy_database(path, target)
    assert rows(target) == before


def test_a_file_that_a_server_or_worker_has_open_is_refused(path: Path, target: Database) -> None:
    """However idle it is."""
    code = "import sys; from pathlib import Path; from backend.database.engine import Database; "
    code += "kept = Database.sqlite(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"open\n"
        with pytest.raises(DatabaseError, match="is in use; stop every `premask serve`"):
            copy_database(path, target)
        assert server.stdin is not None
        server.stdin.close()
    assert not any(rows(target).values())
    copy_database(path, target)


def test_nobody_opens_the_file_while_it_is_copied(path: Path, target: Database, monkeypatch: Any) -> None:
    monkeypatch.setattr("backend.database.engine.LOCK_SECONDS", 0)
    refused: list[str] = []

    def opens(*_: Any) -> None:
        with pytest.raises(DatabaseError) as caught:
            Database.sqlite(path)
        refused.append(caught.value.cause)

    copy_database(path, target, opens)
    assert refused
    assert all("locked" in one for one in refused)
    Database.sqlite(path).close()


def test_what_breaks_off_leaves_the_target_empty(path: Path, target: Database) -> None:
    """In the middle, after most tables."""

    def breaks(table: str, done: int, total: int) -> None:
        if table == METADATA.sorted_tables[-1].name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy_database(path, target, breaks)
    assert not any(rows(target).values())
    assert sum(copy_database(path, target).values()) > MANY


def test_rows_that_are_not_all_there_are_not_taken_for_a_copy(path: Path, target: Database) -> None:
    """Such as by a trigger, or a rule, of the database."""
    quietly = "create rule loses as on insert to leases where new.number = 77 do instead nothing"
    target.change(lambda connection: connection.exec_driver_sql(quietly))
    try:
        with pytest.raises(DatabaseError, match=f"{MANY - 11} of {MANY - 10} rows of leases were copied"):
            copy_database(path, target)
    finally:
        target.change(lambda connection: connection.exec_driver_sql("drop rule loses on leases"))
    assert not any(rows(target).values())


def test_a_file_that_is_none_is_a_sentence(target: Database, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="there is no database"):
        copy_database(tmp_path / FILE, target)
    (tmp_path / FILE).write_text("no database at all" * 1000)
    with pytest.raises(DatabaseError, match="file is not a database"):
        copy_database(tmp_path / FILE, target)


def test_the_command_copies_and_says_what_other_machines_need(
    path: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREMASK_DATA_DIR", str(tmp_path))
    command = ["database", "copy", "--to", postgresql_url, "--json", str(tmp_path / "copied.json")]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    copied = json.loads((tmp_path / "copied.json").read_text())
    assert copied["rows"]["leases"] == MANY - 10
    assert f"{sum(copied['rows'].values())} rows of {path} are in the database shared at" in done.output
    assert str(tmp_path / KEY_FILE) in done.output
    with pytest.raises(DatabaseError, match="has rows already"):
        CliRunner().invoke(cli, command, catch_exceptions=False)
