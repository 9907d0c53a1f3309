import logging
import shutil
import threading
import time

import numpy as np
import pytest
from sqlalchemy import Engine, event

from backend.database.engine import Database
from backend.errors import DatabaseError, StoreError
from backend.versions import serving as module
from backend.versions.serving import QUIET_SECONDS, Serving, load_on
from backend.versions.store import Store
from models.starter import STARTERS
from tests.backend.fakes import eventually, publish, write_checkpoint

CLASSES = ("Lumen", "Fibrous cap")
IMAGE = np.zeros((4, 4, 3), np.uint8)


def test_the_starter_serves_projects_whose_classes_it_knows_and_no_others(serving, loader):
    assert serving.served_version("3", CLASSES) == "oct-lite0"
    assert serving.served_version("3", ("Cat",)) is None
    assert serving.resolve("3", ("Cat",)) is None
    assert loader.loaded == []  # asking loads no weights


def test_a_promoted_version_takes_the_place_of_the_starter(serving, registry, tmp_path):
    version = publish(registry, tmp_path)
    assert serving.served_version("3", CLASSES) == "oct-lite0"
    registry.promote("3", version)
    assert serving.served_version("3", CLASSES) == version
    assert serving.resolve("3", CLASSES).model().version == version
    assert serving.served_version("4", CLASSES) == "oct-lite0"


def test_the_version_changes_only_when_the_new_weights_are_ready(serving, registry, loader, tmp_path):
    assert serving.resolve("3", CLASSES).model().version == "oct-lite0"
    version = publish(registry, tmp_path)
    loader.gates[version] = threading.Event()
    registry.promote("3", version)
    for _ in range(3):
        assert serving.served_version("3", CLASSES) == serving.resolve("3", CLASSES).model().version == "oct-lite0"
    loader.gates[version].set()
    eventually(lambda: serving.served_version("3", CLASSES) == version)
    assert serving.resolve("3", CLASSES).model().version == version
    assert loader.loaded == ["oct-lite0", version]


def test_a_promotion_is_taken_up_without_waiting_for_a_request(serving, registry, loader, tmp_path):
    stop = serving.watch(0.02)
    serving.resolve("3", CLASSES).model()
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    eventually(lambda: serving.active("3") == [version])
    stop()
    assert loader.loaded == ["oct-lite0", version]


def test_a_request_in_flight_during_a_swap_finishes_on_the_old_version(serving, registry, loader, tmp_path):
    loader.predict_gates["oct-lite0"] = threading.Event()
    served = serving.resolve("3", CLASSES).model()
    finished = []
    flight = threading.Thread(target=lambda: finished.append([one.result() for one in served.predict([IMAGE])]))
    flight.start()
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    eventually(lambda: serving.served_version("3", CLASSES) == version)
    assert not finished
    loader.predict_gates["oct-lite0"].set()
    flight.join()
    assert len(finished[0]) == 1
    assert served.version == "oct-lite0"


def test_many_requests_at_once_load_a_version_once_and_two_projects_share_it(serving, loader):
    loader.gates["oct-lite0"] = threading.Event()
    threads = [threading.Thread(target=lambda n=n: serving.resolve(str(n % 2), CLASSES).model()) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    loader.gates["oct-lite0"].set()
    for thread in threads:
        thread.join()
    assert loader.loaded == ["oct-lite0"]


def test_a_damaged_version_is_reported_and_the_one_before_it_goes_on(serving, registry, loader, tmp_path, caplog):
    good, bad = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", good)
    assert serving.resolve("3", CLASSES).model().version == good
    directory = registry.version("3", bad).directory
    (directory / "damaged").touch()
    with caplog.at_level(logging.ERROR):
        registry.promote("3", bad)
        serving.served_version("3", CLASSES)
        eventually(lambda: str(directory) in caplog.text)
    assert "promote another version" in caplog.text
    assert serving.served_version("3", CLASSES) == serving.resolve("3", CLASSES).model().version == good


def test_a_version_damaged_at_the_start_gives_way_to_the_one_before_it(registry, starter, loader, tmp_path, inference):
    good, bad = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", good)
    registry.promote("3", bad)
    (registry.version("3", bad).directory / "damaged").touch()
    serving = Serving(registry, starter, loader, inference)
    assert serving.resolve("3", CLASSES).model().version == good
    assert serving.served_version("3", CLASSES) == good


def test_a_version_whose_folder_vanishes_is_served_on_from_memory(serving, registry, tmp_path):
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    assert serving.resolve("3", CLASSES).model().version == version
    shutil.rmtree(registry.version("3", version).directory)
    assert serving.served_version("3", CLASSES) == serving.resolve("3", CLASSES).model().version == version


def test_rolling_back_to_the_starter_serves_the_starter(serving, registry, tmp_path):
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    serving.resolve("3", CLASSES).model()
    registry.rollback("3")
    eventually(lambda: serving.served_version("3", CLASSES) == "oct-lite0")


def test_a_version_that_was_swapped_out_leaves_memory(serving, registry, loader, tmp_path):
    serving.resolve("3", CLASSES).model()
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    eventually(lambda: serving.served_version("3", CLASSES) == version)
    serving.resolve("4", CLASSES).model()  # the starter again
    assert loader.loaded == ["oct-lite0", version, "oct-lite0"]


def test_no_more_than_so_many_models_stay_in_memory(registry, loader, tmp_path, inference):
    serving = Serving(registry, None, loader, inference, max_resident=2)
    for project in "345":
        registry.promote(project, publish(registry, tmp_path, project))
        serving.resolve(project, CLASSES).model()
    serving.resolve("5", CLASSES).model()
    assert len(loader.loaded) == 3
    serving.resolve("3", CLASSES).model()
    assert len(loader.loaded) == 4


def test_a_database_that_is_away_keeps_what_is_served(serving, registry, tmp_path, monkeypatch):
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    serving.resolve("3", CLASSES).model()

    def away(self, work):
        raise DatabaseError("the database cannot be used")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "read", away)
        assert serving.served_version("3", CLASSES) == serving.resolve("3", CLASSES).model().version == version
    registry.rollback("3")
    eventually(lambda: serving.served_version("3", CLASSES) == "oct-lite0")


def test_a_store_that_is_away_keeps_what_is_served_and_is_asked_again(serving, registry, tmp_path, monkeypatch):
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", first)
    serving.resolve("3", CLASSES).model()
    monkeypatch.setattr(module, "FETCH_AGAIN_SECONDS", 0.01)
    tries = []

    def away(self, place, files):
        tries.append(place)
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "fetch", away)
        registry.promote("3", second)
        assert serving.served_version("3", CLASSES) == first
        eventually(lambda: serving.served_version("3", CLASSES) == first and len(tries) > 1)
        assert serving.failed() == [second]
    eventually(lambda: serving.served_version("3", CLASSES) == second)
    assert serving.failed() == []


@pytest.mark.parametrize("versions_store", ["s3"], indirect=True)
def test_what_lies_in_a_bucket_is_fetched_when_it_is_loaded_and_no_sooner(serving, registry, loader, tmp_path):
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", first)
    assert serving.served_version("3", CLASSES) == first
    assert not registry.version("3", first).local.exists()
    assert serving.resolve("3", CLASSES).model().version == first
    registry.promote("3", second)
    eventually(lambda: serving.served_version("3", CLASSES) == second)
    assert loader.loaded == [first, second]


def test_a_version_whose_card_was_changed_afterwards_is_not_served(serving, registry, tmp_path, caplog):
    """The row has the card's checksum, and the card those of the weights."""
    good, bad = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", good)
    registry.promote("3", bad)
    card = registry.version("3", bad).directory / "card.json"
    card.write_text(card.read_text().replace("Lumen", "Lumina"))
    assert serving.resolve("3", CLASSES).model().version == good
    assert "damaged: its checksum is not the published one" in caplog.text


def test_without_a_starter_an_untrained_project_gets_nothing(registry, loader, inference):
    assert Serving(registry, None, loader, inference).resolve("3", CLASSES) is None


@pytest.mark.parametrize("classes", [("Lumen", "Cat"), ()])
def test_one_known_class_is_enough_and_no_classes_mean_any(serving, classes):
    assert serving.served_version("3", classes) == "oct-lite0"


def test_a_version_that_knows_none_of_the_classes_is_passed_over(registry, starter, loader, tmp_path, inference):
    name = registry.reserve("3")
    registry.publish("3", write_checkpoint(tmp_path / name, name, ["Cat"]))
    registry.promote("3", name)
    serving = Serving(registry, starter, loader, inference)
    assert serving.served_version("3", ("Cat",)) == name
    assert serving.served_version("3", CLASSES) == "oct-lite0"


def test_idle_projects_are_not_read_again_and_a_promotion_is_seen_all_the_same(serving, registry, loader, tmp_path):
    """A thousand projects cost one query, not a thousand readings of versions."""
    for project in range(1, 1001):
        serving.served_version(str(project), CLASSES)
    serving._changed()
    version = publish(registry, tmp_path, "500")
    queries = []
    noted = lambda *arguments: queries.append(arguments[2])  # noqa: E731
    event.listen(Engine, "before_cursor_execute", noted)
    assert serving._changed() == []
    event.remove(Engine, "before_cursor_execute", noted)
    assert [query for query in queries if query != "begin"] == [queries[-1]]
    registry.promote("500", version)
    assert serving._changed() == [("500", frozenset(CLASSES))]
    assert serving.served_version("500", CLASSES) == version
    assert serving._changed() == []


def test_a_version_that_is_still_loading_or_missing_is_looked_at_until_it_is_served(
    serving, registry, loader, tmp_path
):
    assert serving.resolve("3", CLASSES).model().version == "oct-lite0"
    version = publish(registry, tmp_path)
    loader.gates[version] = threading.Event()
    registry.promote("3", version)
    serving._changed()
    serving.served_version("3", CLASSES)
    assert serving._changed() == [("3", frozenset(CLASSES))]
    loader.gates[version].set()
    eventually(lambda: serving.served_version("3", CLASSES) == version)
    assert serving._changed() == []


def test_warming_up_loads_and_runs_what_will_be_asked_first(serving, registry, loader, tmp_path):
    """The starter and the projects' current versions, each of which has predicted when the server is ready."""
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    publish(registry, tmp_path / "candidates")  # nobody is served a candidate
    loader.predict_gates[version] = threading.Event()
    serving.warm_up([IMAGE])
    eventually(lambda: version in loader.pipelines and loader.pipelines[version].batches)
    assert serving.warming
    loader.predict_gates[version].set()
    eventually(lambda: not serving.warming)
    assert sorted(loader.loaded) == sorted(["oct-lite0", version])
    assert {name: model.batches for name, model in loader.pipelines.items()} == {"oct-lite0": [1], version: [1]}
    assert serving.resolve("3", CLASSES).model().version == version
    assert len(loader.loaded) == 2  # nothing is loaded twice


def test_warming_up_loads_no_more_than_is_kept(registry, starter, loader, inference, tmp_path):
    serving = Serving(registry, starter, loader, inference, max_resident=2)
    for project in ("3", "4", "5"):
        registry.promote(project, publish(registry, tmp_path / project, project))
    serving.warm_up([IMAGE])
    eventually(lambda: not serving.warming)
    assert len(loader.loaded) == 2
    assert loader.loaded[0] == "oct-lite0"


def test_warming_up_passes_over_what_cannot_be_loaded(serving, registry, loader, tmp_path):
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    (registry.current("3").directory / "damaged").touch()
    serving.warm_up([IMAGE])
    eventually(lambda: not serving.warming)
    assert serving.resolve("3", CLASSES).model().version == "oct-lite0"


def test_a_request_that_comes_while_models_are_loaded_waits_for_the_same_model(serving, loader):
    loader.gates["oct-lite0"] = threading.Event()
    serving.warm_up([IMAGE])
    served = []
    asking = threading.Thread(target=lambda: served.append(serving.resolve("3", CLASSES).model().version))
    asking.start()
    loader.gates["oct-lite0"].set()
    asking.join(20)
    assert served == ["oct-lite0"]
    assert loader.loaded == ["oct-lite0"]


def test_what_is_made_of_a_shipped_model_is_kept_outside_the_package(tmp_path, monkeypatch):
    """And of any other model inside its own folder; no request waits for either."""
    asked = []

    def load_model(*arguments, afterwards):
        assert afterwards is not None
        asked.append(arguments)

    monkeypatch.setattr("backend.versions.serving.load_model", load_model)
    load = load_on("cpu", "auto", kept=tmp_path)
    load(STARTERS["light"])
    load(tmp_path / "p1-r001")
    assert asked == [
        (STARTERS["light"], "cpu", "auto", tmp_path / STARTERS["light"].name),
        (tmp_path / "p1-r001", "cpu", "auto", None),
    ]


def test_each_model_gives_memory_back_once_when_its_predictions_are_over(serving, registry, tmp_path, monkeypatch):
    """Of two models the idle one does, while the other goes on."""
    released = []
    monkeypatch.setattr("backend.versions.serving.release_memory", lambda model: released.append(model.name))
    clock = [100.0]
    monkeypatch.setattr("backend.versions.serving.time.monotonic", lambda: clock[0])
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    idle, at_work = serving.resolve("3", CLASSES).model(), serving.resolve("4", CLASSES).model()
    for served in (idle, at_work):
        served.predict([IMAGE])
    clock[0] += QUIET_SECONDS + 1
    at_work.predict([IMAGE])
    serving._give_memory_back()
    serving._give_memory_back()
    assert released == [version]
