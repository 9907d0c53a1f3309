import pytest

from backend.database.reviews import Doubt, Reviews
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


def doubt(task, suspicion):
    return Doubt(str(task), "1", "", "Lumen", "label", suspicion, "the labels may be swapped", "p3-r001-lite0", False)


def test_the_review_queue_is_listed_and_what_is_fine_leaves_it(client, records):
    Reviews(records).replace("3", [doubt(7, 0.4), doubt(8, 0.9)])
    queue = client.get("/api/projects/3/review").json
    assert queue["project"] == "3"
    assert [(one["task"], one["kind"], one["suspicion"]) for one in queue["tasks"]] == [
        ("8", "label", 0.9),
        ("7", "label", 0.4),
    ]
    assert client.post("/api/projects/3/review/8/fine").json == {"project": "3", "task": "8", "waiting": 1}
    assert [one["task"] for one in client.get("/api/projects/3/review").json["tasks"]] == ["7"]
    gone = client.post("/api/projects/3/review/8/fine")
    assert (gone.status_code, gone.json["error"]) == (404, "task 8 is not in the review queue of project 3")


def test_a_review_is_one_job(client):
    answer = client.post("/api/projects/3/review")
    assert (answer.status_code, answer.json["joined"]) == (201, False)
    assert client.post("/api/projects/3/review").json == answer.json | {"joined": True}
    (job,) = client.get("/api/jobs?project=3").json["jobs"]
    assert (job["kind"], job["state"]) == ("review", "queued")
