"""A runner of jobs with a small Label Studio before it and a fake training process behind it."""

import sys
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.database.credentials import Credentials
from backend.database.jobs import PREDICTION, TRAINING, JobStore
from backend.database.leases import Leases
from backend.jobs.prediction import PredictionWork
from backend.jobs.running import Runner, Work
from backend.jobs.training import Plan, TrainingWork
from backend.label_studio.connections import Connections
from backend.versions.registry import Registry
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG

PLAN = Plan()
FAKE_TRAINING = Path(__file__).parent / "fake_training.py"
POLYGONS = CONFIG.replace("BrushLabels", "PolygonLabels")
TRIANGLE: dict[str, Any] = {
    "type": "polygonlabels",
    "from_name": "tag",
    "to_name": "image",
    "original_width": 8,
    "original_height": 6,
    "value": {"points": [[0, 0], [100, 0], [0, 100]], "closed": True, "polygonlabels": ["Lumen"]},
}


def png() -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio() as server:
        yield server


@pytest.fixture
def project(label_studio: FakeLabelStudio) -> str:
    """A project with five accepted tasks, one skipped, and one whose image is gone."""
    project = label_studio.add_project(POLYGONS)
    for number in range(7):
        task = label_studio.add_upload(project, f"{number}.png", png())
        label_studio.add_annotation(task, [TRIANGLE], was_cancelled=number == 5)
    del label_studio.files[next(path for path in label_studio.files if path.endswith("6.png"))]
    return str(project)


@pytest.fixture
def connections(label_studio: FakeLabelStudio, credentials: Credentials) -> Connections:
    for project in ("1", "2"):
        credentials.remember(project, label_studio.url, label_studio.legacy_token)
    return Connections(credentials)


@pytest.fixture
def runner_that(
    store: JobStore, leases: Leases, registry: Registry, starter: Path, connections: Connections, tmp_path: Path
) -> Callable[..., Runner]:
    """Makes runners: `how` their training process behaves (see `fake_training`), and the process of prediction jobs."""

    def make(how: str = "promote", plan: Plan = PLAN, prediction: Sequence[str] = ("false",), **hooks: Any) -> Runner:
        training = TrainingWork(
            registry=registry,
            starter=starter,
            client=connections.client,
            images=connections.images,
            plan=plan,
            command=(sys.executable, str(FAKE_TRAINING), how),
            **hooks,
        )
        kinds: dict[str, Work] = {TRAINING: training, PREDICTION: PredictionWork(prediction)}
        return Runner(store, leases, kinds, tmp_path / "work")

    return make
