"""The profile `team` with compose.yml's variables: from an empty machine to a version that its worker trained."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.database.jobs import FINISHED
from backend.demo.predictions import iou, masks
from backend.demo.sample_project import CONFIG
from backend.label_studio.client import LabelStudio
from tests.docker import engine
from tests.docker.conftest import owned
from tests.docker.image import Image, stop
from tests.docker.test_files import composed
from tests.end_to_end.frames import FRAMES, regions
from tests.end_to_end.stack import LABEL_STUDIO
from tests.end_to_end.test_label_studio import wait_for

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]


@dataclass(frozen=True)
class Team:
    """What a team has after `docker compose up`."""

    client: LabelStudio
    backend: str
    login: tuple[str, str]
    image: Image
    data: Path
    services: dict[str, Any]
    hosts: Path

    def execute(self, *command: str) -> str:
        """`docker compose exec premask ...`."""
        environ = variables(self.services["premask"])
        code, output = self.image.run(self.data, command, environ, self.hosts)
        assert code == 0, output
        return output


@pytest.fixture(scope="module")
def team(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    services = composed("team", PREMASK_TRAIN_MINUTES="1")["services"]
    names = ("postgres", "label-studio", "premask")
    with ExitStack() as started:
        database = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="premask-postgres-")))
        addresses, hosts = started.enter_context(engine.network(names, folder))
        started.enter_context(engine.postgres(services["postgres"], database))
        command, env = engine.label_studio(LABEL_STUDIO, services["label-studio"], folder / "label-studio", hosts)
        started.enter_context(engine.process(command, folder / "label-studio.log", env))
        data = owned(folder / "data")
        for name in ("premask", "worker"):
            environ, command = variables(services[name]), services[name]["command"]
            inside = image.command(data, environ, command, hosts)
            with (folder / f"{name}.log").open("wb") as log:
                started.callback(stop, subprocess.Popen(inside, stdout=log, stderr=subprocess.STDOUT))
        token = services["premask"]["environment"]["LABEL_STUDIO_API_KEY"]
        client = LabelStudio(f"http://{addresses['label-studio']}:8080", token)
        backend = f"http://{addresses['premask']}:9090"
        for url in (client.url, backend):
            wait_for(partial(answers, url), 900)
        asked = services["premask"]["environment"]
        login = asked["PREMASK_BASIC_AUTH_USER"], asked["PREMASK_BASIC_AUTH_PASSWORD"]
        yield Team(client, backend, login, image, data, services, hosts)


def test_a_team_gets_masks_accepts_them_and_is_served_what_the_worker_learnt(team: Team) -> None:
    project = int(team.client.create_project("team", CONFIG)["id"])
    team.client.import_files(project, {frame.name: frame.content for frame in FRAMES})
    frames = {
        int(task["id"]): next(frame for frame in FRAMES if task["data"]["image"].endswith(frame.name))
        for task in team.client.export(project, all_tasks=True)
    }
    team.execute("premask", "connect", "--project", str(project), "--backend-url", "http://premask:9090")
    team.client.retrieve_predictions(project)
    first = team.client.predictions(project)
    assert {int(prediction["task"]) for prediction in first} == set(frames)
    for prediction in first:
        truth = frames[int(prediction["task"])].masks["Lumen"]
        assert iou(masks(prediction["result"]).get("Lumen"), truth) >= 0.8

    for task, frame in list(frames.items())[:6]:
        team.client.call("POST", f"/api/tasks/{task}/annotations/", json={"result": regions(frame), "lead_time": 3.0})
    (backend,) = team.client.ml_backends(project)
    team.client.call("POST", f"/api/ml/{backend['id']}/train", json={})
    wait_for(lambda: newest(team, project)["state"] in FINISHED, 1200)
    job = newest(team, project)
    assert job["state"] == "done", job
    assert job["report"]["used"] == 6
    if not job["metrics"]["promote"]:
        team.execute("premask", "versions", "promote", "--project", str(project), job["version"])
    wait_for(lambda: team.client.ml_backends(project)[0]["model_version"] == job["version"], 120)
    assert "Nothing is broken" in team.execute("premask", "doctor", "--project", str(project))


def variables(service: dict[str, Any]) -> dict[str, str]:
    """Compose leaves out those that are not set."""
    return {name: value for name, value in service["environment"].items() if value is not None}


def newest(team: Team, project: int) -> dict[str, Any]:
    answer = requests.get(f"{team.backend}/api/jobs", params={"project": project}, auth=team.login, timeout=30)
    job: dict[str, Any] = answer.json()["jobs"][0]
    return job


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).ok
    except requests.RequestException:
        return False
