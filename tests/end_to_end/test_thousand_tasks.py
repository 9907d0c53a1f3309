"""A thousand tasks, a real Label Studio, the weights we ship: one press, and the backend killed twice on the way."""

import os
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.database.jobs import FINISHED
from backend.demo import servers
from backend.demo.processes import Running, Server, stop_all
from backend.demo.sample_project import CONFIG
from backend.system.ports import port_is_free
from models.data.png import encode_png
from models.phantom import render_phantom
from tests.end_to_end.conftest import START_SECONDS
from tests.end_to_end.stack import ENVIRON, Stack, free_port, premask

TASKS = int(os.environ.get("PREMASK_SOAK_TASKS", "1000"))
SECONDS = 4 * 3600.0  # until all is predicted, on a machine that is busy with other things
SEEDS = range(920_000, 920_020)  # frames that differ; each is uploaded many times, and every upload is a task
UPLOADED_AT_ONCE = 50

pytestmark = [pytest.mark.end_to_end, pytest.mark.soak, pytest.mark.timeout(SECONDS + 1800)]


class Backend:
    """`premask serve`, which a test may kill and have started again as systemd or Docker do."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self._server = server
        self._port = int(server.url.rpartition(":")[2])
        self.running: Running
        self._start()

    def _start(self) -> None:
        wait_until(lambda: port_is_free(self._port), 60)
        self.running = self._server.start()
        self.running.wait(START_SECONDS)

    def kill(self) -> None:
        """kill -9 of the server; what it started ends with it."""
        os.kill(self.running.process.pid, signal.SIGKILL)
        self.running.process.wait()
        self._start()

    def job(self, project: int) -> dict[str, Any]:
        """The project's newest job; nothing while there is none or the server is too busy to say."""
        try:
            jobs = requests.get(f"{self.url}/api/jobs", params={"project": project}, timeout=10).json()["jobs"]
        except requests.RequestException:
            return {}
        return dict(jobs[0]) if jobs else {}


@pytest.fixture
def backend(stack: Stack, tmp_path: Path) -> Iterator[Backend]:
    shutil.copy(stack.folder / "login.json", tmp_path)
    backend = Backend(servers.backend(tmp_path, free_port(9750), stack.label_studio.url, ENVIRON))
    try:
        yield backend
    finally:
        stop_all([backend.running])


@pytest.fixture
def project(stack: Stack, backend: Backend) -> int:
    frames = [encode_png(render_phantom(seed, 512).image) for seed in SEEDS]
    project = int(stack.client.create_project("a thousand tasks", CONFIG)["id"])
    for start in range(0, TASKS, UPLOADED_AT_ONCE):
        numbers = range(start, min(start + UPLOADED_AT_ONCE, TASKS))
        stack.client.import_files(project, {f"{n}.png": frames[n % len(frames)] for n in numbers})
    url, key = stack.label_studio.url, stack.login.token
    premask("connect", "--url", url, "--api-key", key, "--project", project, "--backend-url", backend.url)
    return project


def stored(stack: Stack, project: int) -> Counter[int]:
    return stored_in(stack.folder, project)


def stored_in(folder: Path, project: int) -> Counter[int]:
    """How many predictions each task has, read where Label Studio keeps them: its API would send every mask."""
    database = (folder / "label-studio" / "label_studio.sqlite3").absolute()
    query = "select task_id, count(*) from prediction where project_id = ? group by task_id"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
        return Counter(dict(connection.execute(query, (project,)).fetchall()))


def test_one_press_predicts_a_thousand_tasks_once_each_though_the_backend_is_killed_twice(
    stack: Stack, backend: Backend, project: int
) -> None:
    """Killed while it answers the press, and again while its job imports; then nothing is missing, nothing twice."""
    tasks = {row.id for row in stack.client.task_rows(project)}
    assert len(tasks) == TASKS
    began = time.monotonic()
    say = lambda text: print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)  # noqa: E731
    press = threading.Thread(target=stack.client.retrieve_predictions, args=(project,))
    press.start()
    wait_until(lambda: answered(backend) > 0, 600)
    say(f"the press is being answered ({answered(backend)} images predicted so far); kill -9")
    backend.kill()
    press.join()
    say(f"{stored(stack, project).total()} predictions are stored; Label Studio has given the press up")

    wait_until(lambda: stored(stack, project).total() >= TASKS * 0.3, SECONDS)
    say(f"{stored(stack, project).total()} predictions are stored; kill -9")
    backend.kill()
    wait_until(lambda: set(stored(stack, project)) >= tasks, SECONDS)
    wait_until(lambda: backend.job(project).get("state") in FINISHED, SECONDS)
    seconds = time.monotonic() - began
    counts = stored(stack, project)
    twice = sum(count > 1 for count in counts.values())
    say(f"all done: {len(counts)} of {TASKS} tasks predicted, {twice} of them twice, {seconds / TASKS:.2f} s a task")
    assert backend.job(project)["state"] == "done", backend.job(project)
    assert counts == dict.fromkeys(tasks, 1)


def answered(backend: Backend) -> int:
    """Batches that the server has predicted since it was started."""
    try:
        text = requests.get(f"{backend.url}/metrics", timeout=10).text
    except requests.RequestException:
        return 0
    name = 'premask_stage_seconds_count{stage="predict"} '
    return next((int(float(line.removeprefix(name))) for line in text.splitlines() if line.startswith(name)), 0)


def wait_until(happens: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, f"it did not happen in {seconds:.0f} s"
        time.sleep(1)
