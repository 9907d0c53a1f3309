"""A backend whose deadline comes after a second, and a project that takes it longer."""

import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from backend.database.jobs import FINISHED
from backend.demo import servers
from backend.demo.processes import Server, stop_all
from backend.demo.sample_project import CONFIG
from tests.end_to_end.conftest import START_SECONDS
from tests.end_to_end.frames import FRAMES
from tests.end_to_end.stack import ENVIRON, Stack, free_port, premask
from tests.end_to_end.test_label_studio import newest_job, wait_for

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1800)]

COPIES = 3


@pytest.fixture(scope="module")
def hurried(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hurried")
    shutil.copy(stack.folder / "login.json", folder)
    environ = ENVIRON | {"PREMASK_DEADLINE": "1", "PREMASK_STARTER": "light"}
    server = servers.backend(folder, free_port(9650), stack.label_studio.url, environ)
    running = [server.start()]
    try:
        running[0].wait(START_SECONDS)
        yield server
    finally:
        stop_all(running)


@pytest.fixture(scope="module")
def project(stack: Stack, hurried: Server) -> int:
    project = int(stack.client.create_project("hurried", CONFIG)["id"])
    for copy in range(COPIES):
        stack.client.import_files(project, {f"{copy}-{frame.name}": frame.content for frame in FRAMES})
    url, key = stack.label_studio.url, stack.login.token
    premask("connect", "--url", url, "--api-key", key, "--project", project, "--backend-url", hurried.url)
    return project


def stored(stack: Stack, project: int) -> Counter[int]:
    """How many predictions each task has."""
    return Counter(int(one["task"]) for one in stack.client.predictions(project))


def test_one_press_predicts_every_task_once_however_short_the_deadline(
    stack: Stack, hurried: Server, project: int
) -> None:
    """What the answer lacks is predicted by a job; a second press of all finds nothing to do."""
    tasks = {row.id for row in stack.client.task_rows(project)}
    stack.client.retrieve_predictions(project)
    wait_for(lambda: newest_job(hurried.url, project)["state"] in FINISHED, 1200)
    job = newest_job(hurried.url, project)
    assert (job["kind"], job["state"]) == ("prediction", "done"), job
    assert job["report"]["predicted"] > 0
    assert stored(stack, project) == dict.fromkeys(tasks, 1)

    again = requests.post(f"{hurried.url}/api/projects/{project}/predict", json={"tasks": "all"}, timeout=30).json()
    wait_for(lambda: newest_job(hurried.url, project)["state"] in FINISHED, 1200)
    job = newest_job(hurried.url, project)
    assert (job["id"], job["state"], job["report"]["present"]) == (again["job"], "done", len(tasks)), job
    assert stored(stack, project) == dict.fromkeys(tasks, 1)


def test_three_people_who_open_a_fresh_task_leave_one_prediction(stack: Stack, project: int) -> None:
    known = {row.id for row in stack.client.task_rows(project)}
    stack.client.import_files(project, {"fresh.png": FRAMES[0].content})
    (fresh,) = {row.id for row in stack.client.task_rows(project)} - known
    with ThreadPoolExecutor(3) as people:
        seen = list(people.map(lambda _: len(stack.client.task(fresh)["predictions"]), range(3)))
    wait_for(lambda: stored(stack, project)[fresh] > 0, 600)  # on a slow machine by a job, after the deadline
    assert stored(stack, project)[fresh] == 1
    assert max(seen) <= 1
