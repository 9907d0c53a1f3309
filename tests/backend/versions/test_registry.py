import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from backend.database.tables import VERSIONS
from backend.errors import DatabaseError, JobInterrupted, RegistryError, StoreError
from backend.versions import registry as module
from backend.versions.registry import STARTER, Registry
from backend.versions.store import Store
from models.errors import CheckpointError
from tests.backend.conftest import BOTH_STORAGES, BOTH_STORES
from tests.backend.fakes import publish, write_checkpoint

pytestmark = BOTH_STORAGES


def test_versions_are_named_after_project_number_and_backbone(registry, tmp_path):
    assert publish(registry, tmp_path) == "p3-r001-lite0"
    assert registry.reserve("3", "legacy_xception") == "p3-r002-xception"
    assert registry.reserve("3", "efficientnet_b5") == "p3-r003-b5"
    assert registry.reserve("12") == "p12-r001"


def test_a_published_version_is_a_candidate_until_it_is_promoted(registry, tmp_path):
    version = publish(registry, tmp_path)
    assert registry.current("3") is None
    assert [info.state for info in registry.versions("3")] == ["candidate"]
    registry.promote("3", version)
    assert registry.current("3").version == version
    assert registry.current("3").card.classes == ["Lumen", "Fibrous cap"]


def test_rolling_back_goes_through_what_was_served_to_the_starter(registry, tmp_path):
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", first)
    registry.promote("3", second)
    assert registry.rollback("3").version == first
    assert [info.state for info in registry.versions("3")] == ["served", "retired"]
    assert registry.rollback("3") is None
    assert registry.current("3") is None
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        registry.rollback("3")


def test_rolling_back_skips_versions_that_were_removed(records, tmp_path):
    registry = Registry(records, Store(tmp_path / "models"), keep=1)
    names = []
    for _ in range(4):
        names.append(publish(registry, tmp_path))
        registry.promote("3", names[-1])
    assert registry.names("3") == names[1:]
    assert [registry.rollback("3").version for _ in range(2)] == [names[2], names[1]]
    assert registry.rollback("3") is None


def test_a_number_is_never_given_twice(registry, tmp_path):
    registry.reserve("3")  # a training that came to nothing
    version = publish(registry, tmp_path)
    assert version.startswith("p3-r002")
    registry.give_back("3", version)
    assert registry.reserve("3") == "p3-r003"


def test_a_name_never_means_two_sets_of_weights(records, tmp_path):
    """Not even after the version was removed: predictions in Label Studio carry the name for ever."""
    registry = Registry(records, Store(tmp_path / "models"), keep=1)
    first = publish(registry, tmp_path)
    publish(registry, tmp_path)
    assert first not in registry.names("3")
    with pytest.raises(RegistryError, match=f"{first} was published before and removed"):
        registry.publish("3", tmp_path / first)


def test_of_two_that_publish_one_name_at_once_one_does(registry, tmp_path):
    """Each puts its files at a place of its own, so neither changes what the other has put."""
    name = registry.reserve("3")
    folders = [write_checkpoint(tmp_path / str(number) / name, name) for number in range(2)]
    for number, folder in enumerate(folders):
        (folder / "classifier.safetensors").write_bytes(b"weights of %d" % number)
    both = threading.Barrier(2)

    def publish_one(folder: Path) -> bytes | str:
        try:
            info = registry.publish("3", folder, lambda _: None if both.broken else both.abort())
        except RegistryError as error:
            return str(error)
        return info.read("classifier.safetensors")

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(publish_one, folders))
    (done,) = (end for end in ends if isinstance(end, bytes))
    (refused,) = (end for end in ends if isinstance(end, str))
    assert "published already" in refused
    assert registry.version("3", name).read("classifier.safetensors") == done
    assert (registry.version("3", name).directory / "classifier.safetensors").read_bytes() == done


def test_publishing_that_stops_half_way_leaves_no_version(registry, tmp_path, monkeypatch):
    name = registry.reserve("3")
    checkpoint = write_checkpoint(tmp_path / name, name)

    def cut_short(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", cut_short)
        with pytest.raises(RegistryError, match="No space left"):
            registry.publish("3", checkpoint)
    assert registry.versions("3") == []
    assert registry.publish("3", checkpoint).version == name


@BOTH_STORES
def test_what_a_killed_publisher_left_is_ignored_and_removed_some_hours_later(registry, tmp_path, monkeypatch):
    first = publish(registry, tmp_path)
    leftover = registry.store.new_place("3", "p3-r009-lite0")
    registry.store.put(write_checkpoint(tmp_path / "killed", "p3-r009-lite0"), leftover)
    assert registry.names("3") == [first]
    publish(registry, tmp_path)
    assert leftover in registry.store.places("3")  # it may be publishing now
    monkeypatch.setattr(module, "GARBAGE_SECONDS", -100.0)
    publish(registry, tmp_path)
    assert leftover not in registry.store.places("3")
    assert len(registry.store.places("3")) == len(registry.names("3")) == 3
    assert all(info.read("card.json") for info in registry.versions("3"))


@BOTH_STORES
def test_a_project_in_which_nothing_is_published_any_more_is_swept_after_a_week(registry, tmp_path, monkeypatch):
    kept = publish(registry, tmp_path)
    leftover = registry.store.new_place("7", "p7-r001-lite0")
    registry.store.put(write_checkpoint(tmp_path / "killed", "p7-r001-lite0"), leftover)
    registry.sweep()
    assert registry.store.places("7") == [leftover]  # the database may be the wrong one, and somebody may notice
    monkeypatch.setattr(module, "SWEPT_SECONDS", -100.0)
    registry.sweep()
    assert registry.store.places("7") == []
    assert registry.version("3", kept).read("card.json")


def test_what_people_keep_beside_the_versions_is_left_alone(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GARBAGE_SECONDS", -100.0)
    publish(registry, tmp_path)
    kept = ["p3-r001-lite0.bak", "p3-r001-lite0 (copy)", "notes", "p3-r001-lite0", "p3-r001-lite0.old-weights"]
    for name in kept:
        (tmp_path / "models" / "project-3" / name).mkdir()
    publish(registry, tmp_path)
    assert {f"project-3/{name}" for name in kept} <= set(registry.store.places("3"))


def test_a_publication_that_takes_so_long_that_its_files_may_be_collected_gives_up(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PUBLISH_SECONDS", -1.0)
    with pytest.raises(RegistryError, match="took too long"):
        publish(registry, tmp_path)
    assert registry.names("3") == []


def test_files_that_cannot_be_removed_now_are_removed_later(records, tmp_path, monkeypatch):
    registry = Registry(records, Store(tmp_path / "models"), keep=1)
    publish(registry, tmp_path)

    def fails(self, place):
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", fails)
        publish(registry, tmp_path)
    assert (len(registry.names("3")), len(registry.store.places("3"))) == (1, 2)
    publish(registry, tmp_path)
    assert (len(registry.names("3")), len(registry.store.places("3"))) == (1, 1)


def test_a_fence_that_does_not_let_pass_leaves_no_version(registry, tmp_path):
    name = registry.reserve("3")
    checkpoint = write_checkpoint(tmp_path / name, name)

    def refuse(connection):
        raise JobInterrupted("another worker took it")

    with pytest.raises(JobInterrupted):
        registry.publish("3", checkpoint, refuse)
    assert registry.names("3") == []
    registry.publish("3", checkpoint)
    with pytest.raises(JobInterrupted):
        registry.promote("3", name, refuse)
    assert registry.current("3") is None


def test_at_most_one_version_of_a_project_is_served(registry, records, tmp_path):
    """The database itself sees to it."""
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", first)
    second_too = update(VERSIONS).where(VERSIONS.c.name == second).values(state="served")
    with pytest.raises(DatabaseError):
        records.change(lambda connection: connection.execute(second_too))
    assert registry.served() == {"3": first}


def test_promotions_at_the_same_moment_leave_one_version_served_and_the_way_back(registry, tmp_path):
    names = [publish(registry, tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: registry.promote("3", name), names))
    served = [registry.current("3").version]
    while (before := registry.rollback("3")) is not None:
        served.append(before.version)
    assert sorted(served) == names


def test_a_version_is_never_overwritten(registry, tmp_path):
    version = publish(registry, tmp_path)
    with pytest.raises(RegistryError, match="published already"):
        registry.publish("3", tmp_path / version)


def test_only_checkpoints_named_for_the_project_are_published(registry, tmp_path):
    with pytest.raises(RegistryError, match="no version of project 3"):
        registry.publish("3", write_checkpoint(tmp_path / "x", "p4-r001"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        registry.publish("3", tmp_path / "empty")


def test_an_unknown_version_is_answered_with_those_there_are(registry, tmp_path):
    version = publish(registry, tmp_path)
    with pytest.raises(RegistryError, match=version):
        registry.promote("3", "p3-r099")


def test_a_project_id_cannot_lead_out_of_the_folder(registry):
    for project in ("../x", "", "a/b", ".."):
        with pytest.raises(RegistryError, match="no project id"):
            registry.versions(project)


def test_two_writers_never_get_the_same_number(registry):
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(lambda: [registry.reserve("3") for _ in range(20)]) for _ in range(2)]
    assert len({name for writer in writers for name in writer.result()}) == 40


def test_publishing_keeps_the_newest_the_served_and_the_one_before_it(records, tmp_path):
    registry = Registry(records, Store(tmp_path / "models"), keep=2)
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", first)
    registry.promote("3", second)
    candidates = [publish(registry, tmp_path) for _ in range(4)]
    assert [info.version for info in registry.versions("3")] == [first, second, *candidates[-2:]]
    assert registry.rollback("3").version == first
    last = publish(registry, tmp_path)
    assert [info.version for info in registry.versions("3")] == [first, candidates[-1], last]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep=st.integers(1, 3), acts=st.lists(st.sampled_from(["publish", "promote oldest", "promote newest", "rollback"]))
)
def test_whatever_is_done_rolling_back_does_what_was_announced(records, tmp_path_factory, keep, acts):
    """Neither the served version nor the one that rolling back returns to is ever removed."""
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(records, Store(folder / "models"), keep)
    project = folder.name.replace("registry", "p")
    for act in acts:
        before = [info.version for info in registry.versions(project)]
        target = registry.rollback_target(project)
        if act == "publish":
            published = publish(registry, folder, project)
            kept = [info.version for info in registry.versions(project)]
            assert kept[-keep:] == [*before, published][-keep:]
            assert len(kept) <= keep + 2
            assert registry.rollback_target(project) == target
        elif act == "rollback":
            if target is None:
                with pytest.raises(RegistryError, match="nothing to roll back to"):
                    registry.rollback(project)
            else:
                served = registry.rollback(project)
                assert (STARTER if served is None else served.version) == target
        elif before:
            registry.promote(project, before[0 if act == "promote oldest" else -1])
        current = registry.current(project)
        assert current is None or current.card.name == current.version


def test_rolling_back_never_returns_to_what_is_served_already(records, tmp_path):
    registry = Registry(records, Store(tmp_path / "models"), keep=1)
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    assert registry.names("3") == [second]
    third = publish(registry, tmp_path)
    registry.promote("3", third)
    assert registry.rollback_target("3") == STARTER
    assert registry.rollback("3") is None
    assert first != second


def test_a_version_tells_its_files_size_and_parent(registry, tmp_path):
    info = registry.version("3", publish(registry, tmp_path))
    assert sorted(info.files) == ["card.json", "classifier.safetensors"]
    assert info.size == sum((info.directory / name).stat().st_size for name in info.files)
    assert (info.parent, info.published > 0) == (None, True)
    with pytest.raises(RegistryError, match="has no file"):
        info.read("../../premask-store-id")


def test_what_waits_to_be_promoted_is_the_newest_version_that_draws_a_class(registry, tmp_path):
    assert registry.waiting("3", ["Lumen"]) is None
    first = publish(registry, tmp_path)
    second = publish(registry, tmp_path)
    assert registry.waiting("3", ["Lumen"]).version == second
    registry.promote("3", second)
    assert registry.waiting("3", ["Lumen"]).version == first
    assert registry.waiting("3", ["Rust"]) is None
