"""The answer to /predict before, at and after its deadline."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.errors import JobError, LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.label_studio.protocol import parse_predict
from backend.label_studio.status import LATE, NO_MODEL, VERSION, with_status_label
from backend.prediction.responder import GATHERED, Responder, gathered
from tests.backend.conftest import no_label_studio
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG, OTHER_CONFIG, POISON, eventually, predict_body

P = "3"


def ask(*addresses, **options):
    return parse_predict(predict_body(addresses, **options))


@pytest.fixture
def body(serving):
    """The pieces of a responder's answer, as the route asks for them."""

    def pieces(responder, asked):
        return responder.answer(asked, serving.resolve(asked.project_id, asked.config.classes))

    return pieces


@pytest.fixture
def entries(body):
    return lambda responder, asked: json.loads(b"".join(body(responder, asked)))["results"]


@pytest.fixture
def hurried(predictor, leases, jobs):
    """Its deadline comes after half a second."""
    return Responder(predictor, leases, jobs, no_label_studio, deadline=0.5, blank_every=0.05)


@pytest.fixture
def later(leases, monkeypatch):
    """Moves the clock of the leases on, by seconds."""
    return lambda seconds: monkeypatch.setattr(leases, "_clock", lambda: time.time() + seconds)


def until_an_entry_comes(answer):
    while not next(answer).strip():
        pass


def annotations(store):
    return store.find(P, kind="prediction")


def test_an_answer_in_time_leaves_nothing_to_a_job(responder, store, leases, entries):
    assert all(entries(responder, ask("1", "2", "3")))
    assert annotations(store) == []
    assert leases.remaining(P, "any") == (0, None)


def test_at_the_deadline_every_task_has_an_entry_and_a_job_the_rest(hurried, store, leases, loader, predictor, entries):
    """The pipeline is stuck in the second batch of two."""
    predictor.predict(ask("1", "2"))
    loader.pipelines["oct-lite0"].gate = gate = threading.Event()
    answer = entries(hurried, ask("1", "2", "3", "4", "5"))
    gate.set()
    assert [bool(entry) for entry in answer] == [True, True, False, False, False]
    (job,) = annotations(store)
    assert job.state == "queued"
    assert leases.acquire_due(P, job.id, 9, 60) == ["3", "4", "5"]


def test_a_task_that_cannot_be_answered_is_not_left_to_a_job(hurried, store, leases, entries):
    assert [bool(one) for one in entries(hurried, ask("1", "broken.png", str(POISON)))] == [True, False, False]
    assert annotations(store) == []
    assert leases.remaining(P, "any") == (0, None)


def told(entry):
    assert (entry["model_version"], entry["score"]) == (VERSION, 0.0)
    (region,) = entry["result"]
    assert (region["from_name"], region["to_name"]) == ("premask", "image")
    return region["value"]["text"]


TOLD = with_status_label(CONFIG, "image")


def test_whoever_opens_a_task_that_is_not_reached_is_told_that_its_masks_follow(
    hurried, store, leases, loader, predictor, entries
):
    predictor.predict(ask("9"))
    loader.pipelines["oct-lite0"].gate = gate = threading.Event()
    (answer,) = entries(hurried, ask("1", config=TOLD))
    gate.set()
    assert told(answer) == [LATE]
    (job,) = annotations(store)
    assert leases.acquire_due(P, job.id, 9, 60) == ["1"]


def test_whoever_opens_a_task_that_fails_is_told_why_and_a_job_tries_once_more(responder, leases, entries):
    """Label Studio asks no more for a task that has a prediction."""
    (answer,) = entries(responder, ask("broken.png", config=TOLD))
    assert told(answer) == ["No masks could be drawn: task 1: broken.png cannot be read"]
    assert leases.acquire_due(P, "job", 9, 60) == ["1"]
    (answer,) = entries(responder, ask(str(POISON), config=TOLD, first=2))
    assert told(answer) == ["No masks could be drawn: the model failed on its 6x8x3 image; the log says more"]


def test_whoever_opens_a_task_that_no_model_knows_is_told_so(responder, store, leases, entries):
    unknown = with_status_label(OTHER_CONFIG, "image")
    (answer,) = entries(responder, ask("1", config=unknown))
    assert told(answer) == [NO_MODEL]
    assert entries(responder, ask("1", config=OTHER_CONFIG)) == [[]]
    assert annotations(store) == []
    assert leases.due() == []


def test_nothing_is_told_where_nobody_looks_or_something_is_there(responder, entries):
    assert entries(responder, ask("broken.png", "gone.png", config=TOLD)) == [[], []]
    body = predict_body(["broken.png"], config=TOLD)
    body["tasks"][0]["predictions"] = [{"model_version": VERSION}]
    assert entries(responder, parse_predict(body)) == [[]]
    body["tasks"][0] |= {"predictions": [], "annotations": [{"id": 1}]}
    assert entries(responder, parse_predict(body)) == [[]]
    (answer,) = entries(responder, ask("1", config=TOLD, first=7))
    assert {region["from_name"] for region in answer["result"]} == {"tag"}


def test_when_label_studio_hangs_up_a_job_has_everything(responder, store, leases, loader, body):
    """Label Studio stores nothing of an answer that is not complete."""
    loader.predict_gates["oct-lite0"] = gate = threading.Event()
    answer = body(responder, ask("1", "2", "3"))
    assert [next(answer), next(answer)] == [b'{"results": [', b" "]
    gate.set()
    until_an_entry_comes(answer)
    answer.close()
    (job,) = annotations(store)
    assert leases.acquire_due(P, job.id, 9, 60) == ["1", "2", "3"]


def test_the_tasks_of_a_server_that_is_killed_become_due(predictor, leases, jobs, body):
    """A killed process leaves a generator that does not go on."""
    responder = Responder(predictor, leases, jobs, no_label_studio, margin=-59.0, blank_every=0.05)
    answer = body(responder, ask("1", "2", "3"))
    assert next(answer) == b'{"results": ['
    until_an_entry_comes(answer)
    assert leases.remaining(P, "job") == (0, None)
    eventually(lambda: leases.remaining(P, "job") == (3, 0.0))
    leases.acquire_due(P, "job", 9, 60)
    with pytest.raises(JobError, match="given up"):  # it was only suspended, and a job has its tasks now
        list(answer)


def test_one_answer_gives_what_another_does_not(responder, leases, loader, entries):
    """Retrieve Predictions was pressed twice in a row."""
    loader.predict_gates["oct-lite0"] = gate = threading.Event()
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(entries, responder, ask(*map(str, range(20, 40)))) for _ in range(2)]
        gate.set()
        first, second = (future.result() for future in both)
    assert [bool(a) + bool(b) for a, b in zip(first, second, strict=True)] == [1] * 20


def test_without_leases_there_are_answers_all_the_same(responder, leases, monkeypatch, caplog, entries):
    def broken(*_, **__):
        raise JobError("the disk is full")

    monkeypatch.setattr(leases, "acquire", broken)
    assert all(entries(responder, ask("1", "2")))
    assert "the disk is full; predictions may be stored twice" in caplog.text


def test_a_task_whose_id_is_no_number_is_answered_but_never_left_to_a_job(hurried, store, loader, entries):
    loader.predict_gates["oct-lite0"] = gate = threading.Event()
    asked = predict_body(["1", "2"])
    asked["tasks"][0]["id"] = "all"
    asked["tasks"][1]["id"] = {}
    assert entries(hurried, parse_predict(asked)) == [[], []]
    gate.set()
    assert annotations(store) == []


def test_a_task_that_comes_twice_in_a_request_is_answered_twice_also_with_a_broken_second_image(responder, entries):
    asked = predict_body(["1", "broken.png"])
    asked["tasks"][1]["id"] = asked["tasks"][0]["id"]
    first, second = entries(responder, parse_predict(asked))
    assert first
    assert second == []


def test_an_annotator_who_opens_an_opened_task_waits_until_it_is_stored(predictor, leases, jobs, entries, body):
    with FakeLabelStudio() as server:
        project = server.add_project(CONFIG)
        task = server.add_task(project, {"image": "1"})
        client = LabelStudio(server.url, server.legacy_token)
        responder = Responder(predictor, leases, jobs, lambda project: client, blank_every=0.05)
        first = entries(responder, ask("1", project=project, first=task))[0]
        assert first
        answer = body(responder, ask("1", project=project, first=task))
        assert [next(answer) for _ in range(3)] == [b'{"results": [', b" ", b" "]
        server.add_prediction({**first, "task": task})
        assert json.loads(b'{"results": [' + b"".join(answer)) == {"results": [[]]}


def test_an_annotator_waits_for_another_answer_no_longer_than_the_patience(predictor, leases, jobs, entries):
    responder = Responder(predictor, leases, jobs, no_label_studio, patience=0.3)
    with pytest.raises(LabelStudioError):
        no_label_studio(P)
    assert entries(responder, ask("1"))[0]
    assert entries(responder, ask("1")) == [[]]


def test_a_task_that_was_only_asked_for_as_a_test_gets_its_masks_all_the_same(responder, leases, entries, later):
    """Send Test Request stores nothing, and then Retrieve comes while its answer counts as being stored."""
    assert entries(responder, ask("1"))[0]
    assert [bool(one) for one in entries(responder, ask("1", "2"))] == [False, True]
    assert leases.acquire_due(P, "job", 9, 60) == []
    later(10)
    assert leases.due() == [P]
    assert leases.acquire_due(P, "job", 9, 60) == ["1"]


def test_a_task_asked_for_while_another_answer_gives_it_is_looked_up_too(
    predictor, leases, jobs, loader, body, entries, later
):
    """The test request is still being answered when Retrieve comes."""
    responder = Responder(predictor, leases, jobs, no_label_studio, patience=0.1, blank_every=0.05)
    loader.predict_gates["oct-lite0"] = gate = threading.Event()
    test = body(responder, ask("1"))
    assert [next(test), next(test)] == [b'{"results": [', b" "]
    retrieved = ThreadPoolExecutor().submit(entries, responder, ask("1"))
    eventually(lambda: any(again for _, again in responder._running.values()))
    gate.set()
    assert json.loads(b'{"results": [' + b"".join(test))["results"][0]
    assert retrieved.result() == [[]]
    later(10)
    assert leases.acquire_due(P, "job", 9, 60) == ["1"]


def test_a_task_whose_prediction_is_stored_is_not_asked_for_again(predictor, leases, jobs, entries, later):
    with FakeLabelStudio() as server:
        project = server.add_project(CONFIG)
        task = server.add_task(project, {"image": "1"})
        client = LabelStudio(server.url, server.legacy_token)
        responder = Responder(predictor, leases, jobs, lambda project: client, blank_every=0.05)
        server.add_prediction({**entries(responder, ask("1", project=project, first=task))[0], "task": task})
        assert entries(responder, ask("1", project=project, first=task)) == [[]]
        later(10)
        assert leases.due() == []


@pytest.mark.parametrize(
    ("addresses", "calls"),
    [
        (["1"], ["acquire", "commit", "delivered"]),
        (["1", "2", "3"], ["acquire", "commit", "commit", "delivered"]),
        (["1"] * (2 * GATHERED + 6), ["acquire", *["commit"] * 4, "delivered"]),
        (["broken.png", "broken.png"], ["acquire", "finish"]),
    ],
)
def test_leases_are_written_for_many_tasks_together_and_at_both_ends(
    predictor, entries, leases, jobs, monkeypatch, addresses, calls
):
    """Each is a transaction. A batch has two tasks."""
    monkeypatch.setattr("backend.prediction.responder.GATHER_SECONDS", 1e9)
    responder = Responder(predictor, leases, jobs, no_label_studio, deadline=250, blank_every=300)
    seen = []
    for name in ("acquire", "commit", "finish", "release", "delivered"):
        method = getattr(leases, name)

        def counted(*a, _method=method, _name=name, **k):
            seen.append(_name)
            return _method(*a, **k)

        monkeypatch.setattr(leases, name, counted)
    entries(responder, ask(*addresses))
    assert seen == calls


def test_entries_are_gathered_until_there_are_enough_or_none_comes(monkeypatch):
    monkeypatch.setattr("backend.prediction.responder.time.monotonic", lambda: 0.0)
    many = [[b"1", b"2"]] * GATHERED
    assert [len(part) for part in gathered(iter(many))] == [GATHERED, GATHERED]
    assert list(gathered(iter([None, [b"1"], [b"2"], None, None, [b"3"]]))) == [None, [b"1", b"2"], None, [b"3"]]
    monkeypatch.setattr("backend.prediction.responder.GATHER_SECONDS", 0.0)
    assert list(gathered(iter([[b"1"], [b"2"]]))) == [[b"1"], [b"2"]]
