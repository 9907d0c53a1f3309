"""What machines find out about each other: who shares the database, who the store."""

import logging
import shutil

import pytest
from filelock import FileLock

from backend.database.engine import Database
from backend.database.tables import MACHINES
from backend.diagnosis import checks
from backend.settings import Settings
from backend.versions import machines
from backend.versions.machines import Meeting, meet, met
from backend.versions.opening import bind
from backend.versions.store import Store
from backend.wiring import assemble
from tests.backend.conftest import BOTH_STORAGES, BOTH_STORES


@BOTH_STORES
@BOTH_STORAGES
def test_machines_that_share_both_see_each_other(records, versions_store):
    for name in ("a", "b", "b", "c"):
        meet(records, versions_store, name)
    assert met(records, versions_store, "a") == Meeting(("b", "c"), (), ())


def test_a_machine_with_a_copy_of_the_store_is_named(records, tmp_path):
    """A copy has the same identity; what is written into it later is missing in the other."""
    meet(records, Store(tmp_path / "models"), "a")
    shutil.copytree(tmp_path / "models", tmp_path / "copy")
    meet(records, Store(tmp_path / "copy"), "b")
    assert met(records, Store(tmp_path / "models"), "a").other_store == ("b",)


def test_a_machine_with_another_database_is_named(records, tmp_path):
    store, other = Store(tmp_path / "models"), Database.sqlite(tmp_path / "other.sqlite")
    meet(records, store, "a")
    meet(other, store, "b")
    assert met(records, store, "a").other_database == ("b",)
    assert met(other, store, "b").other_database == ("a",)


def test_a_machine_that_is_gone_is_forgotten(records, tmp_path, monkeypatch):
    store = Store(tmp_path / "models")
    meet(records, store, "a")
    monkeypatch.setattr(machines, "SEEN_SECONDS", -100.0)
    meet(records, store, "b")
    monkeypatch.undo()
    assert met(records, store, "c") == Meeting(("b",), (), ())
    assert store.notes(machines.NOTES) == ["premask-machines/b"]


@pytest.fixture
def bound(records, tmp_path, lock) -> Store:
    store = Store(tmp_path / "models")
    bind(records, store, lock)
    return store


@pytest.fixture
def lock(tmp_path):
    return FileLock(tmp_path / "lock")


def test_doctor_names_what_is_not_shared(records, bound, tmp_path):
    def look(store: Store) -> checks.Check:
        return checks.check("store of versions", lambda: checks.store(records, store))

    meet(records, bound)
    assert (look(bound).state, "identity" in look(bound).found) == ("ok", True)
    meet(records, Store(tmp_path / "elsewhere"), "other-machine")
    found = look(bound)
    assert (found.state, "other-machine use this database and another store" in found.found) == ("broken", True)
    assert "PREMASK_MODELS_URL" in found.remedy
    apart = look(Store(tmp_path / "elsewhere"))
    assert (apart.state, "is not the one" in apart.found) == ("broken", True)
    meet(Database.sqlite(tmp_path / "other.sqlite"), bound, "third")
    meet(records, bound, "other-machine")
    records.change(lambda c: c.execute(MACHINES.delete().where(MACHINES.c.name == "other-machine")))
    bound.unnote("premask-machines/other-machine")
    found = look(bound)
    assert "third use the store" in found.found
    assert "PREMASK_DATABASE_URL" in found.remedy


def test_a_start_warns_of_what_is_not_shared_and_of_a_clock(tmp_path, caplog, monkeypatch):
    settings = Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path / "data")})
    first = assemble(settings)
    meet(first.database, Store(tmp_path / "elsewhere"), "other-machine")
    monkeypatch.setattr("backend.database.engine.Database.skew", lambda database: -9.0)
    with caplog.at_level(logging.WARNING):
        assemble(settings)
    assert "other-machine use another store of versions" in caplog.text
    assert "differs from this machine's by 9 s" in caplog.text
