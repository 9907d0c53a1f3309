"""Trainings whose project changes or is deleted while they run, and jobs whose clock is set back."""

import copy
import time

import pytest

from backend.database.engine import Database
from backend.database.jobs import JobStore
from backend.database.leases import Leases
from backend.jobs.queue import JobQueue, postgresql_queues
from backend.label_studio.client import LabelStudio
from tests.backend import postgresql
from tests.backend.conftest import close_queues
from tests.backend.jobs.conftest import TRIANGLE

WORKER = "host/1:1"


def run(store, runner, project):
    job, _ = store.submit("training", project)
    runner.run(job.id, WORKER)
    return store.get(job.id)


def test_a_project_that_was_deleted_is_named_and_its_job_fails(store, runner_that, project, label_studio):
    del label_studio.projects[int(project)]
    job = run(store, runner_that("promote"), project)
    assert job.state == "failed"
    assert f"/api/projects/{project}/: not found" in job.reason


def test_a_project_that_is_deleted_while_its_images_are_fetched_loses_the_training_and_no_version(
    store, runner_that, registry, project, label_studio
):
    """It is not trained on what was fetched before."""

    def delete(*_):
        label_studio.projects.clear()
        label_studio.files.clear()

    job = run(store, runner_that("promote", learned=delete), project)
    assert job.state == "failed"
    assert f"/api/projects/{project}/: not found" in job.reason
    assert registry.versions(project) == []


@pytest.mark.parametrize(
    ("faults", "says"),
    [
        ([("png", 503, "refused"), ("projects/{}/", 503, "refused")], "HTTP 503"),
        ([("png", 401, "refused"), ("projects/{}/", 401, "refused")], "refused the legacy token"),
    ],
)
def test_a_label_studio_that_goes_while_its_images_are_fetched_loses_the_training(
    store, runner_that, registry, project, label_studio, faults, says
):
    """The version would have learnt four of five tasks, and nobody had known why."""

    def go(*_):
        label_studio.faults = [(path.format(project), status, how) for path, status, how in faults]

    job = run(store, runner_that("promote", learned=go), project)
    assert (job.state, registry.versions(project)) == ("failed", [])
    assert says in job.reason


@pytest.mark.parametrize(("status", "used"), [(503, 5), (429, 5), (404, 4)])
def test_an_image_that_does_not_come_at_once_is_asked_for_again_unless_it_is_not_there(
    store, runner_that, project, label_studio, status, used
):
    def go(*_):
        label_studio.faults = [("png", status, "refused")]

    job = run(store, runner_that("promote", learned=go), project)
    assert (job.state, job.report["used"]) == ("done", used)


def test_a_label_that_came_after_the_config_was_read_is_left_out_and_counted(
    store, runner_that, project, label_studio, monkeypatch
):
    """The next training reads the new config and learns it."""
    export = LabelStudio.export

    def changed(self, project_id):
        stranger = copy.deepcopy(TRIANGLE)
        stranger["value"]["polygonlabels"] = ["Stent"]
        for annotation in label_studio.annotations.values():
            annotation["result"] = [TRIANGLE, stranger]
        config = label_studio.projects[int(project)]
        config["label_config"] = config["label_config"].replace(
            '<Label value="Lumen"/>', '<Label value="Lumen"/><Label value="Stent"/>'
        )
        return export(self, project_id)

    with monkeypatch.context() as patched:
        patched.setattr(LabelStudio, "export", changed)
        before = run(store, runner_that("promote"), project)
    assert before.state == "done"
    assert before.report["classes"]["Lumen"] == 5
    assert "Stent" not in before.report["classes"]
    assert sum(before.report["regions"].values()) == 5
    after = run(store, runner_that("promote"), project)
    assert after.report["classes"]["Stent"] == 5


def test_a_clock_that_is_set_back_neither_loses_nor_doubles_a_job(store, runner_that, project, registry, monkeypatch):
    first, _ = store.submit("training", project)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 86_400)
    again, new = store.submit("training", project)
    assert (again.id, new) == (first.id, False)
    runner_that("promote").run(first.id, WORKER)
    assert store.get(first.id).state == "done"
    second = run(store, runner_that("promote"), project)
    assert (second.state, registry.current(project).version) == ("done", second.version)
    assert {job.id for job in store.find(project)} == {first.id, second.id}


def test_a_postgresql_that_goes_away_is_a_503_that_says_what_to_check_until_it_is_back(make_client):
    with postgresql.server() as server:
        server.execute(f"create role {postgresql.GUARDED} login superuser password 's3cret'")
        server.create("premask")
        records = Database.postgresql(server.url("premask", postgresql.GUARDED, "s3cret"))
        client = make_client(jobs=JobQueue(JobStore(records), Leases(records), queues := postgresql_queues(records)))
        first = client.post("/train", json={"project": 3}).json["job"]
        server.stop()
        for answer in (client.post("/train", json={"project": 4}), client.get("/api/jobs"), client.get("/dashboard")):
            assert answer.status_code == 503
            assert "PREMASK_DATABASE_URL" in answer.text
            assert "s3cret" not in answer.text
        assert client.get("/health").status_code == 200
        server.start()
        assert client.post("/train", json={"project": 3}).json["job"] == first
        assert client.post("/train", json={"project": 4}).status_code == 201
        close_queues(queues)
        records.close()
