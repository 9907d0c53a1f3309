"""What gunicorn runs: the application that the environment describes. `gunicorn -c backend/gunicorn.conf.py`."""

import os

from flask import Flask

from backend.app import create_app
from backend.assembly import assemble_core
from backend.logs import configure_logging
from backend.settings import Settings


def build_app() -> Flask:
    """The application; no weights are loaded before the first prediction."""
    settings = Settings.from_environ(os.environ)
    configure_logging(settings.log_level)
    core = assemble_core(settings)
    return create_app(
        serving=core.serving,
        predictor=core.predictor,
        jobs=core.jobs,
        registry=core.parts.registry,
        credentials=core.parts.credentials,
        max_request_bytes=settings.max_request_mb << 20,
        # Two threads stay free for /health and /setup, whatever is being predicted.
        max_predicts=max(settings.threads - 2, 1),
    )
