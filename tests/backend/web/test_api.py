import pytest

from tests.backend.fakes import start_training


def test_a_job_is_cancelled_and_a_new_request_starts_another(client):
    job = client.post("/webhook", json=start_training()).json["job"]
    assert client.post(f"/api/jobs/{job}/cancel").json["state"] == "cancelled"
    again = client.post(f"/api/jobs/{job}/cancel")
    assert (again.status_code, again.json["error"]) == (409, f"job {job} is cancelled already")
    assert client.post("/webhook", json=start_training()).json["joined"] is False
    assert client.post("/api/jobs/none/cancel").status_code == 404


@pytest.mark.parametrize(("body", "tasks"), [(None, "unlabelled"), ({}, "unlabelled"), ({"tasks": "all"}, "all")])
def test_predicting_a_project_queues_one_job(client, jobs, leases, body, tasks):
    answer = (
        client.post("/api/projects/3/predict", json=body)
        if body is not None
        else client.post("/api/projects/3/predict")
    )
    assert answer.status_code == 201
    assert client.post("/api/projects/3/predict", json=body or {}).json == answer.json | {"joined": True}
    (job,) = client.get("/api/jobs?project=3").json["jobs"]
    assert (job["kind"], job["state"], job["started"]) == ("prediction", "queued", None)
    assert tasks in leases.acquire_due("3", job["id"], 9, 60)


def test_a_body_that_is_no_json_is_refused(client):
    assert "JSON" in client.post("/api/projects/3/predict", data=b"{").json["error"]


@pytest.mark.parametrize("body", [b"[]", b'{"tasks": "some"}'])
def test_a_choice_of_tasks_that_there_is_not_is_named(client, body):
    answer = client.post("/api/projects/3/predict", data=body, content_type="application/json")
    assert answer.status_code == 400
    assert "'unlabelled' or 'all'" in answer.json["error"]
