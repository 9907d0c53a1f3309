"""How gunicorn runs the backend: one process, threads that wait for nobody, and nothing loaded before it forks."""

import os
import sys
from typing import Any

from gunicorn.glogging import Logger

from backend.errors import SettingsError
from backend.settings import Settings
from backend.system.logs import configure_logging
from backend.system.processes import PARENT, die_with_parent, leave

try:
    settings = Settings.from_environ(os.environ)
except SettingsError as error:
    sys.exit(f"premask: {error}")
configure_logging(settings.log_level, settings.log_format, settings.secrets)


class OurFormat(Logger):  # type: ignore[misc]
    """gunicorn's own lines, in the same format as ours and with as few secrets: they quote addresses of requests."""

    def setup(self, cfg: Any) -> None:
        """Hand them to the root logger."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


logger_class = OurFormat

wsgi_app = "backend.entrypoints.wsgi:build_app()"
bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
# One process: a second one would hold every model a second time and compete for the same cores or GPU.
workers = 1
worker_class = "backend.entrypoints.buffered_worker.BufferedWorker"
threads = settings.threads
worker_connections = 1000
# What is longer than 64 KB in all is refused before these are looked at.
limit_request_line, limit_request_fields, limit_request_field_size = 8190, 100, 16380
# Files are sent as everything else, with a time limit.
sendfile = False
# CUDA cannot be used in a process that was forked after it was initialised.
preload_app = False
# Silence of the whole process, not of one request: those may stream for as long as they need.
timeout = 120
graceful_timeout = 30
keepalive = 5
# Heartbeats on a disk can block for long.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
control_socket_disable = True
accesslog = None
errorlog = "-"
loglevel = "warning"


def worker_exit(server: Any, worker: Any) -> None:
    """Abort nothing: networks may still be loaded when a server is stopped or replaced."""
    if isinstance(why := sys.exception(), SystemExit) and not why.code:
        leave(0)


def on_starting(server: Any) -> None:
    """End with `premask serve`, even if that is killed."""
    die_with_parent(os.environ.get(PARENT))
