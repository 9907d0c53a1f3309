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
