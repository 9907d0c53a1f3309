import pytest

from backend.errors import JobError, LabelStudioError
from tests.backend.fakes import CONFIG, predict_body, publish, setup_body, start_training


def test_a_config_is_judged_before_it_is_saved(client):
    assert client.post("/validate", json={"config": CONFIG}).json == {
        "status": "ok",
        "classes": ["Lumen", "Fibrous cap"],
    }
    nothing = client.post("/validate", json={"config": "<View/>"})
    assert (nothing.status_code, "nothing that this backend can fill" in nothing.json["error"]) == (422, True)
    assert client.post("/validate", json={}).status_code == 400


def test_deleting_a_project_ends_its_jobs_forgets_its_token_and_keeps_its_models(
    client, credentials, leases, registry, tmp_path
):
    version = publish(registry, tmp_path)
    client.post("/setup", json=setup_body())
    job = client.post("/webhook", json=start_training()).json["job"]
    other = client.post("/webhook", json=start_training(project=4)).json["job"]
    leases.request("3", ["7"])
    answer = client.post("/delete", json={"project": "3.1795393773"})
    assert answer.json == {"project": "3", "cancelled": [job], "kept": [version]}
    with pytest.raises(LabelStudioError, match="no credentials for project 3"):
        credentials.of("3")
    assert leases.due() == []
    assert client.get(f"/job_status?job={other}").json["job_status"] == "queued"
    assert client.post("/delete", json={"project": "3"}).json["cancelled"] == []


def test_a_duplicated_project_is_served_a_copy_of_the_model(client, registry, tmp_path):
    asked = {"project_src": "3.1795393773", "project_dst": "8.1795393774"}
    nothing = client.post("/duplicate_model", json=asked)
    assert (nothing.status_code, nothing.json) == (201, {"project": "8", "model_version": None})
    original = registry.promote("3", publish(registry, tmp_path))
    answer = client.post("/duplicate_model", json=asked)
    assert answer.json == {"project": "8", "model_version": "p8-r001-lite0"}
    copy = registry.current("8")
    assert (copy.version, copy.card.name, copy.card.parent) == ("p8-r001-lite0", "p8-r001-lite0", original.version)
    weights = "classifier.safetensors"
    assert (copy.directory / weights).read_bytes() == (original.directory / weights).read_bytes()
    assert client.post("/setup", json=setup_body(project=8)).json == {"model_version": "p8-r001-lite0"}
    again = client.post("/duplicate_model", json=asked)
    assert (again.status_code, "has versions already" in again.json["error"]) == (409, True)
    assert sorted(path.name for path in registry.store.folder.iterdir()) == ["project-3", "project-8"]


def test_another_sites_form_can_neither_delete_nor_duplicate(client):
    for path in ("/delete", "/duplicate_model"):
        answer = client.post(path, data='{"project": "3"}', content_type="text/plain")
        assert (answer.status_code, "application/json" in answer.json["error"]) == (400, True)


def test_deleting_a_project_forgets_its_token_whatever_its_jobs_do(client, credentials, jobs, leases, monkeypatch):
    """One is publishing and cannot be cancelled, one ends this moment, and the records cannot be used after that."""
    client.post("/setup", json=setup_body())
    publishing = client.post("/webhook", json=start_training()).json["job"]
    jobs.store.claim(publishing, "worker/1:1")
    jobs.store.advance(jobs.store.get(publishing), state="publishing")
    ended = jobs.submit("3", "prediction")[0].id
    real = jobs.cancel

    def just_ended(job_id):
        if job_id == ended:
            real(job_id)
        return real(job_id)

    monkeypatch.setattr(jobs, "cancel", just_ended)
    answer = client.post("/delete", json={"project": "3"})
    assert (answer.status_code, answer.json["cancelled"]) == (200, [])
    with pytest.raises(LabelStudioError, match="no credentials"):
        credentials.of("3")
    assert jobs.store.get(publishing).state == "publishing"
    client.post("/setup", json=setup_body())

    def unusable(*arguments):
        raise JobError("job records cannot be used")

    monkeypatch.setattr(leases, "abandon", unusable)
    assert client.post("/delete", json={"project": "3"}).status_code == 503
    with pytest.raises(LabelStudioError, match="no credentials"):
        credentials.of("3")


def test_half_of_a_character_is_refused_wherever_it_comes(client):
    half = "\ud800"
    for name in ("hostname", "access_token", "schema"):
        answer = client.post("/setup", json=setup_body() | {name: f"http://{half}"})
        assert (answer.status_code, "lone surrogate" in answer.json["error"]) == (400, True), name
    body = predict_body([half, f"http://{half}", "7"])
    body["tasks"][2]["id"] = half
    body["tasks"].append({"id": None, "data": {half: half, "image": "8"}})
    answer = client.post("/predict", json=body)
    assert [bool(entry) for entry in answer.json["results"]] == [False, False, True, True]
    assert client.post("/predict", json=predict_body(["1"]) | {"label_config": half}).status_code == 400
    assert client.post("/webhook", json={"action": half, "project": {"id": 3}}).status_code == 400
    assert client.post("/job_status", json={"job": half}).status_code == 404


def test_tasks_without_ids_have_answers_of_their_own(client, images):
    """The same answer for two tasks would draw one patient's masks on another's image."""
    body = predict_body(["10", "20", "10", "13"])
    for task, task_id in zip(body["tasks"], [None, None, "", "None"], strict=True):
        task["id"] = task_id
    del body["tasks"][0]["id"]
    results = client.post("/predict", json=body).json["results"]
    assert sorted(set(images.loads)) == ["10", "13", "20"]
    assert [bool(entry) for entry in results] == [True, True, True, False]  # the model fails on the last image


def test_a_late_task_whose_id_is_no_id_is_no_scope(client, leases, jobs):
    """Only the ids that Label Studio gives are left to a job: -5 would be taken for all tasks."""
    body = predict_body(["x"] * 6)
    for task, task_id in zip(body["tasks"], [-5, 0, 1 << 70, True, "all", 7], strict=True):
        task["id"] = task_id
    response = client.post("/predict", json=body)
    response.close()  # it never arrives
    assert set(leases.acquire_due("3", "job", 10, 60)) <= {"7"}
