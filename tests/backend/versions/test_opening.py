"""A database and a store that belong together, and those that do not."""

import json
import logging
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from backend.database.engine import Database
from backend.errors import BackendError, ServeError, StoreError
from backend.settings import Settings
from backend.versions import opening
from backend.versions.opening import bind, identity_of, open_registry
from backend.versions.registry import STARTER, Registry
from backend.versions.store import IDENTITY, Store
from backend.wiring import assemble
from tests.backend.conftest import BOTH_STORAGES, BOTH_STORES
from tests.backend.fakes import publish, write_checkpoint

STATE = {
    "current": "p3-r003-lite0",
    "history": [None, "p3-r001-lite0", "p3-r002-lite0"],
    "ever_served": ["p3-r001-lite0", "p3-r002-lite0", "p3-r003-lite0"],
    "last_number": 7,
}


def settings(folder: Path, **more: str) -> Settings:
    return Settings.from_environ({"PREMASK_DATA_DIR": str(folder), **more})


@pytest.fixture
def lock(tmp_path: Path) -> FileLock:
    return FileLock(tmp_path / "models.lock")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The models of an earlier release: project 3 has served three, project 4 has a candidate."""
    root = tmp_path / "models"
    for project, numbers in (("3", (1, 2, 3, 4)), ("4", (1,))):
        for number in numbers:
            name = f"p{project}-r{number:03d}-lite0"
            write_checkpoint(root / f"project-{project}" / name, name)
    (root / "project-3" / "p3-r003-lite0" / "runtime").mkdir()
    (root / "project-3" / "p3-r003-lite0" / "runtime" / "converted.bin").write_bytes(b"of this machine")
    (root / "project-3" / "served.json").write_text(json.dumps(STATE))
    (root / "project-4" / "served.json").write_text(json.dumps({"last_number": 1}))
    return root


def test_how_many_are_kept_is_a_setting(tmp_path):
    registry = assemble(settings(tmp_path, PREMASK_KEEP_VERSIONS="1")).registry
    versions = [publish(registry, tmp_path) for _ in range(3)]
    assert [info.version for info in registry.versions("3")] == versions[-1:]


@BOTH_STORAGES
def test_an_earlier_releases_folder_is_carried_over(earlier, records, lock):
    store = Store(earlier)
    bind(records, store, lock)
    registry = Registry(records, store)
    assert registry.projects() == ["3", "4"]
    assert [(info.version, info.state) for info in registry.versions("3")] == [
        ("p3-r001-lite0", "retired"),
        ("p3-r002-lite0", "retired"),
        ("p3-r003-lite0", "served"),
        ("p3-r004-lite0", "candidate"),
    ]
    current = registry.current("3")
    assert current.directory == earlier / "project-3" / "p3-r003-lite0"
    assert sorted(current.files) == ["card.json", "classifier.safetensors"]
    assert registry.reserve("3") == "p3-r008"
    assert registry.reserve("4") == "p4-r002"
    back = [registry.rollback("3").version, registry.rollback("3").version, registry.rollback_target("3")]
    assert back == ["p3-r002-lite0", "p3-r001-lite0", STARTER]
    assert registry.rollback("3") is None
    assert (earlier / "project-3" / "served.json.carried-over").exists()
    # Nothing was copied.
    assert sorted(path.name for path in (earlier / "project-3").iterdir()) == [
        "p3-r001-lite0",
        "p3-r002-lite0",
        "p3-r003-lite0",
        "p3-r004-lite0",
        "served.json.carried-over",
    ]


def test_it_is_carried_over_once(earlier, records, lock):
    store = Store(earlier)
    bind(records, store, lock)
    registry = Registry(records, store)
    registry.rollback("3")
    (earlier / "project-3" / "served.json").write_text(json.dumps(STATE))
    bind(records, store, lock)
    assert registry.current("3").version == "p3-r002-lite0"


@pytest.mark.parametrize("moment", ["identify", "_put_state_away"])
def test_a_kill_while_it_is_carried_over_loses_nothing(earlier, records, lock, monkeypatch, moment):
    store = Store(earlier)
    with monkeypatch.context() as patch:
        owner: Any = Store if moment == "identify" else opening
        patch.setattr(owner, moment, lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bind(records, store, lock)
    bind(records, store, lock)
    assert Registry(records, store).current("3").version == "p3-r003-lite0"
    assert Registry(records, store).rollback_target("3") == "p3-r002-lite0"
    assert identity_of(records) == (store.identity(), True)


@pytest.mark.parametrize("text", ["{", "[]", '{"current": 5}', '{"current": "../../starter"}', "\xff", "[" * 100_000])
def test_a_damaged_served_json_costs_its_project_what_is_served_and_says_so(earlier, records, lock, caplog, text):
    (earlier / "project-3" / "served.json").write_text(text, encoding="latin-1")
    bind(records, Store(earlier), lock)
    registry = Registry(records, Store(earlier))
    assert {info.state for info in registry.versions("3")} == {"candidate"}
    assert registry.reserve("3") == "p3-r005"
    assert registry.names("4") == ["p4-r001-lite0"]
    assert "served.json is damaged" in caplog.text
    assert "before a version is promoted" in caplog.text


def test_a_damaged_card_costs_one_version_and_the_one_before_it_is_served(earlier, records, lock, caplog):
    (earlier / "project-3" / "p3-r003-lite0" / "card.json").write_text("{")
    bind(records, Store(earlier), lock)
    registry = Registry(records, Store(earlier))
    assert registry.current("3").version == "p3-r002-lite0"
    assert registry.rollback_target("3") == "p3-r001-lite0"
    assert "p3-r003-lite0, which was served, cannot be read" in caplog.text
    assert (earlier / "project-3" / "p3-r003-lite0").exists()


@pytest.mark.parametrize("name", ["p3-r001-lite0.bak", "p3-r001", "p3-r999-lite0", "p3-r001-lite0 (copy)"])
def test_a_copy_of_a_version_is_not_carried_over(earlier, records, lock, name):
    shutil.copytree(earlier / "project-3" / "p3-r001-lite0", earlier / "project-3" / name)
    bind(records, Store(earlier), lock)
    assert Registry(records, Store(earlier)).names("3") == [f"p3-r00{number}-lite0" for number in (1, 2, 3, 4)]
    assert Registry(records, Store(earlier)).reserve("3") == "p3-r008"


@pytest.mark.parametrize("name", ["project-3.bak", "project-", "project-\u0663", "project-..", "x"])
def test_a_foreign_folder_beside_the_projects_is_passed_over(earlier, records, lock, name):
    shutil.copytree(earlier / "project-3", earlier / name)
    (earlier / "a-file").write_text("notes")
    bind(records, Store(earlier), lock)
    assert Registry(records, Store(earlier)).projects() == ["3", "4"]


def test_versions_of_an_earlier_release_are_not_left_behind_by_another_store(earlier, tmp_path):
    with pytest.raises(ServeError, match="has versions of an earlier release") as caught:
        assemble(settings(tmp_path, PREMASK_MODELS_URL=str(tmp_path / "elsewhere")))
    assert "start once without PREMASK_MODELS_URL" in caught.value.remedy
    assemble(settings(tmp_path)).database.close()
    shutil.copytree(earlier, tmp_path / "elsewhere")
    moved = assemble(settings(tmp_path, PREMASK_MODELS_URL=str(tmp_path / "elsewhere"))).registry
    assert moved.current("3").directory == tmp_path / "elsewhere" / "project-3" / "p3-r003-lite0"


@BOTH_STORES
def test_a_store_of_another_database_is_refused(records, versions_store, lock, tmp_path):
    bind(records, versions_store, lock)
    other = Database.sqlite(tmp_path / "other.sqlite")
    with pytest.raises(StoreError, match="belongs to another database") as caught:
        bind(other, versions_store, lock)
    assert IDENTITY in caught.value.remedy
    bind(records, versions_store, lock)


@BOTH_STORES
def test_another_store_of_a_database_is_refused(records, versions_store, lock, tmp_path):
    """The split brain: servers that share what is known and each serve files of their own."""
    bind(records, versions_store, lock)
    with pytest.raises(StoreError, match="has no identity") as caught:
        bind(records, Store(tmp_path / "another"), lock)
    assert "the same PREMASK_MODELS_URL" in caught.value.remedy
    Store(tmp_path / "third").identify("0123")
    with pytest.raises(StoreError, match="has the identity 0123"):
        bind(records, Store(tmp_path / "third"), lock)


@BOTH_STORAGES
def test_of_machines_that_meet_a_new_database_at_once_with_stores_of_their_own_one_starts(records, tmp_path):
    both = threading.Barrier(2)
    refused: list[str] = []

    def start(name: str) -> None:
        both.wait()
        try:
            bind(records, Store(tmp_path / name), FileLock(tmp_path / "models.lock"))
        except BackendError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=start, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (why,) = refused
    assert "has no identity" in why


@BOTH_STORES
def test_a_lost_databases_versions_are_taken_over_once_the_identity_is_removed(
    records, versions_store, lock, tmp_path, caplog
):
    bind(records, versions_store, lock)
    registry = Registry(records, versions_store)
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", second)
    half = versions_store.new_place("3", "p3-r009-lite0")
    versions_store.put(write_checkpoint(tmp_path / "half", "p3-r009-lite0"), half)
    weights = {"classifier.safetensors": "0" * 64, "refiner.safetensors": "0" * 64}
    card = json.loads(versions_store.read(half, "card.json"))
    versions_store.note(f"{half}/card.json", json.dumps(card | {"weights": weights}))
    versions_store.unnote(IDENTITY)
    new = Database.sqlite(tmp_path / "new.sqlite")
    with caplog.at_level(logging.INFO):
        bind(new, versions_store, lock)
    assert "2 versions were taken over" in caplog.text
    assert "not complete" in caplog.text
    again = Registry(new, versions_store)
    assert [(info.version, info.state) for info in again.versions("3")] == [(first, "candidate"), (second, "candidate")]
    assert again.reserve("3") == "p3-r003"
    assert again.promote("3", first).read("card.json")


def test_two_starts_leave_the_same_registry(tmp_path):
    one = assemble(settings(tmp_path))
    one.registry.promote("3", version := publish(one.registry, tmp_path / "made"))
    two = open_registry(settings(tmp_path), one.database)
    assert two.current("3").version == version
