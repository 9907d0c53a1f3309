"""Predicting the tasks that come after an opened one: in Label Studio's order, after everything else, and bounded."""

import json
import threading
import time
from functools import partial

import pytest

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.label_studio.protocol import parse_predict
from backend.prediction.prefetch import LISTED, MAX_PROJECTS, Prefetch, Requests
from backend.prediction.responder import Responder
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG, OTHER_CONFIG, eventually, predict_body

VERSION = "oct-lite0"


@pytest.fixture
def requests():
    return Requests()


class Server(FakeLabelStudio):
    """With one project."""

    number: int


@pytest.fixture
def label_studio():
    with Server() as server:
        server.number = server.add_project(CONFIG)
        yield server


@pytest.fixture
def tasks(label_studio):
    """Twelve tasks, whose images are as grey as their place."""
    return [label_studio.add_task(label_studio.number, {"image": str(place)}) for place in range(12)]


@pytest.fixture
def opened(label_studio):
    """The request that opens a task of the project."""

    def request(task, **options):
        address = label_studio.tasks[task]["data"]["image"]
        return parse_predict(predict_body([address], project=label_studio.number, first=task, **options))

    return request


@pytest.fixture
def prefetch(predictor, label_studio, requests):
    client = LabelStudio(label_studio.url, label_studio.legacy_token)
    return Prefetch(predictor, lambda project: client, requests, ahead=2)


def asked(label_studio):
    """How often Label Studio was asked for tasks."""
    return sum("/api/tasks?" in path for _, path, _ in label_studio.requests)


def settled(images):
    """The images that were loaded, once no more are."""
    loads = None
    while loads != images.loads:
        loads = list(images.loads)
        time.sleep(0.3)
    return loads


def test_the_tasks_after_an_opened_one_are_predicted_in_order(prefetch, images, opened, tasks):
    prefetch.opened(opened(tasks[3]), VERSION)
    eventually(lambda: len(images.loads) == 2)
    assert settled(images) == ["4", "5"]


def test_opening_a_task_that_was_predicted_ahead_needs_neither_image_nor_network(
    prefetch, predictor, images, loader, leases, jobs, serving, opened, tasks, requests, label_studio
):
    client = LabelStudio(label_studio.url, label_studio.legacy_token)
    responder = Responder(predictor, leases, jobs, lambda project: client, requests=requests, prefetch=prefetch)

    def answer(task):
        request = opened(task)
        resolved = serving.resolve(request.project_id, request.config.classes)
        return json.loads(b"".join(responder.answer(request, resolved)))["results"]

    assert answer(tasks[0])[0]["model_version"] == VERSION
    eventually(lambda: len(images.loads) == 3)
    assert settled(images) == ["0", "1", "2"]
    passes = len(loader.pipelines[VERSION].batches)
    with requests.answering():  # so that nothing more is predicted ahead
        assert answer(tasks[1])[0]["model_version"] == VERSION
        assert images.loads == ["0", "1", "2"]
        assert len(loader.pipelines[VERSION].batches) == passes


def test_a_project_that_samples_by_uncertainty_gets_the_lowest_scores_first(
    prefetch, images, opened, tasks, label_studio
):
    label_studio.projects[label_studio.number]["sampling"] = "Uncertainty sampling"
    for task, score in zip(tasks, [0.9, 0.8, 0.7, 0.1, 0.2, 0.3], strict=False):
        label_studio.add_prediction({"task": task, "result": [], "score": score, "model_version": "before"})
    prefetch.opened(opened(tasks[0]), VERSION)
    eventually(lambda: len(images.loads) == 2)
    assert settled(images) == ["3", "4"]


def test_tasks_that_need_no_prediction_are_passed_over(prefetch, images, opened, tasks, label_studio):
    """Annotated ones, and those that have one of the served version; one of another version does not count."""
    label_studio.add_annotation(tasks[1], [])
    label_studio.add_prediction({"task": tasks[2], "result": [], "score": 0.5, "model_version": VERSION})
    label_studio.add_prediction({"task": tasks[3], "result": [], "score": 0.5, "model_version": "before"})
    prefetch.opened(opened(tasks[0]), VERSION)
    eventually(lambda: len(images.loads) == 2)
    assert settled(images) == ["3", "4"]


def test_requests_go_first(prefetch, images, opened, tasks, requests):
    with requests.answering():
        prefetch.opened(opened(tasks[0]), VERSION)
        assert settled(images) == []
    eventually(lambda: len(images.loads) == 2)


def test_a_request_waits_for_one_image_at_most(prefetch, images, loader, opened, tasks, requests):
    """What was begun is finished; the next image waits until the request is answered."""
    loader.predict_gates[VERSION] = gate = threading.Event()
    prefetch.opened(opened(tasks[0]), VERSION)
    eventually(lambda: images.loads == ["1"])
    with requests.answering():
        gate.set()
        assert settled(images) == ["1"]
    eventually(lambda: images.loads == ["1", "2"])


def test_another_opening_takes_the_place_of_the_one_before(prefetch, images, opened, tasks, requests):
    with requests.answering():
        prefetch.opened(opened(tasks[0]), VERSION)
        prefetch.opened(opened(tasks[7]), VERSION)
    eventually(lambda: len(images.loads) == 2)
    assert settled(images) == ["8", "9"]


def test_label_studio_is_asked_once_for_several_openings(prefetch, images, opened, tasks, label_studio):
    for place in range(2 * LISTED - 2):
        prefetch.opened(opened(tasks[place]), VERSION)
        eventually(partial(images.loads.__contains__, str(place + 2)))
    assert asked(label_studio) == 2  # which tasks come next, and which have predictions
    assert sorted(set(images.loads)) == sorted(images.loads)  # each is fetched once


def test_a_label_studio_that_fails_is_left_alone_for_a_while(prefetch, images, opened, tasks, label_studio):
    label_studio.faults += [("/api/tasks", 500, "refused")] * 50
    for task in tasks:
        prefetch.opened(opened(task), VERSION)
    eventually(lambda: asked(label_studio))
    assert settled(images) == []
    before = asked(label_studio)
    for task in tasks:
        prefetch.opened(opened(task), VERSION)
    assert settled(images) == []
    assert asked(label_studio) == before


def test_at_the_end_of_a_project_nothing_is_asked_over_and_over(prefetch, images, opened, tasks, label_studio):
    for _ in range(5):
        prefetch.opened(opened(tasks[-1]), VERSION)
        assert settled(images) == []
    assert asked(label_studio) == 1


def test_zero_predicts_nothing_ahead(predictor, images, opened, tasks, label_studio, requests):
    client = LabelStudio(label_studio.url, label_studio.legacy_token)
    prefetch = Prefetch(predictor, lambda project: client, requests, ahead=0)
    prefetch.opened(opened(tasks[0]), VERSION)
    assert settled(images) == []
    assert asked(label_studio) == 0


def test_a_project_without_credentials_costs_one_line_of_debugging(predictor, images, opened, tasks, requests, caplog):
    def unknown(project):
        raise LabelStudioError(f"no credentials for project {project}")

    prefetch = Prefetch(predictor, unknown, requests)
    with caplog.at_level("INFO", "backend.prediction.prefetch"):
        prefetch.opened(opened(tasks[0]), VERSION)
        assert settled(images) == []
    assert not [record for record in caplog.records if record.name == "backend.prediction.prefetch"]


def test_another_version_or_config_looks_the_tasks_up_again(prefetch, images, opened, tasks, label_studio):
    prefetch.opened(opened(tasks[0]), VERSION)
    eventually(lambda: images.loads == ["1", "2"])
    prefetch.opened(opened(tasks[1], config=OTHER_CONFIG), VERSION)
    eventually(lambda: asked(label_studio) == 4)


def test_many_projects_do_not_pile_up(predictor, opened, tasks, requests, label_studio, images):
    """Only those opened last are predicted ahead when the requests are answered."""
    client = LabelStudio(label_studio.url, label_studio.legacy_token)
    told = []

    def known(project):
        told.append(project)
        return client

    prefetch = Prefetch(predictor, known, requests)
    request = predict_body(["0"], first=tasks[0])
    with requests.answering():
        for number in range(100, 100 + 3 * MAX_PROJECTS):
            request["project"] = f"{number}.1795393773"
            prefetch.opened(parse_predict(request), VERSION)
    last = [str(number) for number in range(100 + 2 * MAX_PROJECTS, 100 + 3 * MAX_PROJECTS)]
    eventually(lambda: told == last)
