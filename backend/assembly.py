"""The parts made from the settings: those that the server and the worker share, and those that answer requests.

Server and worker meet in the data folder's files.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from huey import Huey

from backend.connections import Connections
from backend.credentials import Credentials
from backend.jobs.queue import JobQueue, sqlite_queue
from backend.jobs.store import JobStore
from backend.predictor import Predictor
from backend.registry import Registry
from backend.serving import Serving, load_on
from backend.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What is kept in the data folder, and the way to Label Studio."""

    registry: Registry
    store: JobStore
    huey: Huey
    credentials: Credentials
    connections: Connections


def assemble(settings: Settings) -> Parts:
    """The shared parts."""
    folder = settings.data_dir
    credentials = Credentials(folder / "credentials.json", settings.label_studio_url, settings.label_studio_api_key)
    return Parts(
        registry=Registry(folder / "models", settings.keep_versions),
        store=JobStore(folder / "jobs.sqlite"),
        huey=sqlite_queue(folder / "queue.sqlite"),
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
    """What answers requests, whatever the protocol."""

    parts: Parts
    serving: Serving
    predictor: Predictor
    jobs: JobQueue


def assemble_core(settings: Settings) -> Core:
    """What answers requests; no weights are loaded before the first prediction."""
    parts = assemble(settings)
    serving = Serving(parts.registry, starter(settings), load_on(settings.device), torch_threads=settings.torch_threads)
    serving.watch()
    return Core(
        parts=parts,
        serving=serving,
        predictor=Predictor(serving, parts.connections.images, batch_size=settings.batch_size),
        jobs=JobQueue(parts.store, parts.huey),
    )
