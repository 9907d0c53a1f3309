"""Parts of a backend with fakes behind them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from backend.credentials import Credentials
from backend.jobs.queue import JobQueue, sqlite_queue
from backend.jobs.store import JobStore
from backend.predictor import Predictor
from backend.registry import Registry
from backend.serving import Serving
from tests.backend.fakes import FakeImages, Loader, write_checkpoint


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with real networks, as small as they come and untrained, that always finds Lumen."""
    import torch

    from models.checkpoint import Card
    from models.classifier import Classifier, ClassifierConfig
    from models.fba_net import FBANet, FBANetConfig
    from models.pipeline import Pipeline, PipelineConfig, save_pipeline

    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(("Lumen",), "tf_efficientnet_lite0", input_size=64, width=8))
    config = PipelineConfig(presence_threshold={"Lumen": 0.0}, map_threshold={"Lumen": 0.3})
    pipeline = Pipeline(classifier, FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64)), config)
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_pipeline(pipeline, directory, Card("tiny", [], "", "2026-01-01T00:00:00+00:00"))
    return directory


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "starter", "oct-lite0")


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def serving(registry: Registry, starter: Path, loader: Loader) -> Serving:
    return Serving(registry, starter, loader)


@pytest.fixture
def images() -> FakeImages:
    return FakeImages()


@pytest.fixture
def predictor(serving: Serving, images: FakeImages) -> Predictor:
    return Predictor(serving, lambda project: images, batch_size=2)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "jobs.sqlite")


@pytest.fixture
def jobs(store: JobStore, tmp_path: Path) -> JobQueue:
    return JobQueue(store, sqlite_queue(tmp_path / "queue.sqlite"))


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path / "credentials.json")


@pytest.fixture
def make_client(
    serving: Serving, predictor: Predictor, jobs: JobQueue, registry: Registry, credentials: Credentials
) -> Callable[..., FlaskClient]:
    """Makes clients of applications that differ in some of create_app's arguments."""

    def make(**options: Any) -> FlaskClient:
        usual: dict[str, Any] = {"max_request_bytes": 1 << 20, "max_predicts": 2, "blank_every": 0.05}
        app = create_app(
            serving=serving,
            predictor=predictor,
            jobs=jobs,
            registry=registry,
            credentials=credentials,
            **usual | options,
        )
        return app.test_client()

    return make


@pytest.fixture
def client(make_client: Callable[..., FlaskClient]) -> FlaskClient:
    return make_client()
