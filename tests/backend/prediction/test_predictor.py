import json
import logging
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from backend.label_studio.protocol import parse_predict
from backend.prediction.cache import PredictionCache
from backend.prediction.predictor import Predictor
from backend.settings import Settings
from backend.versions.serving import Serving
from backend.wiring import assemble, predictor_of
from models.segment import Prediction, Segment
from tests.backend.fakes import CONFIG, OTHER_CONFIG, POISON, FakeImages, FakeModel, eventually, predict_body


def ask(*addresses, **options):
    return parse_predict(predict_body(addresses, **options))


def test_every_task_gets_its_entry_in_order_whatever_fails(predictor, caplog):
    """A broken image and one on which the pipeline fails stand in the middle of a batch each."""
    with caplog.at_level(logging.WARNING):
        entries = predictor.predict(ask("1", "broken.png", "2", str(POISON), "3"))
    assert [bool(entry) for entry in entries] == [True, False, True, False, True]
    assert entries[1] == entries[3] == []
    assert entries[0]["model_version"] == "oct-lite0"
    assert "task 2: no masks: task 2: broken.png cannot be read" in caplog.text
    assert "task 4: no masks: the model failed on its 6x8x3 image" in caplog.text


def test_images_go_through_the_networks_in_batches(predictor, loader):
    predictor.predict(ask("1", "2", "3", "4", "5"))
    assert loader.pipelines["oct-lite0"].batches == [2, 2, 1]


def test_a_project_without_a_model_gets_an_empty_entry_per_task_and_is_told_what_to_do(predictor, caplog):
    with caplog.at_level(logging.WARNING):
        assert predictor.predict(ask("1", "2", config=OTHER_CONFIG)) == [[], []]
    assert "press Start Training" in caplog.text


def test_asking_again_costs_no_second_prediction(predictor, loader, images):
    first = predictor.predict(ask("1", "2"))
    assert predictor.predict(ask("1", "2")) == first
    assert loader.pipelines["oct-lite0"].batches == [2]
    assert images.loads == ["1", "2"]


def test_another_config_or_image_is_predicted_again(predictor, loader, registry, tmp_path):
    pipeline = lambda: loader.pipelines["oct-lite0"]  # noqa: E731
    predictor.predict(ask("1"))
    request = predict_body(["1"])
    request["label_config"] = request["label_config"].replace('name="tag"', 'name="renamed"')
    entries = predictor.predict(parse_predict(request))
    assert entries[0]["result"][0]["from_name"] == "renamed"
    predictor.predict(ask("7"))
    assert pipeline().batches == [1, 1, 1]


def test_a_task_that_failed_is_tried_again(predictor, images):
    predictor.predict(ask("broken.png"))
    predictor.predict(ask("broken.png"))
    assert images.loads == ["broken.png"] * 2


def test_three_people_who_open_the_same_task_cause_one_prediction(predictor, loader):
    loader.predict_gates["oct-lite0"] = gate = threading.Event()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(predictor.predict(ask("1")))) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: "oct-lite0" in loader.pipelines and loader.pipelines["oct-lite0"].batches)
    gate.set()
    for thread in threads:
        thread.join()
    assert loader.pipelines["oct-lite0"].batches == [1]
    assert answers[0] == answers[1] == answers[2]


def test_requests_that_share_tasks_in_opposite_order_do_not_wait_for_each_other_forever(predictor):
    names = [str(n) for n in range(20, 60)]
    body, other = predict_body(names), predict_body(names)
    other["tasks"].reverse()
    answers = []
    threads = [
        threading.Thread(target=lambda b=b: answers.append(predictor.predict(parse_predict(b)))) for b in (body, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [len(entries) for entries in answers] == [40, 40]


def test_a_caller_who_hangs_up_leaves_nothing_unfinished(predictor, serving):
    asked = ask("1", "2", "3", "4")
    stream = predictor.stream(asked, serving.resolve("3", asked.config.classes))
    next(stream)
    stream.close()
    assert all(predictor.predict(ask("1", "2", "3", "4")))


def test_a_failure_outside_any_task_still_gives_one_entry_per_task(serving, caplog):
    def no_source(project):
        raise RuntimeError("no source")

    assert Predictor(serving, no_source).predict(ask("1", "2")) == [[], []]
    assert "no source" in caplog.text


@pytest.mark.parametrize("limit", [{"max_bytes": 0}, {"max_age": -1.0}])
def test_finished_entries_are_bounded_in_size_and_age(serving, loader, limit):
    images = FakeImages()
    predictor = Predictor(serving, lambda project: images, cache=PredictionCache(**limit))
    predictor.predict(ask("1"))
    assert predictor.predict(ask("1"))[0]
    assert loader.pipelines["oct-lite0"].batches == [1, 1]


def test_a_cached_entry_is_the_entry_that_was_given():
    cache, entry = PredictionCache(), json.dumps({"result": [{"value": {"rle": [0, 255]}}], "score": 0.5}).encode()
    future, mine = cache.join("k")
    assert mine
    cache.finish("k", entry)
    assert future.result() == cache.join("k")[0].result() == entry


@pytest.mark.parametrize(("regions", "drawn"), [("class", 1), ("object", 2)])
def test_a_class_or_each_object_is_a_region_by_the_setting(registry, starter, inference, tmp_path, regions, drawn):
    """As the server and the job that finishes its work make their predictor."""

    class Spots(FakeModel):
        def predict(self, images):
            mask = np.zeros((6, 8), bool)
            mask[1:3, 1:3] = mask[4:6, 5:8] = True
            return [Prediction({"Lumen": 0.9}, [Segment("Lumen", 0.8, mask)]) for _ in images]

    settings = Settings.from_environ({"PREMASK_REGIONS": regions, "PREMASK_DATA_DIR": str(tmp_path)})
    parts: Any = assemble(settings)
    parts.connections.images = lambda project: FakeImages()
    predictor = predictor_of(settings, Serving(registry, starter, Spots, inference), parts)
    (entry,) = predictor.predict(ask("1"))
    assert len(entry["result"]) == drawn


PAIR = CONFIG.replace(
    'name="image" value="$image"/>', 'name="image" value="$a"/><Image name="other" value="$b"/>'
).replace('toName="image"', 'toName="image,other"')
LIST = CONFIG.replace('value="$image"', 'valueList="$images"')


def of(config, *data):
    """A request for tasks with these data."""
    body = predict_body(["1"] * len(data), config=config)
    for task, fields in zip(body["tasks"], data, strict=True):
        task["data"] = fields
    return parse_predict(body)


def test_each_image_of_a_task_gets_its_regions(predictor):
    (entry,) = predictor.predict(of(PAIR, {"a": "1", "b": "2"}))
    assert [(region["to_name"], region["original_width"]) for region in entry["result"]] == [("image", 8), ("other", 8)]
    assert not any("item_index" in region for region in entry["result"])


def test_each_page_of_a_list_gets_its_regions_and_no_batch_is_larger_for_it(predictor, loader):
    entries = predictor.predict(of(LIST, {"images": ["1", "2", "3", "4", "5"]}, {"images": "6"}))
    assert [region["item_index"] for region in entries[0]["result"]] == [0, 1, 2, 3, 4]
    assert [region["item_index"] for region in entries[1]["result"]] == [0]
    assert loader.pipelines["oct-lite0"].batches == [2, 2, 2]


@pytest.mark.parametrize(
    ("config", "data"), [(PAIR, {"a": "1", "b": "broken.png"}), (LIST, {"images": ["broken.png", "1"]})]
)
def test_a_task_of_which_an_image_fails_gets_nothing(predictor, config, data):
    """Its annotator would take the image without regions for one that is empty."""
    entries = predictor.predict(of(config, data, {"a": "2", "b": "3", "images": ["4"]}))
    assert [bool(entry) for entry in entries] == [False, True]


def test_an_image_that_a_task_does_not_have_is_none(predictor):
    (entry,) = predictor.predict(of(PAIR, {"a": "1", "b": None}))
    assert [region["to_name"] for region in entry["result"]] == ["image"]


@pytest.mark.parametrize(
    ("config", "old", "new"),
    [
        (CONFIG.replace("$image", "$scan.url"), {"scan": {"url": "1"}}, {"scan": {"url": "2"}}),
        (CONFIG, {"$undefined$": "1"}, {"$undefined$": "2"}),
        (LIST, {"images": ["1", "2"]}, {"images": ["1", "3"]}),
        (PAIR, {"a": "1", "b": "2"}, {"a": "1", "b": "3"}),
    ],
    ids=["nested", "undefined", "list", "pair"],
)
def test_a_task_whose_image_changed_is_predicted_again(predictor, images, config, old, new):
    for data in (old, new, new):
        assert predictor.predict(of(config, data))[0]
    assert len(images.loads) == 2 * (2 if config in (LIST, PAIR) else 1)


def test_tasks_without_an_id_are_answered(predictor):
    body = predict_body(["1", "2"])
    for task in body["tasks"]:
        del task["id"]
    assert all(predictor.predict(parse_predict(body)))


def test_a_batch_does_not_wait_for_an_image_that_waits_for_its_room(predictor, images, loader):
    """The second image is loaded only when nothing refers to the first any more, as where memory is short."""
    gone = threading.Event()
    load = images.load

    def one_at_a_time(task, key):
        if task["id"] == 2:
            assert gone.wait(60)
        image = load(task, key).copy()
        if task["id"] == 1:
            weakref.finalize(image, gone.set)
        return image

    images.load = one_at_a_time
    assert [bool(entry) for entry in predictor.predict(parse_predict(predict_body(["1", "2"])))] == [True, True]
    assert loader.pipelines["oct-lite0"].batches == [1, 1]
