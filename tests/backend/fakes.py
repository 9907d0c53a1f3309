"""The parts that the backend's tests share: a model without networks, checkpoints without weights, request bodies."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import ImageError
from backend.label_studio.images import image_address
from backend.versions.registry import Registry
from models.checkpoint import Card, read_card
from models.errors import CheckpointError
from models.prompt import Answer, Prompt
from models.segment import Prediction, Segment

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">'
    '<Label value="Lumen"/><Label value="Fibrous cap"/></BrushLabels></View>'
)
OTHER_CONFIG = CONFIG.replace("Lumen", "Cat").replace("Fibrous cap", "Dog")
POISON = 13  # value of an image on which the model fails


class FakeModel:
    """Finds Lumen on the left half of every image; waits for `gate`, fails on images filled with POISON."""

    def __init__(self, directory: Path, gate: threading.Event | None = None) -> None:
        self.directory, self.gate = directory, gate
        self.batches: list[int] = []
        self.name, self.classes = read_card(directory).name, tuple(read_card(directory).classes)

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        self.batches.append(len(images))
        if self.gate is not None:
            assert self.gate.wait(20)
        if any(image.flat[0] == POISON for image in images):
            raise RuntimeError("poisoned image")
        return [self._one(image) for image in images]

    def embed(self, image: np.ndarray) -> np.ndarray:
        return image

    def prompt(self, embedding: np.ndarray, prompt: Prompt, label: str | None = None, existing: Any = ()) -> Answer:
        return Answer(label or "Lumen", np.ones(embedding.shape[:2], bool), 0.5)

    def _one(self, image: np.ndarray) -> Prediction:
        mask: np.ndarray = np.zeros(image.shape[:2], bool)
        mask[:, : mask.shape[1] // 2] = True
        return Prediction({"Lumen": 0.9}, [Segment("Lumen", 0.9, mask)], frozenset({"Lumen"}))


class Loader:
    """Loads fake models and remembers which; `gates` holds up loading, `gate` predicting, of a version."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.pipelines: dict[str, FakeModel] = {}
        self.gates: dict[str, threading.Event] = {}
        self.predict_gates: dict[str, threading.Event] = {}

    def __call__(self, directory: Path) -> FakeModel:
        version = read_card(directory).name
        if version in self.gates:
            assert self.gates[version].wait(20)
        if (directory / "damaged").exists():
            raise CheckpointError(f"{directory} is damaged; restore it")
        self.loaded.append(version)
        self.pipelines[version] = FakeModel(directory, self.predict_gates.get(version))
        return self.pipelines[version]


class FakeImages:
    """Images by address: a number is the grey value of the image, anything else cannot be read."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    def load(self, task: Mapping[str, Any], image_key: str) -> np.ndarray:
        address = image_address(task, image_key)
        self.loads.append(address)
        if not address.isdigit():
            raise ImageError(f"task {task['id']}: {address} cannot be read")
        return np.full((6, 8, 3), int(address), np.uint8)


def write_checkpoint(directory: Path, name: str, classes: Sequence[str] = ("Lumen", "Fibrous cap")) -> Path:
    """A folder that reads as a checkpoint."""
    directory.mkdir(parents=True)
    card = Card(name, list(classes), "tf_efficientnet_lite0", "2026-01-01T00:00:00+00:00", metrics={"mean_iou": 0.5})
    (directory / "card.json").write_text(json.dumps(asdict(card)))
    (directory / "classifier.safetensors").write_bytes(b"weights of " + name.encode())
    return directory


def publish(registry: Registry, folder: Path, project: str = "3", backbone: str = "tf_efficientnet_lite0") -> str:
    """Publish a new version of a project as a candidate; returns its name."""
    name = registry.reserve(project, backbone)
    return registry.publish(project, write_checkpoint(folder / name, name)).version


def setup_body(
    project: int = 3, config: str = CONFIG, hostname: str = "http://ls.example", token: str = "t0ken"
) -> Any:
    """The body that Label Studio posts to /setup."""
    reference = f"{project}.1795393773"
    return {"project": reference, "schema": config, "hostname": hostname, "access_token": token, "extra_params": None}


def predict_body(addresses: Sequence[str], project: int = 3, config: str = CONFIG, first: int = 1) -> Any:
    """The body that Label Studio posts to /predict, with a task per image address, numbered from `first`."""
    return {
        "tasks": [{"id": i, "data": {"image": address}} for i, address in enumerate(addresses, first)],
        "project": f"{project}.1795393773",
        "label_config": config,
        "params": {"login": None, "password": None, "context": None},
    }


def start_training(project: int = 3) -> Any:
    """The body that Label Studio posts to /webhook when Start Training is pressed."""
    return {"action": "START_TRAINING", "project": {"id": project, "title": "t", "label_config": CONFIG, "token": "x"}}


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait until a condition holds; returns what it said."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if outcome := condition():
            return outcome
        time.sleep(0.02)
    raise AssertionError("it never came to that")
