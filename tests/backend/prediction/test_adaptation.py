"""A project's first accepted masks teach the prompt network: what is looked up, when it learns, what then answers."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import ImageError, LabelStudioError
from backend.label_studio.client import TaskRow
from backend.label_studio.label_config import parse_label_config
from backend.prediction import adaptation
from backend.prediction.adaptation import LOOK_SECONDS, REST_SECONDS, Adaptations
from backend.prediction.prompts import Prompts
from backend.versions.inference import Inference
from backend.versions.registry import Registry
from backend.versions.serving import Served, Serving
from models.families import load_model
from models.starter import PROMPTS
from models.training.adaptation import read_examples
from tests.backend.fakes import CONFIG, eventually
from tests.backend.jobs.conftest import TRIANGLE
from tests.backend.prediction.test_prompts import ask

ROOT = Path(__file__).parents[3]
ASPECT = parse_label_config(CONFIG.replace("BrushLabels", "PolygonLabels"))


class Project:
    """A project whose accepted tasks can be changed, and its images; counts what is asked."""

    def __init__(self) -> None:
        self.accepted: dict[int, list[dict[str, Any]]] = {}
        self.looks = 0
        self.read: list[int] = []
        self.problem: Exception | None = None

    def accept(self, task: int, label: str = "Lumen") -> None:
        value = {**TRIANGLE["value"], "polygonlabels": [label]}
        self.accepted[task] = [{"id": 10 * task, "result": [{**TRIANGLE, "value": value}]}]

    def task_rows(self, project_id: str, *, annotated: bool) -> list[TaskRow]:
        assert annotated
        self.looks += 1
        if self.problem is not None:
            raise self.problem
        return [TaskRow(task, {"image": str(task)}, str(10 * task), frozenset()) for task in self.accepted]

    def annotations(self, task_id: int) -> list[dict[str, Any]]:
        self.read.append(task_id)
        return self.accepted[task_id]

    def load(self, task: Any, image_key: str) -> Any:
        if task["id"] == 99:
            raise ImageError("task 99: gone")
        return np.zeros((6, 8, 3), np.uint8)


class Learning:
    """Stands for the process: writes the network as it is, and keeps what it was to learn from."""

    def __init__(self) -> None:
        self.examples: list[int] = []
        self.problem: Exception | None = None

    def __call__(self, network: Path, examples: Path, out: Path) -> None:
        if self.problem is not None:
            raise self.problem
        found = read_examples(examples)
        assert all(one.image.shape == (6, 8, 3) and one.objects[0].sum() > 10 for one in found)
        self.examples.append(len(found))
        shutil.copytree(network, out)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def project() -> Project:
    return Project()


@pytest.fixture
def learning() -> Learning:
    return Learning()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def serving(registry: Registry, inference: Inference) -> Serving:
    return Serving(registry, None, load_model, inference)


@pytest.fixture
def shipped(serving: Serving) -> Served:
    served = serving.shipped(PROMPTS)
    assert served is not None
    return served


@pytest.fixture
def adaptations(project: Project, learning: Learning, clock: Clock) -> Adaptations:
    return Adaptations(lambda of: project, lambda of: project, PROMPTS, load_model, learning, clock)


@pytest.fixture
def look(adaptations: Adaptations, shipped: Served, clock: Clock) -> Callable[..., str]:
    """Asks after the pause, waits until that was looked into, and gives the version that answers next."""

    def version(label: str = "Lumen", seconds: float = LOOK_SECONDS) -> str:
        clock.now += seconds
        adaptations.served("3", label, ASPECT, shipped)
        eventually(lambda: not any(one.looking for one in list(adaptations._classes.values())), 60)
        return adaptations.served("3", label, ASPECT, shipped).version

    return version


def test_the_first_accepted_task_of_a_class_teaches_a_copy(
    look: Callable[..., str], project: Project, learning: Learning, shipped: Served, adaptations: Adaptations
) -> None:
    assert look() == shipped.version
    assert not learning.examples
    project.accept(1, "Fibrous cap")
    assert look() == shipped.version
    project.accept(2)
    copy = look()
    assert copy.startswith(f"{shipped.version}-")
    assert learning.examples == [1]
    assert adaptations.versions("3") == {copy}
    assert look("Fibrous cap") not in (copy, shipped.version)  # each class has its own
    assert adaptations.versions("4") == set()


def test_it_learns_again_when_there_are_twice_as_many(
    look: Callable[..., str], project: Project, learning: Learning
) -> None:
    versions = []
    for task in range(1, 20):
        project.accept(task)
        versions.append(look())
    assert learning.examples == [1, 2, 4, 8]
    assert len(set(versions)) == 4
    assert sorted(set(project.read)) == list(range(1, 20))  # each looked into when it came


def test_what_is_no_longer_accepted_is_unlearnt(
    look: Callable[..., str], project: Project, learning: Learning, shipped: Served
) -> None:
    project.accept(1)
    project.accept(2)
    look()
    del project.accepted[1]
    first = look()
    assert learning.examples == [2, 1]
    assert first != shipped.version
    project.accepted.clear()
    assert look() == shipped.version


def test_learning_takes_long_and_delays_no_other_look(
    look: Callable[..., str], project: Project, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(network: Path, examples: Path, out: Path) -> None:
        clock.now += 60
        shutil.copytree(network, out)

    monkeypatch.setattr(Learning, "__call__", lambda self, *paths: slowly(*paths))
    project.accept(1)
    first = look()
    project.accept(2)
    assert look() != first


def test_a_class_that_was_crowded_out_is_learnt_again(
    look: Callable[..., str], project: Project, shipped: Served
) -> None:
    project.accept(1)
    first = look()
    for number in range(adaptation.MAX_CLASSES):
        look(f"other {number}", seconds=0)
    assert look() == first != shipped.version


def test_label_studio_is_asked_now_and_then(
    look: Callable[..., str], project: Project, adaptations: Adaptations, shipped: Served
) -> None:
    look()
    for _ in range(50):
        look(seconds=0)
    assert project.looks == 1


@pytest.mark.parametrize("failing", ["the project", "the process"])
def test_a_failure_leaves_the_network_as_it_is_and_is_said_once(
    failing: str,
    look: Callable[..., str],
    project: Project,
    learning: Learning,
    shipped: Served,
    caplog: pytest.LogCaptureFixture,
) -> None:
    project.accept(1)
    if failing == "the project":
        project.problem = LabelStudioError("it is away")
    else:
        learning.problem = subprocess.SubprocessError("it is away")
    for _ in range(3):
        assert look() == shipped.version
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "prompts for 'Lumen' stay as they are: it is away" in record.getMessage()
    project.problem = learning.problem = None
    assert look(seconds=REST_SECONDS) != shipped.version


def test_a_task_whose_image_cannot_be_read_teaches_nothing_and_keeps_no_other_from_it(
    look: Callable[..., str], project: Project, learning: Learning, shipped: Served
) -> None:
    project.accept(99)
    assert look() == shipped.version
    project.accept(1)
    project.accept(2)
    assert look() != shipped.version
    assert learning.examples == [2]


def test_a_network_of_another_family_is_left_alone(project: Project, shipped: Served, tmp_path: Path) -> None:
    other = Adaptations(lambda of: project, lambda of: project, tmp_path, load_model)
    project.accept(1)
    assert other.served("3", "Lumen", ASPECT, shipped) is shipped
    assert not project.looks


def test_prompts_are_answered_by_the_copy(
    serving: Serving, adaptations: Adaptations, project: Project, clock: Clock, shipped: Served
) -> None:
    prompts = Prompts(serving, lambda of: project, network=PROMPTS, adaptations=adaptations)
    project.accept(2)

    def version() -> str:
        clock.now += LOOK_SECONDS
        return str(prompts.entries(ask((50, 45)))[0]["model_version"])

    assert version() == shipped.version
    eventually(lambda: version() != shipped.version, 60)
    assert version() == next(iter(adaptations.versions("3")))


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(subprocess.SubprocessError, match=r"ended with exit code 1: .*No such file"):
        adaptation.learn_apart(PROMPTS, tmp_path / "none.npz", tmp_path / "out")


def test_a_server_that_stops_takes_the_process_with_it(tmp_path: Path) -> None:
    """It learns for a minute, and nobody would have what it has learnt."""
    started, script = tmp_path / "started", tmp_path / "server.py"
    learning = f"import time; open({str(started)!r}, 'w').close(); time.sleep(600)"
    script.write_text(
        "import sys, threading, time\n"
        "from pathlib import Path\n"
        "from backend.prediction import adaptation\n"
        f"adaptation.COMMAND = (sys.executable, '-c', {learning!r})\n"
        "threading.Thread(target=adaptation.learn_apart, args=(Path('a'), Path('b'), Path('c')), daemon=True).start()\n"
        f"while not Path({str(started)!r}).exists():\n"
        "    time.sleep(0.05)\n"
    )
    subprocess.run([sys.executable, script], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=200, check=True)
    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if str(started).encode() in _read(one)]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""
