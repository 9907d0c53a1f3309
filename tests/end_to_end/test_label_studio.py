"""What a team sees in Label Studio, by the HTTP calls that its pages make."""

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import requests

from backend.database.jobs import FINISHED
from backend.demo.predictions import iou, masks
from backend.demo.sample_project import move_backend
from tests.end_to_end.frames import BROKEN, FRAMES, Frame, regions
from tests.end_to_end.stack import Project, Stack

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


def stored(stack: Stack, project: Project) -> dict[str, list[dict[str, Any]]]:
    """The stored predictions by file name, oldest first."""
    found: dict[str, list[dict[str, Any]]] = {frame.name: [] for frame in project.frames.values()}
    for prediction in sorted(stack.client.predictions(project.id), key=lambda one: int(one["id"])):
        found[project.frames[int(prediction["task"])].name].append(prediction)
    return found


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.name)
def test_the_stored_masks_lie_on_the_tissue(stack: Stack, project: Project, frame: Frame) -> None:
    """Decoded by Label Studio's own decoder, in the size that the browser displays."""
    (prediction,) = stored(stack, project)[frame.name]
    sizes = {(r["original_width"], r["original_height"]) for r in prediction["result"] if r["type"] == "brushlabels"}
    assert sizes == {frame.size}
    assert iou(masks(prediction["result"]).get("Lumen"), frame.masks["Lumen"]) >= 0.8


def test_each_prediction_carries_a_score_and_the_version_that_setup_reports(stack: Stack, project: Project) -> None:
    predictions = stack.client.predictions(project.id)
    assert {prediction["model_version"] for prediction in predictions} == {project.version}
    assert all(0 <= prediction["score"] <= 1 for prediction in predictions)


def test_the_data_manager_shows_the_scores_and_sorts_by_them(stack: Stack, project: Project) -> None:
    shown = shown_scores(stack, project)
    expected = {int(one["task"]): one["score"] for one in stack.client.predictions(project.id)}
    assert {task: score for task, score in shown.items() if score is not None} == pytest.approx(expected, abs=1e-6)
    scores = [score for score in shown.values() if score is not None]
    assert scores == sorted(scores)


def test_a_task_whose_image_is_broken_gets_no_prediction_and_costs_the_others_none(
    stack: Stack, project: Project
) -> None:
    counts = {name: len(predictions) for name, predictions in stored(stack, project).items()}
    assert counts == {frame.name: 1 for frame in FRAMES} | {BROKEN.name: 0}


def test_retrieving_again_stores_nothing_twice(stack: Stack, project: Project) -> None:
    before = len(stack.client.predictions(project.id))
    stack.client.retrieve_predictions(project.id)
    assert len(stack.client.predictions(project.id)) == before


def test_start_training_on_six_accepted_tasks_serves_a_new_version(stack: Stack, project: Project) -> None:
    """The skipped task is left out and counted; new masks come beside the old ones, once they are served.

    A minute's training on five images need not be good enough to be served by itself; then the lead does it by hand.
    """
    before = stored(stack, project)
    tasks = {frame.name: task for task, frame in project.frames.items()}
    for frame in FRAMES[:6]:
        parent = before[frame.name][0]["id"]
        submitted = {"result": regions(frame), "lead_time": 3.2, "draft_id": 0, "parent_prediction": parent}
        stack.client.call("POST", f"/api/tasks/{tasks[frame.name]}/annotations/", json=submitted)
    skipped = {"result": [], "lead_time": 1.0, "draft_id": 0, "was_cancelled": True}
    stack.client.call("POST", f"/api/tasks/{tasks[FRAMES[6].name]}/annotations/", json=skipped)

    started = time.monotonic()
    stack.client.call("POST", f"/api/ml/{project.backend}/train", json={})
    assert time.monotonic() - started < 5, "the button must not wait for the training"
    wait_for(lambda: newest_job(stack.backend.url, project.id)["state"] in FINISHED, 600)
    job = newest_job(stack.backend.url, project.id)
    assert job["state"] == "done", job
    assert job["report"]["used"] == 6
    assert sum(job["report"]["dropped"].values()) == 1

    if not job["metrics"]["promote"]:
        assert stack.client.ml_backends(project.id)[0]["model_version"] == project.version
        by_hand = {"project": project.id, "version": job["version"]}
        requests.post(f"{stack.backend.url}/api/versions/promote", json=by_hand, timeout=10).raise_for_status()
    # Label Studio asks /setup each time; the old version answers until the new one is loaded.
    # That takes as long as to convert it for this machine.
    wait_for(lambda: stack.client.ml_backends(project.id)[0]["model_version"] == job["version"], 300)
    assert job["version"] != project.version
    stack.client.retrieve_predictions(project.id)
    # On a slow machine a job stores what the answer could not.
    wait_for(lambda: all(len(stored(stack, project)[frame.name]) > 1 for frame in FRAMES), 300)
    after = stored(stack, project)
    for frame in FRAMES:
        old, new = after[frame.name]
        assert (old["id"], old["model_version"]) == (before[frame.name][0]["id"], project.version)
        assert new["model_version"] == job["version"]
    drawn = [iou(masks(after[frame.name][1]["result"]).get("Lumen"), frame.masks["Lumen"]) for frame in FRAMES]
    assert np.mean(drawn) >= 0.8
    # The name in Label Studio follows by itself, so the column now holds the new version's scores.
    wait_for(lambda: stack.client.ml_backends(project.id)[0]["title"] == job["version"], 300)
    newest = {tasks[frame.name]: after[frame.name][1]["score"] for frame in FRAMES}
    shown = shown_scores(stack, project)
    assert {task: shown[task] for task in newest} == pytest.approx(newest, abs=1e-6)


def test_a_changed_port_moves_the_registration_with_its_webhook(stack: Stack, project: Project) -> None:
    """A second registration would be useless: Label Studio asks only the first."""
    client, url = stack.client, stack.backend.url
    elsewhere = url.replace("127.0.0.1", "localhost")
    move_backend(client, project.id, elsewhere)
    assert [backend["url"] for backend in client.ml_backends(project.id)] == [elsewhere]
    assert [webhook["url"] for webhook in client.webhooks(project.id)] == [f"{elsewhere}/webhook"]
    move_backend(client, project.id, url)
    assert [backend["url"] for backend in client.ml_backends(project.id)] == [url]


def shown_scores(stack: Stack, project: Project) -> dict[int, float | None]:
    """The column "Prediction score" of the Data Manager by task, sorted by it, least first."""
    query = f"/api/tasks/?project={project.id}&page_size=100&fields=all"
    ordered = json.dumps({"ordering": ["tasks:predictions_score"]})
    rows = stack.client.call("GET", f"{query}&query={quote(ordered)}")["tasks"]
    return {int(row["id"]): row["predictions_score"] for row in rows}


def newest_job(backend: str, project: int) -> dict[str, Any]:
    jobs = requests.get(f"{backend}/api/jobs", params={"project": project}, timeout=30).json()["jobs"]
    newest: dict[str, Any] = jobs[0]
    return newest


def wait_for(happens: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"it did not happen in {seconds} s"
        time.sleep(1)
