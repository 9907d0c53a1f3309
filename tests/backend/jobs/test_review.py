"""The review job: each accepted task is judged by a model that has not learnt it, where there is one."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.database.reviews import Reviews
from backend.jobs.review import Reviewer, ReviewWork, assign, doubts_of, task_of
from backend.jobs.running import Runner
from backend.jobs.training import ACCEPTED
from models.checkpoint import read_card, write_card
from tests.backend.fakes import write_checkpoint
from tests.backend.jobs.conftest import POLYGONS, TRIANGLE, png

FAKE_REVIEW = Path(__file__).parent / "fake_review.py"


@pytest.fixture
def reviews(records):
    return Reviews(records)


@pytest.fixture
def review(store, leases, registry, starter, connections, reviews, tmp_path):
    """Runs a review of a project; returns its job."""

    def run(project, with_starter=True):
        work = ReviewWork(
            registry,
            starter if with_starter else None,
            connections.client,
            connections.images,
            reviews,
            command=(sys.executable, str(FAKE_REVIEW)),
        )
        job, _ = store.submit("review", project)
        Runner(store, leases, {"review": work}, tmp_path / "work").run(job.id, "host/1:1")
        return store.get(job.id)

    return run


def reviewer(name, accepted=(), held_out=()):
    return Reviewer(
        name, SimpleNamespace(directory=Path(name)), frozenset({"Lumen"}), dict(accepted), frozenset(held_out)
    )


def test_the_first_model_that_has_not_learnt_an_image_judges_it():
    served = reviewer("p3-r002", {"1": "10", "2": "20", "3": "30"}, {"task-2"})
    before = reviewer("p3-r001", {"1": "10"})
    stamps = {"1": "10", "2": "20", "3": "30", "4": "40"}
    plan = assign(["task-1", "task-2", "task-3", "task-4"], stamps, [served, before])
    assert {(one.name, learnt): names for (one, learnt), names in plan.items()} == {
        ("p3-r002", True): ["task-1"],  # both have learnt it
        ("p3-r002", False): ["task-2", "task-4"],  # held out, and accepted since
        ("p3-r001", False): ["task-3"],
    }
    changed = assign(["task-1"], {"1": "10,11"}, [served, before])
    assert [learnt for _, learnt in changed] == [False]


def test_a_task_of_several_images_is_queued_once_with_its_worst():
    found = [
        {
            "image": image,
            "label": "a",
            "kind": "missed",
            "suspicion": s,
            "sentence": "",
            "version": "v",
            "learnt": False,
        }
        for image, s in (("task-7 left", 0.2), ("task-7 right, page 2", 0.8))
    ]
    (doubt,) = doubts_of(found, {"7": "70"})
    assert (doubt.task, doubt.annotations, doubt.image, doubt.suspicion) == ("7", "70", "right, page 2", 0.8)
    assert task_of("task-7 right, page 2") == "7"


def test_a_project_without_versions_is_judged_by_the_starter(review, reviews, project, starter):
    job = review(project)
    assert (job.state, job.message) == ("done", "5 accepted images were looked at; 1 tasks are worth a second look")
    (doubt,) = reviews.waiting(project)
    assert (doubt.version, doubt.learnt, doubt.sentence) == (read_card(starter).name, False, "5 images")


def test_an_image_that_does_not_come_at_once_is_looked_at_all_the_same(review, project, label_studio):
    label_studio.faults = [("png", 503, "refused")]
    assert review(project).message.startswith("5 accepted images were looked at")


def test_what_the_served_version_has_learnt_is_judged_by_the_starter(
    review, reviews, project, registry, starter, tmp_path, label_studio
):
    tasks = [str(task["id"]) for task in label_studio.tasks.values() if str(task["project"]) == project]
    stamps = {
        task: ",".join(str(key) for key, one in label_studio.annotations.items() if str(one["task"]) == task)
        for task in tasks
    }
    info = registry.reserve(project)
    directory = write_checkpoint(tmp_path / info, info)
    (directory / ACCEPTED).write_text(json.dumps(dict(list(stamps.items())[:3])))
    card = read_card(directory)
    card.training["held_out"] = [f"task-{tasks[0]}"]
    write_card(directory, card)
    registry.publish(project, directory)
    registry.promote(project, info)
    review(project)
    found = {one.version: one.sentence for one in reviews.waiting(project)}
    assert found == {info: "3 images", read_card(starter).name: "2 images"}


def test_without_any_model_that_knows_a_class_it_says_so(review, project):
    job = review(project, with_starter=False)
    assert job.state == "failed"
    assert "no model knows the classes" in job.reason


def test_a_project_without_accepted_tasks_says_so(review, label_studio):
    number = label_studio.add_project(POLYGONS)
    label_studio.add_upload(number, "a.png", png())
    job = review(str(number))
    assert (job.state, job.reason) == ("failed", f"project {number} has no accepted task that could be reviewed")


def test_a_task_that_is_fine_is_not_queued_again(review, reviews, project, label_studio):
    review(project)
    (doubt,) = reviews.waiting(project)
    reviews.fine(project, doubt.task)
    assert "0 tasks are worth" in review(project).message
    label_studio.add_annotation(int(doubt.task), [TRIANGLE])
    review(project)
    assert [one.task for one in reviews.waiting(project)] == [doubt.task]
