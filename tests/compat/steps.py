"""What a team does with a Label Studio, by the calls of its pages and by our commands: each step says what it found."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests

from backend.database.jobs import FINISHED
from backend.demo.predictions import iou, masks
from backend.demo.sample_project import CONFIG
from backend.label_studio.client import LabelStudio
from tests.end_to_end.frames import FRAMES, Frame, regions
from tests.end_to_end.stack import Stack, premask

ANNOTATED = 5  # frames that are accepted before the training
MIN_IOU = 0.7  # of the lumen with the truth, for masks that were predicted or asked for


@dataclass
class Work:
    """One project on its way through the steps.

    Attributes:
        stack: the servers.
        project: Label Studio's id of it.
        tasks: frame by task.
        trained: the version that the training made.
        state: what Label Studio said of the backend when it listed it last.
    """

    stack: Stack
    project: int = 0
    tasks: dict[int, Frame] = field(default_factory=dict)
    trained: str = ""
    state: str = ""

    @property
    def client(self) -> LabelStudio:
        """Label Studio."""
        return self.stack.client

    @property
    def key(self) -> tuple[str, ...]:
        """Options of our commands."""
        return ("--url", self.stack.label_studio.url, "--api-key", self.stack.login.token)

    @property
    def environ(self) -> dict[str, str]:
        """Settings of our commands: those of the running backend."""
        names = ("PREMASK_DATA_DIR", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY")
        port = self.stack.backend.url.rpartition(":")[2]
        return {name: self.stack.backend.env[name] for name in names} | {"PREMASK_PORT": port}

    def backend(self) -> dict[str, Any]:
        """The project's backend as Label Studio lists it, for which it asks /health and /setup.

        On a busy machine it may find them too slow once, and take the backend for disconnected until it asks again.
        """
        backend: dict[str, Any] = _until(self._connected, 120, lambda: self.state)
        return backend

    def _connected(self) -> dict[str, Any] | None:
        (backend,) = self.client.ml_backends(self.project)
        self.state = f"state {backend['state']}: {backend.get('error_message')}"
        return backend if backend["state"] == "CO" else None


def connect(work: Work) -> str:
    """A project with uploaded images, connected by `premask connect`."""
    work.project = int(work.client.create_project("compatibility", CONFIG)["id"])
    named = {frame.name: frame for frame in FRAMES}
    work.client.import_files(work.project, {name: frame.content for name, frame in named.items()})
    exported = work.client.export(work.project, all_tasks=True)
    # Label Studio puts eight digits and a dash before each name.
    work.tasks = {int(task["id"]): named[task["data"]["image"].rpartition("/")[2][9:]] for task in exported}
    assert len(work.tasks) == len(FRAMES)
    url = work.stack.backend.url
    said = premask("connect", *work.key, "--project", work.project, "--backend-url", url).stdout
    assert "Registered as" in said, said
    return "yes"


def setup(work: Work) -> str:
    """Label Studio asks /setup for the version."""
    version = work.backend()["model_version"]
    assert str(version).startswith("oct-"), f"it names {version!r}"
    return "yes"


def retrieve(work: Work) -> str:
    """Retrieve Predictions: every task has one with masks on the tissue."""
    work.client.retrieve_predictions(work.project)
    _check_masks(work, str(work.backend()["model_version"]))
    return "yes"


def click(work: Work) -> str:
    """One click with the smart keypoint on the lumen."""

    def prompt(frame: Frame) -> dict[str, Any]:
        rows, columns = np.nonzero(frame.masks["Lumen"])
        x, y = float(np.median(columns)), float(np.median(rows))
        return {
            "type": "keypointlabels",
            "from_name": "click",
            "is_positive": True,
            "value": {
                "x": 100 * x / frame.size[0],
                "y": 100 * y / frame.size[1],
                "width": 0.3,
                "keypointlabels": ["Lumen"],
            },
        }

    return _prompted(work, prompt)


def box(work: Work) -> str:
    """A box around the lumen with the smart rectangle."""

    def prompt(frame: Frame) -> dict[str, Any]:
        rows, columns = np.nonzero(frame.masks["Lumen"])
        width, height = frame.size
        return {
            "type": "rectanglelabels",
            "from_name": "box",
            "value": {
                "x": 100 * float(columns.min()) / width,
                "y": 100 * float(rows.min()) / height,
                "width": 100 * float(np.ptp(columns)) / width,
                "height": 100 * float(np.ptp(rows)) / height,
                "rotation": 0,
                "rectanglelabels": ["Lumen"],
            },
        }

    return _prompted(work, prompt)


def train(work: Work) -> str:
    """Corrected masks are submitted, and Start Training makes a version."""
    parents = {int(one["task"]): one["id"] for one in work.client.predictions(work.project)}
    for task, frame in list(work.tasks.items())[:ANNOTATED]:
        submitted = {"result": regions(frame), "lead_time": 3.2, "parent_prediction": parents.get(task)}
        work.client.call("POST", f"/api/tasks/{task}/annotations/", json=submitted)
    work.client.call("POST", f"/api/ml/{work.backend()['id']}/train", json={})
    job = _until(lambda: _job(work) if _job(work)["state"] in FINISHED else None, 1800)
    assert job["state"] == "done", job["reason"]
    assert job["report"]["used"] == ANNOTATED, job["report"]
    work.trained = job["version"]
    return "yes"


def promote(work: Work) -> str:
    """The new version is promoted, by hand if it was not good enough, and Label Studio is told of it."""
    assert work.trained, "there is no new version"
    _until(lambda: work.trained if work.trained == _promoted(work) else None, 300)
    _until(lambda: work.backend()["model_version"] == work.trained, 300)
    return "yes"


def rename(work: Work) -> str:
    """Its name in Label Studio follows by itself, and with it the choice of whose predictions are shown."""
    assert work.trained, "there is no new version"
    _until(lambda: work.backend()["title"] == work.trained, 300)
    chosen = work.client.project(work.project)["model_version"]
    assert chosen == work.trained, f"the project shows predictions of {chosen!r}"
    return "yes"


def predict_project(work: Work) -> str:
    """`premask predict-project` stores a prediction of the served version for every task."""
    version = str(work.backend()["model_version"])
    file = Path(work.stack.folder) / "predicted.json"
    premask("predict-project", *work.key, "--project", work.project, "--json", file, **work.environ)
    report = json.loads(file.read_text())
    assert report["predicted"] + report["present"] == len(work.tasks), report
    _check_masks(work, version)
    url = f"{work.stack.backend.url}/api/jobs/{report['job']}"
    log = requests.get(url, params={"lines": 500}, timeout=300).json()["log"]
    return "yes, one by one" if any("each is sent by itself" in line for line in log) else "yes"


def doctor(work: Work) -> str:
    """`premask doctor` finds nothing broken."""
    file = Path(work.stack.folder) / "doctor.json"
    try:
        premask("doctor", "--project", work.project, "--json", file, **work.environ)
    finally:
        checks = json.loads(file.read_text())["checks"] if file.exists() else []
        broken = [f"{one['name']}: {one['found']}" for one in checks if one["state"] == "broken"]
        assert not broken, "; ".join(broken)
    return "yes"


# In this order: each goes on from those before.
STEPS: dict[str, Callable[[Work], str]] = {
    "connect": connect,
    "setup": setup,
    "retrieve": retrieve,
    "click": click,
    "box": box,
    "train": train,
    "promote": promote,
    "rename": rename,
    "predict-project": predict_project,
    "doctor": doctor,
}


def walk(work: Work, tell: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Every step with its finding: one that begins with "yes", or else what went wrong, in a line."""
    for name, step in STEPS.items():
        began = time.monotonic()
        try:
            found = step(work)
        except Exception as error:  # a step that fails is a finding
            found = " ".join(str(error).split())[:600] or type(error).__name__
        tell(f"{name}: {found} ({time.monotonic() - began:.0f} s)")
        yield name, found


def _check_masks(work: Work, version: str) -> None:
    stored = {int(one["task"]): one for one in work.client.predictions(work.project) if one["model_version"] == version}
    assert set(stored) == set(work.tasks), f"{len(stored)} of {len(work.tasks)} tasks have a prediction of {version}"
    overlaps = [
        iou(masks(stored[task]["result"]).get("Lumen"), frame.masks["Lumen"]) for task, frame in work.tasks.items()
    ]
    assert np.mean(overlaps) >= MIN_IOU, f"mean IoU of the lumen is {np.mean(overlaps):.2f}"


def _prompted(work: Work, prompt: Callable[[Frame], dict[str, Any]]) -> str:
    task, frame = next((task, frame) for task, frame in work.tasks.items() if frame is FRAMES[0])
    common = {"id": "p", "to_name": "image", "image_rotation": 0, "origin": "manual"}
    asked = prompt(frame) | common | {"original_width": frame.size[0], "original_height": frame.size[1]}
    answer = work.client.call(
        "POST",
        f"/api/ml/{work.backend()['id']}/interactive-annotating",
        json={"task": task, "context": {"result": [asked]}},
    )
    assert not answer.get("errors"), answer["errors"]
    drawn = masks(answer["data"]["result"])
    overlap = iou(drawn.get("Lumen"), frame.masks["Lumen"])
    assert overlap >= MIN_IOU, f"IoU of the lumen is {overlap:.2f}"
    return "yes"


def _job(work: Work) -> dict[str, Any]:
    answer = requests.get(f"{work.stack.backend.url}/api/jobs", params={"project": work.project}, timeout=30).json()
    trainings = [job for job in answer["jobs"] if job["kind"] == "training"]
    assert trainings, "Start Training queued no job"
    newest: dict[str, Any] = trainings[0]
    return newest


def _promoted(work: Work) -> str | None:
    url, project = work.stack.backend.url, work.project
    (listed,) = requests.get(f"{url}/api/versions", params={"project": project}, timeout=60).json()["projects"]
    if listed["current"] != work.trained:
        by_hand = {"project": project, "version": work.trained}
        requests.post(f"{url}/api/versions/promote", json=by_hand, timeout=60).raise_for_status()
    return work.trained


def _until(look: Callable[[], Any], seconds: float, seen: Callable[[], str] = lambda: "it did not happen") -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{seen()} in {seconds:.0f} s"
        time.sleep(1)
    return found
