"""The parts made from the settings: those that the server and the worker share, and those that answer requests.

Server and worker meet in the database: a file in the data folder, or PostgreSQL.
"""

import errno
import logging
import os
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from backend.database.credentials import Credentials
from backend.database.engine import MAX_SKEW, Database
from backend.database.jobs import Job, JobStore
from backend.database.leases import Leases
from backend.database.opening import open_database
from backend.database.reviews import Reviews
from backend.errors import BackendError, DatabaseError, ServeError
from backend.jobs.automatic import AutomaticTraining
from backend.jobs.outlook import Outlooks
from backend.jobs.queue import JobQueue, Queues, postgresql_queues, sqlite_queues, waiting
from backend.label_studio.connections import Connections
from backend.notify.webhook import Webhook, job_text
from backend.prediction.adaptation import Adaptations
from backend.prediction.cache import PredictionCache
from backend.prediction.predictor import Predictor
from backend.prediction.prefetch import Prefetch, Requests
from backend.prediction.prompts import Prompts
from backend.prediction.responder import Responder
from backend.settings import Settings
from backend.system.ports import url_of
from backend.versions.inference import Inference
from backend.versions.machines import meet, met
from backend.versions.opening import open_registry
from backend.versions.registry import Registry
from backend.versions.serving import Serving, load_on
from models.errors import ModelError
from models.families import Model

logger = logging.getLogger(__name__)

QUEUE = "queue.sqlite"  # in the data folder
GATHER_SECONDS = 0.005  # that an image waits for others to fill its batch, where a GPU makes it worth while


@dataclass(frozen=True)
class Parts:
    """The database with what is in it, and the way to Label Studio."""

    registry: Registry
    store: JobStore
    leases: Leases
    automatic: AutomaticTraining
    reviews: Reviews
    queues: Queues
    credentials: Credentials
    connections: Connections
    database: Database


def assemble(settings: Settings) -> Parts:
    """The shared parts, all of which are there and can be used.

    Raises:
        ServeError: something cannot be opened or carried over from an earlier release; the text says what is to do.
    """
    try:
        parts = _assembled(settings)
        _try_out(settings, parts)
    except Exception as error:
        raise _told(settings, error) from error
    return parts


def _assembled(settings: Settings) -> Parts:
    folder = settings.data_dir
    database, credentials = open_database(settings)
    queues = sqlite_queues(folder / QUEUE) if database.dsn is None else postgresql_queues(database)
    return Parts(
        database=database,
        registry=open_registry(settings, database),
        store=JobStore(database),
        leases=Leases(database),
        reviews=Reviews(database),
        automatic=AutomaticTraining(database, settings.train_after, reports=settings.loops_dir),
        queues=queues,
        credentials=credentials,
        connections=Connections(credentials, settings.image_hosts),
    )


def _try_out(settings: Settings, parts: Parts) -> None:
    """What cannot be read or written is better known now than at the first request."""
    os.listdir(settings.data_dir)
    with tempfile.TemporaryFile(dir=settings.data_dir) as file:
        file.write(b"room")
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:  # every large request would be dropped
        remedy = "let this user write to /tmp (in a container by --tmpfs /tmp), or name another folder in TMPDIR"
        raise ServeError(str(error.strerror), remedy) from error
    parts.registry.store.check()
    meet(parts.database, parts.registry.store)
    if abs(ahead := parts.database.skew()) > MAX_SKEW:
        logger.warning(
            "the clock of the database %s differs from this machine's by %.0f s; set both by NTP: premask goes by "
            "the database's, and the times in this machine's logs are others",
            parts.database.name,
            abs(ahead),
        )
    for others, what in zip(_apart(parts), ("store of versions", "database"), strict=True):
        if others:
            logger.warning("%s use another %s than this machine; `premask doctor` says more", ", ".join(others), what)
    parts.registry.projects()
    parts.store.find()
    parts.credentials.addresses()
    waiting(parts.queues)


def _apart(parts: Parts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Machines with another store, and with another database."""
    others = met(parts.database, parts.registry.store)
    return others.other_store, others.other_database


def _told(settings: Settings, error: Exception) -> BackendError:
    """A failure at the start in one sentence, with what to do about it."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or getattr(chain[-1], "orig", None)) is not None and cause not in chain:
        chain.append(cause)
    damaged = next((one for one in chain if type(one) is sqlite3.DatabaseError), None)
    if damaged is not None and not isinstance(error, DatabaseError):
        path = settings.data_dir / QUEUE
        remedy = f"move it away (mv {path} {path}.corrupt): a worker queues the jobs on record again"
        return ServeError(f"cannot start: the queue {path} is damaged: {damaged}", remedy)
    if isinstance(error, sqlite3.Error):  # the database's are DatabaseErrors
        path = settings.data_dir / QUEUE
        return ServeError(f"cannot start: the queue {path} cannot be used: {error}", _rights(path))
    if isinstance(error, BackendError):
        return ServeError(f"cannot start: {error.cause}", error.remedy)
    if isinstance(error, OSError):
        where = error.filename or settings.data_dir
        remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else _rights(where)
        return ServeError(f"cannot start: {where} cannot be used: {error.strerror or error}", remedy)
    logger.debug("the start failed", exc_info=error)
    return ServeError(
        f"cannot start: {type(error).__name__}: {error}", "PREMASK_LOG_LEVEL=DEBUG says more; restore what it names"
    )


def _rights(where: object) -> str:
    return f"run `chown -R {os.getuid()} {where}`, or choose another folder by PREMASK_DATA_DIR"


def device_of(settings: Settings) -> str:
    """The device that the settings mean at this moment: cpu, cuda or cuda:N.

    Raises:
        ServeError: it is not there.
    """
    if settings.device == "cpu":
        return settings.device
    from models.devices import choose_device  # loads torch

    try:
        return choose_device(settings.device)
    except ModelError as error:
        remedy = "set PREMASK_DEVICE to a device that is there; in Docker start with --gpus all"
        raise ServeError(f"cannot start: {error}", remedy) from error


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
    device = device_of(settings)
    inference = Inference(
        batch_size=settings.batch_size,
        # A batch is no faster on a CPU, so there is nothing to wait for.
        gather_seconds=0.0 if device == "cpu" else GATHER_SECONDS,
        torch_threads=settings.torch_threads,
    )
    return Serving(parts.registry, starter(settings), loader(settings, load), inference)


def loader(settings: Settings, load: Callable[[str], Callable[[Path], Model]] | None = None) -> Callable[[Path], Model]:
    """Makes a model of a checkpoint folder; `load` as in `assemble_core`."""
    kept = settings.data_dir / "runtime"
    load = load or partial(load_on, runtime=settings.runtime, threads=settings.torch_threads, kept=kept)
    return load(device_of(settings))


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


def assemble_core(settings: Settings, load: Callable[[str], Callable[[Path], Model]] | None = None) -> Core:
    """The parts that answer requests; no weights are loaded before the first prediction.

    Args:
        settings: what is configured.
        load: gives the loader of models on a device; None for that of the settings.
    """
    parts = assemble(settings)
    serving = serving_of(settings, parts, load)
    serving.watch(reports=settings.loops_dir)
    predictor = predictor_of(settings, serving, parts)
    jobs = JobQueue(parts.store, parts.leases, parts.queues)
    requests = Requests()
    network = settings.prompt_model
    prompts = Prompts(
        serving,
        parts.connections.images,
        network=network,
        adaptations=None
        if network is None
        else Adaptations(parts.connections.client, parts.connections.images, network, loader(settings, load)),
        patience=settings.deadline,
        requests=requests,
    )
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
