import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import RegistryError
from backend.settings import Settings
from backend.versions.registry import STARTER, Registry
from backend.wiring import assemble
from models.errors import CheckpointError
from tests.backend.fakes import publish, write_checkpoint


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


def test_rolling_back_skips_versions_that_were_deleted(registry, tmp_path):
    names = [publish(registry, tmp_path) for _ in range(3)]
    for name in names:
        registry.promote("3", name)
    shutil.rmtree(registry.version("3", names[1]).directory)
    assert registry.rollback("3").version == names[0]


def test_a_number_is_never_given_twice(registry, tmp_path):
    registry.reserve("3")  # a training that came to nothing
    version = publish(registry, tmp_path)
    assert version.startswith("p3-r002")
    shutil.rmtree(registry.version("3", version).directory)
    assert registry.reserve("3") == "p3-r003"


def test_a_lost_state_file_does_not_make_a_number_come_back(registry, tmp_path):
    publish(registry, tmp_path)
    (registry.root / "project-3" / "served.json").unlink()
    assert registry.reserve("3") == "p3-r002"


def test_publishing_that_stops_half_way_leaves_no_version(registry, tmp_path, monkeypatch):
    name = registry.reserve("3")
    checkpoint = write_checkpoint(tmp_path / name, name)

    def cut_short(source, target):
        Path(target).mkdir()
        (Path(target) / "card.json").write_text((source / "card.json").read_text())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", cut_short)
        with pytest.raises(RegistryError, match="No space left"):
            registry.publish("3", checkpoint)
    assert registry.versions("3") == []
    assert registry.publish("3", checkpoint).version == name


def test_what_a_killed_publisher_left_is_ignored_and_removed(registry, tmp_path):
    first = publish(registry, tmp_path)
    leftover = write_checkpoint(registry.root / "project-3" / ".incoming-p3-r009-lite0", "p3-r009-lite0")
    half = registry.root / "project-3" / "p3-r010-lite0"
    half.mkdir()  # no card: not a version
    assert [info.version for info in registry.versions("3")] == [first]
    registry.reserve("3")
    assert not leftover.exists()


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


def test_a_damaged_state_file_is_named(registry, tmp_path):
    publish(registry, tmp_path)
    (registry.root / "project-3" / "served.json").write_text("[]")
    with pytest.raises(RegistryError, match=r"served\.json is damaged"):
        registry.current("3")


def test_two_writers_never_get_the_same_number(registry):
    # The lock belongs to the open file, so two threads with a registry each exclude each other as two processes do.
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(lambda: [Registry(registry.root).reserve("3") for _ in range(20)]) for _ in range(2)]
    assert len({name for writer in writers for name in writer.result()}) == 40


def test_publishing_keeps_the_newest_the_served_and_the_one_before_it(tmp_path):
    registry = Registry(tmp_path / "models", keep=2)
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", first)
    registry.promote("3", second)
    candidates = [publish(registry, tmp_path) for _ in range(4)]
    assert [info.version for info in registry.versions("3")] == [first, second, *candidates[-2:]]
    assert registry.rollback("3").version == first
    last = publish(registry, tmp_path)
    assert [info.version for info in registry.versions("3")] == [first, candidates[-1], last]


def test_how_many_are_kept_is_a_setting(tmp_path):
    environ = {"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_KEEP_VERSIONS": "1"}
    registry = assemble(Settings.from_environ(environ)).registry
    versions = [publish(registry, tmp_path) for _ in range(3)]
    assert [info.version for info in registry.versions("3")] == versions[-1:]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keep=st.integers(1, 3), acts=st.lists(st.sampled_from(["publish", "promote oldest", "promote newest", "rollback"]))
)
def test_whatever_is_done_rolling_back_does_what_was_announced(tmp_path_factory, keep, acts):
    """Neither the served version nor the one that rolling back returns to is ever removed."""
    folder = tmp_path_factory.mktemp("registry")
    registry = Registry(folder / "models", keep)
    for act in acts:
        before = [info.version for info in registry.versions("3")]
        target = registry.rollback_target("3")
        if act == "publish":
            published = publish(registry, folder)
            kept = [info.version for info in registry.versions("3")]
            assert kept[-keep:] == [*before, published][-keep:]
            assert len(kept) <= keep + 2
            assert registry.rollback_target("3") == target
        elif act == "rollback":
            if target is None:
                with pytest.raises(RegistryError, match="nothing to roll back to"):
                    registry.rollback("3")
            else:
                served = registry.rollback("3")
                assert (STARTER if served is None else served.version) == target
        elif before:
            registry.promote("3", before[0 if act == "promote oldest" else -1])
        current = registry.current("3")
        assert current is None or current.card.name == current.version


def test_a_version_that_was_half_removed_is_seen_by_nobody_and_removed_by_the_next_writer(registry, tmp_path):
    version = publish(registry, tmp_path)
    half = registry.version("3", version).directory.rename(registry.root / "project-3" / f".removed-{version}")
    assert registry.versions("3") == []
    registry.reserve("3")
    assert not half.exists()


def test_rolling_back_never_returns_to_what_is_served_already(registry, tmp_path):
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    for version in (first, second, first):
        registry.promote("3", version)
    shutil.rmtree(registry.version("3", second).directory)
    assert registry.rollback_target("3") == STARTER
    assert registry.rollback("3") is None
