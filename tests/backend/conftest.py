"""Parts of a backend with fakes behind them."""

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient

from backend.app import create_app
from backend.database.credentials import Credentials
from backend.database.engine import Database
from backend.database.jobs import JobStore
from backend.database.leases import Leases
from backend.database.reviews import Reviews
from backend.database.tables import METADATA
from backend.database.vault import Vault
from backend.errors import LabelStudioError
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.queue import JobQueue, Queues, postgresql_queues, sqlite_queues
from backend.prediction.predictor import Predictor
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.versions.inference import Inference
from backend.versions.registry import Registry
from backend.versions.serving import Serving
from backend.versions.store import Store
from tests.backend import postgresql, s3
from tests.backend.fakes import FakeImages, Loader, write_checkpoint


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that a test runs in this process sets its own level, under which later ones would miss lines."""
    root = logging.getLogger()
    level, handlers, hook = root.level, list(root.handlers), threading.excepthook
    yield
    root.setLevel(level)
    for handler in [one for one in root.handlers if one not in handlers and type(one) is logging.StreamHandler]:
        root.removeHandler(handler)
    threading.excepthook = hook


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with real networks, as small as they come and untrained, that always finds Lumen."""
    import torch

    from models.checkpoint import Card
    from models.classifier import Classifier
    from models.config import ClassifierConfig, FBANetConfig, PipelineConfig
    from models.fba_net import FBANet
    from models.pipeline import Pipeline, save_pipeline

    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(("Lumen",), "tf_efficientnet_lite0", input_size=64, width=8))
    config = PipelineConfig(presence_threshold={"Lumen": 0.0}, map_threshold={"HiResCAM": {"Lumen": 0.3}})
    pipeline = Pipeline.of(classifier, FBANet(FBANetConfig((8, 8, 8, 8), crop_size=64)), config)
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_pipeline(pipeline, directory, Card("tiny", [], "", "2026-01-01T00:00:00+00:00"))
    return directory


@pytest.fixture(scope="session")
def s3_server() -> Iterator[s3.Server]:
    """An S3 of our own."""
    with s3.server() as running:
        yield running


# For modules whose tests are to be passed by both: a folder alone is the default elsewhere.
BOTH_STORES = pytest.mark.parametrize("versions_store", ["folder", "s3"], indirect=True)


@pytest.fixture
def versions_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Where the files of versions are, empty."""
    if getattr(request, "param", "folder") == "folder":
        return Store(tmp_path / "models")
    running: s3.Server = request.getfixturevalue("s3_server")
    url = running.bucket(f"b{secrets.token_hex(6)}")
    return Store(url, tmp_path / "cache", endpoint=running.endpoint)


@pytest.fixture
def registry(records: Database, versions_store: Store) -> Registry:
    return Registry(records, versions_store)


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "starter", "oct-lite0")


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def inference() -> Iterator[Inference]:
    service = Inference(batch_size=2)
    yield service
    service.close()


@pytest.fixture
def serving(registry: Registry, starter: Path, loader: Loader, inference: Inference) -> Serving:
    return Serving(registry, starter, loader, inference)


@pytest.fixture
def images() -> FakeImages:
    return FakeImages()


@pytest.fixture
def predictor(serving: Serving, images: FakeImages) -> Predictor:
    return Predictor(serving, lambda project: images, batch_size=2)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[postgresql.Server]:
    """A PostgreSQL of our own."""
    with postgresql.server() as running:
        yield running


@pytest.fixture(scope="session")
def migrated_url(postgresql_server: postgresql.Server) -> str:
    """A database in it that has its tables."""
    url = postgresql_server.create("shared")
    database = Database.postgresql(url)
    close_queues(postgresql_queues(database))
    database.close()
    return url


@pytest.fixture
def postgresql_url(migrated_url: str) -> str:
    """The same, empty."""
    tables = ", ".join([*METADATA.tables, "huey_task", "huey_kv", "huey_schedule", "huey_counter"])
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        connection.execute(f"truncate {tables} restart identity".encode())
    return migrated_url


def close_queues(queues: Queues) -> None:
    for queue in queues.values():
        queue.storage.close()


# For modules whose tests are to be passed by both: SQLite alone is the default elsewhere.
BOTH_STORAGES = pytest.mark.parametrize("storage", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Database, Callable[[], Queues]]]:
    """Where jobs are kept, empty: the database, and what opens the queues, as every process does for itself."""
    opened: list[Queues] = []
    if getattr(request, "param", "sqlite") == "sqlite":
        database = Database.sqlite(tmp_path / "premask.sqlite")
    else:
        database = Database.postgresql(request.getfixturevalue("postgresql_url"))

    def open_queues() -> Queues:
        queues = sqlite_queues(tmp_path / "queue.sqlite") if database.dsn is None else postgresql_queues(database)
        opened.append(queues)
        return queues

    yield database, open_queues
    for queues in opened:
        close_queues(queues)
    database.close()


@pytest.fixture
def records(storage: tuple[Database, Callable[[], Queues]]) -> Database:
    """The database."""
    return storage[0]


@pytest.fixture
def open_queues(storage: tuple[Database, Callable[[], Queues]]) -> Callable[[], Queues]:
    return storage[1]


@pytest.fixture
def store(records: Database) -> JobStore:
    return JobStore(records)


@pytest.fixture
def leases(records: Database) -> Leases:
    return Leases(records)


@pytest.fixture
def jobs(store: JobStore, leases: Leases, open_queues: Callable[[], Queues]) -> JobQueue:
    return JobQueue(store, leases, open_queues())


@pytest.fixture
def prompts(serving: Serving, images: FakeImages) -> Prompts:
    return Prompts(serving, lambda project: images)


@pytest.fixture
def responder(predictor: Predictor, leases: Leases, jobs: JobQueue) -> Responder:
    return Responder(predictor, leases, jobs, no_label_studio, blank_every=0.05)


def no_label_studio(project: str) -> Any:
    """The Label Studio of a project whose credentials are unknown."""
    raise LabelStudioError(f"no credentials for project {project}")


@pytest.fixture
def credentials(records: Database, tmp_path: Path) -> Credentials:
    return Credentials(records, Vault(tmp_path))


@pytest.fixture
def make_client(
    serving: Serving,
    responder: Responder,
    prompts: Prompts,
    jobs: JobQueue,
    records: Database,
    registry: Registry,
    credentials: Credentials,
) -> Callable[..., FlaskClient]:
    """Makes clients of applications that differ in some of create_app's arguments."""

    def make(**options: Any) -> FlaskClient:
        usual: dict[str, Any] = {"jobs": jobs, "max_request_bytes": 1 << 20, "max_predicts": 2}
        app = create_app(
            serving=serving,
            responder=responder,
            prompts=prompts,
            automatic=AutomaticTraining(records, after=2),
            registry=registry,
            credentials=credentials,
            reviews=Reviews(records),
            **usual | options,
        )
        return app.test_client()

    return make


@pytest.fixture
def client(make_client: Callable[..., FlaskClient]) -> FlaskClient:
    return make_client()
