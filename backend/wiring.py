"""The parts made from the settings: those that the server and the worker share, and those that answer requests.

Server and worker meet in the data folder, or in Redis.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.database.credentials import Credentials
from backend.database.jobs import Job, JobStore
from backend.database.leases import Leases
from backend.database.records import Records, RedisRecords, SqliteRecords
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.outlook import Outlooks
from backend.jobs.queue import JobQueue, Queues, redis_queues, sqlite_queues
from backend.label_studio.connections import Connections
from backend.notify.webhook import Webhook, job_text
from backend.prediction.cache import PredictionCache
from backend.prediction.predictor import Predictor
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.settings import Settings
from backend.system.ports import url_of
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


def notifier(settings: Settings, parts: Parts) -> Callable[[Job], None]:
    """Tells people of each job that ends, where a webhook is configured."""
    if settings.notify_url is None:
        return lambda job: None
    webhook = Webhook(settings.notify_url.get_secret_value())

    def tell(job: Job) -> None:
        title = str(job.report.get("title") or f"project {job.project}")
        root = settings.public_url or url_of(settings.host, settings.port)
        webhook.send(job_text(job, title, f"{root}/dashboard/projects/{job.project}"))

    return tell


def outlooks_of(settings: Settings, parts: Parts, serving: Serving) -> Outlooks:
    """What was accepted in each project since its served version."""
    return Outlooks(parts.connections.client, parts.registry, serving.served_version, settings.min_accepted)


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
