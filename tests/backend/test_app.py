import itertools
import json
import logging
import threading

import pytest

from backend.database.notes import Notes
from tests.backend.fakes import (
    OTHER_CONFIG,
    eventually,
    predict_body,
    publish,
    setup_body,
    start_training,
)
from tests.backend.jobs.edit import edit_job


def test_health_answers_without_touching_a_model(client, loader):
    for path in ("/", "/health"):
        answer = client.get(path)
        assert (answer.status_code, answer.json["status"]) == (200, "UP")
    assert loader.loaded == []


def test_setup_names_the_version_without_loading_weights(client, loader):
    assert client.post("/setup", json=setup_body()).json == {"model_version": "oct-lite0"}
    assert loader.loaded == []


@pytest.mark.parametrize("config", [OTHER_CONFIG, "<View></View>", "not xml"])
def test_a_project_that_no_model_covers_gets_a_version_name_all_the_same(client, config):
    assert client.post("/setup", json=setup_body(config=config)).json == {"model_version": "untrained"}


def test_setup_and_predict_say_the_same_version_before_and_after_a_promotion(client, registry, tmp_path):
    tasks = itertools.count(1)

    def versions():
        setup = client.post("/setup", json=setup_body()).json["model_version"]
        # Each time another task: Label Studio does not ask twice for the same one.
        body = predict_body(["1"], first=next(tasks))
        predicted = client.post("/predict", json=body, buffered=True).json["results"][0]["model_version"]
        assert setup == predicted
        return setup

    assert versions() == "oct-lite0"
    version = publish(registry, tmp_path)
    assert versions() == "oct-lite0"
    asked = {"project": 3, "version": version}
    assert client.post("/api/versions/promote", json=asked).json == {"project": "3", "current": version}
    eventually(lambda: client.post("/setup", json=setup_body()).json["model_version"] == version)
    assert versions() == version
    (project,) = client.get("/api/versions?project=3").json["projects"]
    assert (project["current"], project["serving"]) == (version, [version])
    assert client.post("/api/versions/rollback", json={"project": 3}).json == {"project": "3", "current": None}
    eventually(lambda: client.post("/setup", json=setup_body()).json["model_version"] == "oct-lite0")
    assert versions() == "oct-lite0"


def test_predict_answers_one_entry_per_task_in_order_with_a_broken_image_in_the_middle(client):
    answer = client.post("/predict", json=predict_body(["1", "broken.png", "2"]))
    assert answer.status_code == 200
    results = answer.json["results"]
    assert [bool(entry) for entry in results] == [True, False, True]
    assert results[0]["result"][0]["value"]["brushlabels"] == ["Lumen"]


def test_the_first_bytes_arrive_before_the_result(client, loader):
    loader.predict_gates["oct-lite0"] = gate = threading.Event()
    answer = client.post("/predict", json=predict_body(["1"]), buffered=False)
    parts = iter(answer.response)
    first = [next(parts) for _ in range(3)]
    assert first == [b'{"results": [', b" ", b" "]
    gate.set()
    assert len(json.loads(b"".join([*first, *parts]))["results"]) == 1
    answer.close()


def test_too_many_predictions_at_once_are_refused_and_health_goes_on(client, loader):
    loader.predict_gates["oct-lite0"] = gate = threading.Event()
    held = [client.post("/predict", json=predict_body([str(n)], first=n), buffered=False) for n in (1, 2)]
    refused = client.post("/predict", json=predict_body(["3"]))
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert "try again" in refused.json["error"]
    assert client.get("/health").status_code == 200
    gate.set()
    for answer in held:
        assert answer.json["results"][0]
        answer.close()
    assert client.post("/predict", json=predict_body(["3"], first=3)).status_code == 200


def test_predict_with_a_config_that_cannot_be_used_gives_empty_entries_and_says_why(client, caplog):
    with caplog.at_level(logging.WARNING):
        answer = client.post("/predict", json=predict_body(["1", "2"], config="<View></View>"))
    assert answer.json == {"results": [[], []]}
    assert "the labelling config" in caplog.text


def test_ten_start_trainings_in_a_row_give_one_job(client):
    answers = [client.post("/webhook", json=start_training()) for _ in range(10)]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json["job"] for answer in answers}) == 1
    assert [answer.json["joined"] for answer in answers] == [False] + [True] * 9
    assert client.post("/webhook", json=start_training(project=4)).json["joined"] is False
    assert len(client.get("/api/jobs?project=3").json["jobs"]) == 1


@pytest.mark.parametrize("project", ["3.1795393773", 3, {"id": 3}])
def test_train_does_what_the_webhook_does(client, project):
    first = client.post("/webhook", json=start_training()).json["job"]
    assert client.post("/train", json={"project": project}).json["job"] == first


def test_other_webhooks_are_acknowledged_and_nothing_more(client, jobs, records):
    answer = client.post("/webhook", json={"action": "TASKS_CREATED", "project": {"id": 3}, "tasks": [{"id": 2}]})
    assert (answer.status_code, answer.json["status"]) == (200, "ignored")
    assert jobs.store.find() == []
    assert Notes(records).noted() == {}


def test_news_of_annotations_are_noted_and_start_nothing_at_once(client, jobs, records):
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 3}, "annotation": {"id": 1}, "task": {"id": 2}}
    answer = client.post("/webhook", json=event)
    assert (answer.status_code, answer.json["status"]) == (200, "noted")
    assert jobs.store.find() == []
    assert list(Notes(records).noted()) == ["3"]


def test_a_job_shows_state_progress_log_and_reason(client, store):
    job = client.post("/webhook", json=start_training()).json["job"]
    store.log(job, "epoch 1")
    edit_job(store, job, state="failed", progress=0.4, reason="no data", report={"used": 2})
    shown = client.get(f"/api/jobs/{job}").json
    assert (shown["state"], shown["progress"], shown["reason"], shown["report"]) == (
        "failed",
        0.4,
        "no data",
        {"used": 2},
    )
    assert shown["log"][0].endswith("epoch 1")
    for answer in (client.get(f"/job_status?job={job}"), client.post("/job_status", json={"job": job})):
        assert answer.json["job_status"] == "failed"
        assert answer.json["error"] == "no data"


def test_versions_tell_what_is_served_and_how_good_it_is(client, registry, tmp_path):
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    registry.promote("3", first)
    client.post("/setup", json=setup_body())
    assert client.get("/versions").json == {"versions": [first, second]}
    (project,) = client.get("/api/versions?project=3").json["projects"]
    assert (project["current"], project["serving"]) == (first, [first])
    assert [version["state"] for version in project["versions"]] == ["served", "candidate"]
    assert project["versions"][0]["metrics"] == {"mean_iou": 0.5}


def test_a_version_is_compared_with_the_one_before_it_on_the_same_tasks(client, registry, store, tmp_path):
    version = publish(registry, tmp_path)
    job, _ = store.submit("training", "3")
    metrics = {"new": {"mean_iou": 0.5}, "parent": {"mean_iou": 0.4}}
    edit_job(store, job.id, state="done", version=version, metrics=metrics)
    other = publish(registry, tmp_path, project="4")
    assert client.get("/api/versions?project=3").json["projects"][0]["versions"][0]["before"] == {"mean_iou": 0.4}
    assert [p["versions"][0]["before"] for p in client.get("/api/versions").json["projects"]] == [
        {"mean_iou": 0.4},
        None,
    ]
    assert other.startswith("p4")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("post", "/predict", b"{", 400, "JSON"),
        ("post", "/predict", b"[]", 400, "should be a JSON object"),
        ("post", "/predict", b'{"tasks": null, "project": "3"}', 400, "'tasks' should be a list"),
        ("post", "/setup", b'{"project": "../etc", "schema": ""}', 400, "should be an id"),
        ("post", "/webhook", b'{"action": "START_TRAINING"}', 400, "'project'"),
        ("post", "/webhook", b"", 400, "JSON"),
        ("post", "/train", b"[1]", 400, "/train: the project should be an id"),
        ("post", "/job_status", b"[1]", 400, "name the job"),
        ("get", "/job_status", b"", 400, "name the job"),
        ("get", "/api/jobs/none", b"", 404, "no job 'none'"),
        ("get", "/api/versions?project=..", b"", 400, "should be an id"),
        ("post", "/api/versions/promote", b'{"project": 3, "version": "p3-r099"}', 404, "no version 'p3-r099'"),
        ("post", "/api/versions/promote", b'{"project": 3}', 400, "name the version"),
        ("post", "/api/versions/promote", b'{"project": {}, "version": ["x"]}', 400, "should be an id"),
        ("post", "/api/versions/rollback", b'{"project": "3"}', 404, "nothing to roll back to"),
        ("post", "/api/versions/rollback", b'{"project": ".."}', 400, "should be an id"),
        ("post", "/api/versions/rollback", b"[1]", 400, "should be a JSON object"),
        ("get", "/api/jobs/none?lines=many", b"", 400, "from 0 to 2000"),
        ("post", "/setup", b'{"project": "1234567890123456789", "schema": ""}', 400, "should be an id"),
        ("get", "/nowhere", b"", 404, "not found"),
        ("get", "/predict", b"", 405, "not allowed"),
        ("post", "/predict", b" " * (2 << 20), 413, "may have 1 MB, got 2 MB; send less, or raise PREMASK_MAX_"),
    ],
)
def test_a_bad_request_is_answered_with_what_was_wrong(client, method, path, body, status, says):
    answer = client.open(path, method=method.upper(), data=body, content_type="application/json")
    assert answer.status_code == status
    assert answer.json["status"] == status
    assert says in answer.json["error"]


def test_another_sites_form_cannot_change_what_is_served(client, registry, tmp_path):
    """Browsers send a form with the visitor's login to any site, but never as application/json."""
    version = publish(registry, tmp_path)
    body = json.dumps({"project": "3", "version": version})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = client.post("/api/versions/promote", data=body, content_type=kind)
        assert (answer.status_code, registry.current("3")) == (400, None)
        assert "application/json" in answer.json["error"]


def test_an_unexpected_error_shows_no_inner_workings_and_can_be_found_in_the_log(client, store, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("inner workings")

    monkeypatch.setattr(store, "find", broken)
    answer = client.get("/api/jobs")
    assert answer.status_code == 500
    assert "inner workings" not in answer.text
    assert answer.headers["X-Request-ID"] in answer.json["error"]
    assert "inner workings" in caplog.text


def test_no_token_reaches_the_log_or_an_answer(client, credentials, caplog):
    with caplog.at_level(logging.DEBUG):
        client.post("/setup", json=setup_body(token="s3cret"))
        client.post("/setup", json=setup_body(token="s3cret") | {"schema": 5})
        client.post("/webhook", json=start_training() | {"project": {"id": 3, "token": "s3cret"}})
        answers = [client.get("/api/jobs").text, client.get("/api/versions").text]
    assert credentials.of("3").api_key.get_secret_value() == "s3cret"
    assert "s3cret" not in caplog.text + "".join(answers)
