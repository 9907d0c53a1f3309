"""A second family of models, written here and registered: everything takes it without another line."""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from PIL import Image

from backend.app import create_app
from backend.cli.evaluate import evaluate
from backend.cvat.detection import create as create_detection
from backend.cvat.interaction import create as create_interaction
from backend.cvat.nuclio import interactor
from backend.database.credentials import Credentials
from backend.database.engine import Database
from backend.database.leases import Leases
from backend.database.reviews import Reviews
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.queue import JobQueue
from backend.label_studio.controls import REGION_CONTROLS
from backend.prediction.predictor import Predictor
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.versions.inference import Inference
from backend.versions.registry import Registry
from backend.versions.serving import Serving, load_on
from models import families
from models.checkpoint import Card, read_card, write_card
from models.errors import CheckpointError
from models.pipeline import load_pipeline
from models.prompt import Answer, Prompt
from models.segment import Prediction, Segment
from tests.backend.conftest import no_label_studio
from tests.backend.fakes import eventually, predict_body, publish, setup_body

CLASSES = ("Lumen", "Fibrous cap")  # bright, and grey


@dataclass(frozen=True)
class Seen:
    """An embedding: the image in grey."""

    grey: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.grey.shape[0], self.grey.shape[1]

    @property
    def nbytes(self) -> int:
        return int(self.grey.nbytes)


class Colours:
    """The family: Lumen is bright, the cap grey, by a threshold that the card holds. No networks, no weights."""

    def __init__(self, directory: Path, device: str) -> None:
        card = read_card(directory)
        self.name, self.classes, self.threshold = card.name, tuple(card.classes), card.config["threshold"]

    def masks(self, grey: np.ndarray) -> dict[str, np.ndarray]:
        return {"Lumen": grey >= self.threshold, "Fibrous cap": (grey >= self.threshold // 2) & (grey < self.threshold)}

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        found = [self.masks(image[..., 0]) for image in images]
        return [
            Prediction(
                {label: float(mask.any()) for label, mask in masks.items()},
                [Segment(label, 0.8, mask) for label, mask in masks.items() if mask.any()],
                frozenset(label for label, mask in masks.items() if mask.any()),
            )
            for masks in found
        ]

    def embed(self, image: np.ndarray) -> Seen:
        return Seen(image[..., 0].copy())

    def prompt(
        self, embedding: Seen, prompt: Prompt, label: str | None = None, existing: Sequence[np.ndarray] = ()
    ) -> Answer:
        (click,) = prompt.clicks
        masks = self.masks(embedding.grey)
        label = label or next(name for name, mask in masks.items() if mask[int(click.y), int(click.x)])
        return Answer(label, masks[label], 0.7)


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """All there is to do for a new family."""
    monkeypatch.setitem(families.FAMILIES, "colours", Colours)


def checkpoint(directory: Path, name: str, threshold: int = 200, family: str = "colours") -> Path:
    directory.mkdir(parents=True)
    card = Card(name, list(CLASSES), "", "2026-01-01T00:00:00+00:00", config={"threshold": threshold}, family=family)
    write_card(directory, card)
    return directory


PICTURE = np.zeros((40, 60, 3), np.uint8)
PICTURE[5:20, 10:30], PICTURE[25:35, 40:55] = 255, 120
TRUTH = {"Lumen": PICTURE[..., 0] == 255, "Fibrous cap": PICTURE[..., 0] == 120}


class OnePicture:
    def load(self, task: Any, image_key: str) -> np.ndarray:
        return PICTURE


@pytest.fixture
def client(
    registry: Registry, leases: Leases, jobs: JobQueue, records: Database, credentials: Credentials, tmp_path: Path
) -> Iterator[FlaskClient]:
    """The server with a starter of the second family, loaded as in production."""
    inference = Inference()
    serving = Serving(registry, checkpoint(tmp_path / "starter", "colours-1"), load_on("auto"), inference)
    predictor = Predictor(serving, lambda project: OnePicture())
    app = create_app(
        serving=serving,
        responder=Responder(predictor, leases, jobs, no_label_studio),
        prompts=Prompts(serving, lambda project: OnePicture()),
        jobs=jobs,
        automatic=AutomaticTraining(records, after=2),
        registry=registry,
        credentials=credentials,
        reviews=Reviews(records),
    )
    yield app.test_client()
    inference.close()


def masks_of(entry: dict[str, Any]) -> dict[str, np.ndarray]:
    brush = REGION_CONTROLS["BrushLabels"]
    return {region["value"]["brushlabels"][0]: brush.to_mask(region) for region in entry["result"]}


def same(found: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> bool:
    return found.keys() == truth.keys() and all(np.array_equal(found[label], truth[label]) for label in truth)


def test_it_predicts_tasks_and_answers_smart_tools(client: FlaskClient) -> None:
    (entry,) = client.post("/predict", json=predict_body(["1"])).json["results"]
    assert entry["model_version"] == "colours-1"
    assert same(masks_of(entry), TRUTH)
    body = predict_body(["1"])
    click = {"x": 80.0, "y": 75.0, "width": 0.2, "keypointlabels": ["Fibrous cap"]}
    prompt = {"id": "k", "type": "keypointlabels", "from_name": "kp", "to_name": "image", "value": click}
    body["params"]["context"] = {"result": [prompt]}
    (entry,) = client.post("/predict", json=body).json["results"]
    assert entry["score"] == 0.7
    assert same(masks_of(entry), {"Fibrous cap": TRUTH["Fibrous cap"]})


def test_it_is_promoted_beside_the_other_family(client: FlaskClient, registry: Registry, tmp_path: Path) -> None:
    name = registry.reserve("3")
    registry.publish("3", checkpoint(tmp_path / name, name, threshold=110))
    assert client.post("/api/versions/promote", json={"project": "3", "version": name}).status_code == 200
    eventually(lambda: client.post("/setup", json=setup_body()).json == {"model_version": name})
    (entry,) = client.post("/predict", json=predict_body(["1"])).json["results"]
    assert same(masks_of(entry), {"Lumen": TRUTH["Lumen"] | TRUTH["Fibrous cap"]})
    assert read_card(registry.version("3", publish(registry, tmp_path / "cam")).directory).family == "cam"


def test_cvat_draws_tags_and_answers_clicks_with_it(tmp_path: Path) -> None:
    model = str(checkpoint(tmp_path / "model", "colours-1"))
    context: Any = SimpleNamespace(conf_threshold=None, conv_mask_to_poly=False)
    found = create_detection(model, draws="both").detect(context, Image.fromarray(PICTURE))
    assert len(found) == 4  # a tag and a mask of each class
    function = create_interaction(model)
    seen = function.preprocess_image(None, Image.fromarray(PICTURE))
    prompts: Any = SimpleNamespace(pos_points=[(45.0, 30.0)], neg_points=[], bounding_box=None)
    (shape,) = function.detect(None, seen, prompts)
    png = base64.b64encode(cv2.imencode(".png", PICTURE)[1].tobytes()).decode()
    drawn = interactor(Path(model))({"image": png, "pos_points": [[45, 30]], "neg_points": []})
    assert drawn["shapes"][0]["points"] == shape.points
    assert shape.points[-4:] == [40, 25, 54, 34]  # the grey object, which no one named


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("images", *(f"masks/{label}" for label in CLASSES)):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    for name in "ab":
        cv2.imwrite(str(folder / "images" / f"{name}.png"), PICTURE)
        for label, mask in TRUTH.items():
            cv2.imwrite(str(folder / "masks" / label / f"{name}.png"), mask.astype(np.uint8) * 255)
    return folder


def test_premask_evaluate_measures_it_with_clicks(tmp_path: Path, data: Path) -> None:
    model, figures = checkpoint(tmp_path / "model", "colours-1"), tmp_path / "figures.json"
    options = ["--data", str(data), "--model", str(model), "--clicks", "1", "--json", str(figures)]
    done = CliRunner().invoke(evaluate, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(figures.read_text())
    assert (found["model"], found["refiner"], found["mean_iou"]) == ("colours-1", "none", 1.0)
    assert found["clicks"]["classes"]["Lumen"]["nothing"] == [0.0, 1.0]


@pytest.mark.parametrize("options", [["--cam", "GradCAM"], ["--tables"], ["--report", "report.html"]])
def test_what_only_networks_have_is_refused_with_a_reason(tmp_path: Path, data: Path, options: list[str]) -> None:
    model = checkpoint(tmp_path / "model", "colours-1")
    done = CliRunner().invoke(evaluate, ["--data", str(data), "--model", str(model), *options])
    assert done.exit_code == 2
    assert "colours-1 is of another" in done.output


@pytest.mark.parametrize("load", [families.load_model, load_pipeline])
def test_a_family_that_cannot_be_loaded_is_named(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    with pytest.raises(CheckpointError, match="is of the family 'shapes'"):
        load(checkpoint(tmp_path / "model", "shapes-1", family="shapes"))


def test_a_card_from_before_there_were_families_is_of_the_first_one(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", "old")
    card = json.loads((folder / "card.json").read_text())
    del card["family"]
    (folder / "card.json").write_text(json.dumps(card))
    assert read_card(folder).family == "cam"
