"""What gunicorn runs: the application that the environment describes. `gunicorn -c backend/gunicorn.conf.py`."""

import os

from flask import Flask

from backend.app import create_app
from backend.assembly import assemble, starter
from backend.jobs.queue import JobQueue
from backend.logs import configure_logging
from backend.predictor import Predictor
from backend.serving import Serving, load_on
from backend.settings import Settings


def build_app() -> Flask:
    """The application; no weights are loaded before the first prediction."""
    settings = Settings.from_environ(os.environ)
    configure_logging(settings.log_level)
    parts = assemble(settings)
    serving = Serving(parts.registry, starter(settings), load_on(settings.device), torch_threads=settings.torch_threads)
    serving.watch()
    return create_app(
        serving=serving,
        predictor=Predictor(serving, parts.connections.images, batch_size=settings.batch_size),
        jobs=JobQueue(parts.store, parts.huey),
        registry=parts.registry,
        credentials=parts.credentials,
        max_request_bytes=settings.max_request_mb << 20,
        # Two threads stay free for /health and /setup, whatever is being predicted.
        max_predicts=max(settings.threads - 2, 1),
    )
