"""The parts made from the settings: those that the server and the worker share, and those that answer requests.

Server and worker meet in the data folder, or in Redis.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.database.credentials import Credentials
from backend.database.jobs import JobStore
from backend.database.leases import Leases
from backend.database.records import Records, RedisRecords, SqliteRecords
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.queue import JobQueue, Queues, redis_queues, sqlite_queues
from backend.label_studio.connections import Connections
from backend.prediction.cache import PredictionCache
from backend.prediction.predictor import Predictor
from backend.prediction.prefetch import Prefetch, Requests
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
    """The records in the data folder or in Redis, and the way to Label Studio."""

    registry: Registry
    store: JobStore
    leases: Leases
    automatic: AutomaticTraining
    queues: Queues
    credentials: Credentials
    connections: Connections


def assemble(settings: Settings) -> Parts:
    """The shared parts.

    Raises:
        JobError: the job records cannot be reached.
    """
    folder = settings.data_dir
    records: Records
    if settings.queue_url is None:
        records, queues = SqliteRecords(folder / "records.sqlite"), sqlite_queues(folder / "queue.sqlite")
    else:
        url = settings.queue_url.get_secret_value()
        records, queues = RedisRecords(url), redis_queues(url)
        records.tables("")  # an address that cannot be reached is better known now than at the first request
    credentials = Credentials(folder / "credentials.json", settings.label_studio_url, settings.label_studio_api_key)
    return Parts(
        registry=Registry(folder / "models", settings.keep_versions),
        store=JobStore(records),
        leases=Leases(records),
        automatic=AutomaticTraining(records, settings.train_after),
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


def serving_of(
    settings: Settings, parts: Parts, load: Callable[[str], Callable[[Path], Model]] | None = None
) -> Serving:
    """Which model answers for a project, in the server and in a job alike; `load` as in `assemble_core`."""
    kept = settings.data_dir / "runtime"
    load = load or partial(load_on, runtime=settings.runtime, threads=settings.torch_threads, kept=kept)
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


def assemble_core(settings: Settings, load: Callable[[str], Callable[[Path], Model]] | None = None) -> Core:
    """The parts that answer requests; no weights are loaded before the first prediction.

    Args:
        settings: what is configured.
        load: gives the loader of models on a device; None for that of the settings.
    """
    parts = assemble(settings)
    serving = serving_of(settings, parts, load)
    serving.watch()
    predictor = predictor_of(settings, serving, parts)
    jobs = JobQueue(parts.store, parts.leases, parts.queues)
    requests = Requests()
    prompts = Prompts(serving, parts.connections.images, patience=settings.deadline, requests=requests)
    responder = Responder(
        predictor,
        parts.leases,
        jobs,
        parts.connections.client,
        deadline=settings.deadline,
        requests=requests,
        prefetch=Prefetch(predictor, parts.connections.client, requests, ahead=settings.prefetch),
    )
    return Core(parts, serving, predictor, prompts, jobs, responder)
