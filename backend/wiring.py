"""The parts made from the settings: those that the server and the worker share, and those that answer requests.

Server and worker meet in the database: a file in the data folder, or PostgreSQL.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.database.credentials import Credentials
from backend.database.engine import Database
from backend.database.jobs import JobStore
from backend.database.leases import Leases
from backend.database.opening import open_database
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.queue import JobQueue, Queues, postgresql_queues, sqlite_queues
from backend.label_studio.connections import Connections
from backend.prediction.cache import PredictionCache
from backend.prediction.predictor import Predictor
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.settings import Settings
from backend.versions.inference import Inference
from backend.versions.registry import Registry
from backend.versions.serving import Serving, load_on
from models.families import Model

logger = logging.getLogger(__name__)

GATHER_SECONDS = 0.005  # that an image waits for others to fill its batch, where a GPU makes it worth while


@dataclass(frozen=True)
class Parts:
    """The database with what is in it, and the way to Label Studio."""

    registry: Registry
    store: JobStore
    leases: Leases
    automatic: AutomaticTraining
    queues: Queues
    credentials: Credentials
    connections: Connections
    database: Database


def assemble(settings: Settings) -> Parts:
    """The shared parts.

    Raises:
        DatabaseError: the database cannot be used, or what an earlier release left cannot be carried over.
    """
    folder = settings.data_dir
    database, credentials = open_database(settings)
    queues = sqlite_queues(folder / "queue.sqlite") if database.dsn is None else postgresql_queues(database)
    return Parts(
        database=database,
        registry=Registry(folder / "models", settings.keep_versions),
        store=JobStore(database),
        leases=Leases(database),
        automatic=AutomaticTraining(database, settings.train_after),
        queues=queues,
        credentials=credentials,
        connections=Connections(credentials, settings.image_hosts),
    )


def starter(settings: Settings) -> Path | None:
    """The starter checkpoint, None if there is none."""
    if settings.starter is not None and not (settings.starter / "card.json").is_file():
        logger.warning("no starter at %s: projects get no masks before their first training", settings.starter)
        return None
    return settings.starter


@dataclass(frozen=True)
class Core:
    """The parts that answer requests of every protocol."""

    parts: Parts
    serving: Serving
    predictor: Predictor
    prompts: Prompts
    jobs: JobQueue
    responder: Responder


def serving_of(settings: Settings, parts: Parts, load: Callable[[str], Callable[[Path], Model]] = load_on) -> Serving:
    """Which model answers for a project, in the server and in a job alike; `load` gives the loader on a device."""
    inference = Inference(
        batch_size=settings.batch_size,
        # A batch is no faster on a CPU, so there is nothing to wait for.
        gather_seconds=0.0 if settings.device == "cpu" else GATHER_SECONDS,
        torch_threads=settings.torch_threads,
    )
    return Serving(parts.registry, starter(settings), load(settings.device), inference)


def predictor_of(settings: Settings, serving: Serving, parts: Parts, cache: PredictionCache | None = None) -> Predictor:
    """The predictor of tasks, in the server and in a job alike; `cache` as in Predictor."""
    return Predictor(
        serving,
        parts.connections.images,
        batch_size=settings.batch_size,
        cache=cache,
        per_object=settings.regions == "object",
    )


def assemble_core(settings: Settings, load: Callable[[str], Callable[[Path], Model]] = load_on) -> Core:
    """The parts that answer requests; no weights are loaded before the first prediction.

    Args:
        settings: what is configured.
        load: gives the loader of models on a device.
    """
    parts = assemble(settings)
    serving = serving_of(settings, parts, load)
    serving.watch()
    predictor = predictor_of(settings, serving, parts)
    jobs = JobQueue(parts.store, parts.leases, parts.queues)
    prompts = Prompts(serving, parts.connections.images, patience=settings.deadline)
    responder = Responder(predictor, parts.leases, jobs, parts.connections.client, deadline=settings.deadline)
    return Core(parts, serving, predictor, prompts, jobs, responder)
