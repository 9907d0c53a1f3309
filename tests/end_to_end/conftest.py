"""A real Label Studio and a real backend for the tests of this folder, started by the code that `make run` uses."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.demo import servers
from backend.demo.processes import stop_all
from backend.demo.sample_project import CONFIG
from backend.label_studio.client import LabelStudio
from tests.end_to_end.frames import BROKEN, FRAMES
from tests.end_to_end.stack import ENVIRON, LABEL_STUDIO, ROOT, Project, Stack, free_port, premask

START_SECONDS = 600.0


@pytest.fixture(scope="session")
def template() -> Path:
    """A data folder whose Label Studio database is set up: that takes a minute, so it is kept between runs."""
    lock = ROOT / "docker" / "requirements" / "label-studio.txt"
    folder = ROOT / ".cache" / f"label-studio-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        running = servers.label_studio(unfinished, free_port(8500), LABEL_STUDIO, ENVIRON).start()
        try:
            running.wait(START_SECONDS)
            servers.keep(unfinished)
        finally:
            stop_all([running])
        unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def stack(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Label Studio without any project, and `premask serve` with the starter weights."""
    folder = tmp_path_factory.mktemp("end_to_end") / "premask-data"
    shutil.copytree(template, folder)
    label_studio = servers.label_studio(folder, free_port(8600), LABEL_STUDIO, ENVIRON)
    backend = servers.backend(folder, free_port(9600), label_studio.url, ENVIRON)
    login = servers.login_of(folder)
    running = [label_studio.start(), backend.start()]
    try:
        for server in running:
            server.wait(START_SECONDS)
        yield Stack(label_studio, backend, LabelStudio(label_studio.url, login.token), login, folder)
    finally:
        stop_all(running)


@pytest.fixture(scope="session")
def project(stack: Stack) -> Project:
    """What a newcomer has after connecting: masks on every task whose image can be read."""
    client = stack.client
    project = int(client.create_project("end to end", CONFIG)["id"])
    named = {frame.name: frame for frame in (*FRAMES, BROKEN)}
    client.import_files(project, {name: frame.content for name, frame in named.items()})
    # Label Studio puts eight digits and a dash before each name.
    tasks = {
        int(task["id"]): named[task["data"]["image"].rpartition("/")[2][9:]]
        for task in client.export(project, all_tasks=True)
    }
    url, key = stack.label_studio.url, stack.login.token
    premask("connect", "--url", url, "--api-key", key, "--project", project, "--backend-url", stack.backend.url)
    client.retrieve_predictions(project)
    (backend,) = client.ml_backends(project)
    return Project(project, tasks, int(backend["id"]), str(backend["model_version"]))
