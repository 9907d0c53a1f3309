"""Parts of a backend with fakes behind them."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from backend.app import create_app
from backend.database.credentials import Credentials
from backend.database.jobs import JobStore
from backend.database.leases import Leases
from backend.database.records import Records, RedisRecords, SqliteRecords
from backend.errors import LabelStudioError
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.queue import JobQueue, Queues, redis_queues, sqlite_queues
from backend.prediction.predictor import Predictor
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.versions.inference import Inference
from backend.versions.registry import Registry
from backend.versions.serving import Serving
from tests.backend.fakes import FakeImages, Loader, eventually, write_checkpoint


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
    config = PipelineConfig(presence_threshold={"Lumen": 0.0}, map_threshold={"HiResCAM": {"Lumen": 0.3}})
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
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own on a free port."""
    program = shutil.which("redis-server")
    if program is None:
        reason = "needs redis-server; on Debian: apt install redis-server"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path_factory.mktemp("redis"))]
    with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as server:
        client = redis.Redis(port=port)
        eventually(lambda: answers(client))
        yield f"redis://127.0.0.1:{port}/0"
        server.terminate()


def answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


# For modules whose tests are to be passed by both: SQLite alone is the default elsewhere.
BOTH_STORAGES = pytest.mark.parametrize("storage", ["sqlite", "redis"], indirect=True)


@pytest.fixture
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Records, Callable[[], Queues]]:
    """Where jobs are kept, empty: the records, and what opens the queues, as every process does for itself."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return SqliteRecords(tmp_path / "records.sqlite"), lambda: sqlite_queues(tmp_path / "queue.sqlite")
    url = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushdb()
    return RedisRecords(url), lambda: redis_queues(url)


@pytest.fixture
def records(storage: tuple[Records, Callable[[], Queues]]) -> Records:
    return storage[0]


@pytest.fixture
def open_queues(storage: tuple[Records, Callable[[], Queues]]) -> Callable[[], Queues]:
    return storage[1]


@pytest.fixture
def store(records: Records) -> JobStore:
    return JobStore(records)


@pytest.fixture
def leases(records: Records) -> Leases:
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
def credentials(tmp_path: Path) -> Credentials:
    return Credentials(tmp_path / "credentials.json")


@pytest.fixture
def make_client(
    serving: Serving,
    responder: Responder,
    prompts: Prompts,
    jobs: JobQueue,
    records: Records,
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
            **usual | options,
        )
        return app.test_client()

    return make


@pytest.fixture
def client(make_client: Callable[..., FlaskClient]) -> FlaskClient:
    return make_client()
