"""Two servers and two workers with folders of their own, PostgreSQL, S3, a real Label Studio; each of them is killed.

PREMASK_SOAK_TASKS=100 .venv/bin/python -m pytest -m soak -rP tests/end_to_end/test_many_machines.py
"""

import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from backend.database.engine import Database
from backend.database.jobs import FINISHED, PREDICTION, Job, JobStore
from backend.demo import servers
from backend.demo.checks import HOST
from backend.demo.processes import Running, Server, stop_all
from backend.demo.sample_project import CONFIG
from backend.label_studio.client import LabelStudio
from backend.settings import Settings
from backend.system.ports import port_is_free
from backend.wiring import assemble
from models.checkpoint import read_card, write_card
from models.data.png import encode_png
from models.phantom import render_phantom
from models.starter import STARTERS
from tests.backend import postgresql, s3
from tests.backend.conftest import close_queues
from tests.end_to_end.conftest import START_SECONDS
from tests.end_to_end.stack import ENVIRON, LABEL_STUDIO, free_port, premask
from tests.end_to_end.test_thousand_tasks import SEEDS, TASKS, UPLOADED_AT_ONCE, stored_in, wait_until

SECONDS = 4 * 3600.0  # until all is predicted, on a machine that is busy with other things

pytestmark = [pytest.mark.end_to_end, pytest.mark.soak, pytest.mark.timeout(SECONDS + 1800)]


@dataclass
class Machine:
    """A process that a test may kill, and has started again as Kubernetes does."""

    server: Server
    running: Running | None = None

    def start(self) -> None:
        serves = "serve" in self.server.command
        if serves:
            wait_until(lambda: port_is_free(int(self.server.url.rpartition(":")[2])), 60)
        self.running = self.server.start()
        if serves:
            self.running.wait(START_SECONDS)

    def kill(self) -> None:
        """kill -9; what it started ends with it."""
        os.kill(self.running.process.pid, signal.SIGKILL)
        self.running.process.wait()
        self.start()


@dataclass(frozen=True)
class Stack:
    """All that runs."""

    client: LabelStudio
    folder: Path
    machines: dict[str, Machine]
    database: postgresql.Server
    store: s3.Server
    jobs: JobStore
    project: int
    version: str

    def job(self) -> Job | None:
        """The project's newest prediction job."""
        return next(iter(self.jobs.find(str(self.project), kind=PREDICTION, limit=1)), None)


@pytest.fixture
def stack(template: Path, tmp_path: Path) -> Iterator[Stack]:
    folder = tmp_path / "label-studio"
    shutil.copytree(template, folder)
    login = servers.login_of(folder)
    with ExitStack() as up:
        database, store = up.enter_context(postgresql.server()), up.enter_context(s3.server())
        label_studio = servers.label_studio(folder, free_port(8650), LABEL_STUDIO, ENVIRON)
        shared = {
            **ENVIRON,
            **s3.KEYS,
            "PREMASK_DATABASE_URL": database.url(),
            "PREMASK_MODELS_URL": store.bucket("premask"),
            "PREMASK_MODELS_ENDPOINT": store.endpoint,
            "PREMASK_STARTER": "none",
            "PREMASK_SECRET_KEY": "one secret for all of them",
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": login.token,
            "PYTHONUNBUFFERED": "1",
        }

        def machine(name: str, *arguments: str) -> Machine:
            url = f"http://{HOST}:{free_port(9850 + 20 * len(machines))}"
            where = ("--host", HOST, "--port", url.rpartition(":")[2]) if "serve" in arguments else ()
            program = Path(sys.executable).parent / "premask"
            env = shared | {"PREMASK_DATA_DIR": str(tmp_path / name)}
            return Machine(Server(name, [program, *arguments, *where], env, url, "/health", tmp_path / name))

        machines: dict[str, Machine] = {}
        for number in (1, 2):
            machines[f"server {number}"] = machine(f"server-{number}", "serve", "--no-worker")
            machines[f"worker {number}"] = machine(f"worker-{number}", "worker")
        running = label_studio.start()
        up.callback(lambda: stop_all([running, *(one.running for one in machines.values() if one.running)]))
        running.wait(START_SECONDS)
        client = LabelStudio(label_studio.url, login.token)
        project = int(client.create_project("many machines", CONFIG)["id"])
        frames = [encode_png(render_phantom(seed, 512).image) for seed in SEEDS]
        for start in range(0, TASKS, UPLOADED_AT_ONCE):
            numbers = range(start, min(start + UPLOADED_AT_ONCE, TASKS))
            client.import_files(project, {f"{n}.png": frames[n % len(frames)] for n in numbers})
        version = publish(shared | {"PREMASK_DATA_DIR": str(tmp_path / "publisher")}, str(project), tmp_path)
        for one in machines.values():
            one.start()
        backend, key = machines["server 1"].server.url, login.token
        premask("connect", "--url", label_studio.url, "--api-key", key, "--project", project, "--backend-url", backend)
        records = Database.postgresql(database.url())
        up.callback(records.close)
        yield Stack(client, folder, machines, database, store, JobStore(records), project, version)


def stored_bytes(folder: Path, project: int) -> float:
    """Of a prediction in Label Studio's database, on average."""
    database = (folder / "label-studio" / "label_studio.sqlite3").absolute()
    query = "select avg(length(result)) from prediction where project_id = ?"
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
        return float(connection.execute(query, (project,)).fetchone()[0])


def publish(environ: dict[str, str], project: str, folder: Path) -> str:
    """Serve the shipped light model as a version of the project: every machine has to fetch it from the store."""
    parts = assemble(Settings.from_environ(environ))
    card = read_card(STARTERS["light"])
    name = parts.registry.reserve(project, card.backbone)
    checkpoint = folder / name
    shutil.copytree(STARTERS["light"], checkpoint)
    write_card(checkpoint, replace(card, name=name))
    parts.registry.publish(project, checkpoint)
    parts.registry.promote(project, name)
    close_queues(parts.queues)
    parts.database.close()
    return name


def test_every_task_is_predicted_once_though_each_machine_the_database_and_the_store_are_killed(stack: Stack) -> None:
    """A server while it answers the press; the others one after the other, at each sixth of the tasks."""
    tasks = {row.id for row in stack.client.task_rows(stack.project)}
    assert len(tasks) == TASKS
    began = time.monotonic()

    def done() -> int:
        return stored_in(stack.folder, stack.project).total()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {done()} predictions are stored; {text}", flush=True)

    press = threading.Thread(target=stack.client.retrieve_predictions, args=(stack.project,))
    press.start()
    wait_until(lambda: stack.job() is not None or done() > 0, 600)
    say("kill -9 of server 1, which answers the press")
    stack.machines["server 1"].kill()
    press.join()
    assert done() < TASKS, "the press itself has predicted all of them: ask for more tasks"
    kills: dict[str, Callable[[], None]] = {
        "the database": stack.database.kill,
        "worker 1": stack.machines["worker 1"].kill,
        "the store": stack.store.kill,
        "worker 2": stack.machines["worker 2"].kill,
        "server 2": stack.machines["server 2"].kill,
    }
    for number, (name, kill) in enumerate(kills.items(), 1):
        wait_until(lambda: done() >= TASKS * number // 6, SECONDS)  # noqa: B023
        say(f"kill -9 of {name}")
        kill()
    wait_until(lambda: set(stored_in(stack.folder, stack.project)) >= tasks, SECONDS)
    wait_until(lambda: (job := stack.job()) is not None and job.state in FINISHED, SECONDS)
    counts = stored_in(stack.folder, stack.project)
    lost, twice = len(tasks - set(counts)), sum(count > 1 for count in counts.values())
    seconds = (time.monotonic() - began) / TASKS
    say(f"{stored_bytes(stack.folder, stack.project):.0f} bytes of JSON each")
    say(f"of {TASKS} tasks {lost} are lost and {twice} predicted twice, {seconds:.2f} s a task")
    job = stack.job()
    assert job.state == "done", (job, stack.jobs.log_tail(job.id))
    assert counts == dict.fromkeys(tasks, 1)
    for name in ("worker 1", "worker 2"):
        cache = stack.machines[name].server.folder / "models-cache"
        assert list(cache.glob(f"project-{stack.project}/{stack.version}.*/card.json")), name
