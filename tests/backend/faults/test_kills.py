"""kill -9 of the server, the worker, their children or all of them, at seeded random moments of all they do."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import requests
from sqlalchemy import select

from backend.database.engine import Database
from backend.database.jobs import FINISHED
from backend.database.tables import LEASES
from backend.label_studio.client import LabelStudio
from backend.versions.registry import Registry
from backend.versions.store import Store
from models.checkpoint import read_card
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG, eventually
from tests.backend.jobs.conftest import POLYGONS, TRIANGLE, png

ROOT = Path(__file__).parents[3]
SECONDS = 600.0  # until everything must be well again, on a machine that is busy with other things
TASKS = 60


class Stack:
    """The backend of a test, started again whenever it has ended, as systemd or Docker do."""

    def __init__(self, folder: Path, label_studio: FakeLabelStudio, starter: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._environ = kept | {
            "PREMASK_DATA_DIR": str(folder),
            "PREMASK_STARTER": str(starter),
            "PREMASK_PORT": str(port),
            "PREMASK_DEADLINE": "1",
            "PREMASK_KEEP_VERSIONS": "100",  # versions are counted
            "PREMASK_LOG_LEVEL": "WARNING",
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.legacy_token,
            "OMP_NUM_THREADS": "1",
        }
        folder.mkdir()
        self._log = (folder / "log").open("ab")
        self._over = threading.Event()
        self.process = self._start()
        self._thread = threading.Thread(target=self._keep_alive)
        self._thread.start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "tests.backend.faults.stack", "serve"]
        return subprocess.Popen(command, env=self._environ, cwd=ROOT, stdout=self._log, stderr=self._log)

    def _keep_alive(self) -> None:
        while not self._over.wait(0.2):
            if self.process.poll() is not None:
                self.process = self._start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        family = self.family()
        self.process.terminate()
        self.process.wait(60)
        for process in family:
            kill(process)
        self._log.close()

    def family(self) -> list[psutil.Process]:
        """Every process of it, parents first."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self, rng: random.Random) -> str:
        """Kill one of its processes, or all at once as a power cut does; says what."""
        family = eventually(self.family)
        victims = family if rng.random() < 0.2 else [rng.choice(family)]
        names = [command(process) for process in victims]
        for process in victims:
            kill(process)
        return ", ".join(names)

    def healthy(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False

    def jobs(self, project: int) -> list:
        """The project's jobs, newest first, as soon as the server answers."""

        def ask() -> dict | None:
            try:
                return requests.get(f"{self.url}/api/jobs?project={project}", timeout=30).json()
            except requests.RequestException:
                return None

        return eventually(ask, SECONDS)["jobs"]


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def command(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return "gone"
    return next((word for word in ("predict", "worker", "serve", "gunicorn", "slow") if word in words), "starting")


@pytest.fixture
def label_studio():
    with FakeLabelStudio(storing_seconds=0.01) as server:
        yield server


@pytest.fixture
def stack(tmp_path, label_studio, starter):
    stack = Stack(tmp_path / "data", label_studio, starter)
    try:
        yield stack
    finally:
        stack.stop()


def wait(condition):
    return eventually(condition, SECONDS)


def predict_round(stack, label_studio, rng, project, client):
    """One press of Retrieve Predictions and one kill; every task gets its prediction, and one only."""
    fresh = [str(label_studio.add_upload(project, f"{number}.png", png())) for number in range(TASKS)]
    tasks = [task for task, one in label_studio.tasks.items() if one["project"] == project]
    wait(stack.healthy)
    press = threading.Thread(target=client.retrieve_predictions, args=(project,))
    press.start()
    # Before that the backend has not heard of them.
    database = Database.sqlite(stack.folder / "premask.sqlite")
    asked = select(LEASES).where(LEASES.c.project == str(project), LEASES.c.task.in_(fresh))
    wait(lambda: database.read(lambda connection: connection.execute(asked).first()) or not press.is_alive())
    time.sleep(rng.uniform(0, 8))
    victim = stack.kill(rng)
    press.join()
    wait(lambda: {one["task"] for one in list(label_studio.predictions.values())} >= set(tasks))
    wait(lambda: all(job["state"] in FINISHED for job in stack.jobs(project)))
    counts = Counter(one["task"] for one in label_studio.predictions.values())
    assert counts == dict.fromkeys(tasks, 1), victim
    return victim


def train_round(stack, label_studio, rng, project, client):
    """One press of Start Training and one kill; there is one more version, whole and served, or a reason."""
    database = Database.sqlite(stack.folder / "premask.sqlite")
    registry = Registry(database, Store(stack.folder / "models"))
    wait(stack.healthy)
    before, versions = len(stack.jobs(project)), len(registry.versions(str(project)))
    client.call("POST", f"/api/ml/{next(iter(label_studio.backends))}/train", json={})
    wait(lambda: len(stack.jobs(project)) > before)
    time.sleep(rng.uniform(0, 6))
    victim = stack.kill(rng)
    job = wait(lambda: (one := stack.jobs(project)[0])["state"] in FINISHED and one)
    infos = registry.versions(str(project))
    assert [read_card(info.directory).name for info in infos] == [info.version for info in infos], victim
    if job["state"] == "done":
        assert len(infos) == versions + 1, victim
        assert registry.current(str(project)).version == infos[-1].version == job["version"]
    else:
        assert len(infos) == versions, victim
        assert "killed" in job["reason"] or "died" in job["reason"], job
    return victim


def rounds(round_, stack, label_studio, config, seed, count):
    """So many rounds; prints what was killed."""
    rng = random.Random(seed)
    project = label_studio.add_project(config)
    for number in range(5):
        label_studio.add_annotation(label_studio.add_upload(project, f"{number}.png", png()), [TRIANGLE])
    wait(stack.healthy)
    client = LabelStudio(label_studio.url, label_studio.legacy_token)
    client.create_ml_backend(project, stack.url, "premask")
    print(Counter(round_(stack, label_studio, rng, project, client) for _ in range(count)))


@pytest.mark.timeout(3600)
def test_two_kills_while_tasks_are_predicted(stack, label_studio):
    rounds(predict_round, stack, label_studio, CONFIG, seed=1, count=2)


@pytest.mark.timeout(3600)
def test_a_kill_while_a_version_is_trained(stack, label_studio):
    rounds(train_round, stack, label_studio, POLYGONS, seed=2, count=1)


@pytest.mark.soak
@pytest.mark.timeout(14400)
def test_twenty_kills_while_tasks_are_predicted(stack, label_studio):
    rounds(predict_round, stack, label_studio, CONFIG, seed=3, count=20)


@pytest.mark.soak
@pytest.mark.timeout(14400)
def test_twenty_kills_while_versions_are_trained(stack, label_studio):
    rounds(train_round, stack, label_studio, POLYGONS, seed=4, count=20)
