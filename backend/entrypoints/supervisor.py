"""The server and its worker as one: started together, stopped together, the worker restarted when it dies."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from backend.errors import ServeError
from backend.settings import Settings
from backend.system.ports import check_port, url_of
from backend.system.processes import PARENT, describe_exit

logger = logging.getLogger(__name__)

CONFIG = Path(__file__).parent / "gunicorn.conf.py"
SERVER = (sys.executable, "-m", "gunicorn", "-c", str(CONFIG))
WORKER = (sys.executable, "-m", "backend.entrypoints.worker")
FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0  # seconds before a dead worker is started again
STEADY_SECONDS = 60.0  # a worker that ran this long starts again after the first pause
STOP_SECONDS = 40.0  # longer than gunicorn gives running requests


class Supervisor:
    """Runs the server and a worker until it is told to stop.

    Args:
        settings: where to listen.
        environ: environment of both.
        server: command of the server.
        worker: command of the worker; None where workers run elsewhere.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        server: Sequence[str] = SERVER,
        worker: Sequence[str] | None = WORKER,
    ) -> None:
        self._settings = settings
        self._url = url_of(settings.host, settings.port)
        self._environ = {
            **environ,
            "PREMASK_HOST": settings.host,
            "PREMASK_PORT": str(settings.port),
            PARENT: str(os.getpid()),
        }
        self._server, self._worker = server, worker
        self._stopped = threading.Event()
        self._reloading = threading.Event()

    def reload(self) -> None:
        """Have the server take up changed code without dropping a request; safe in a signal handler."""
        self._reloading.set()

    def stop(self) -> None:
        """Make `run` return; safe in a signal handler."""
        self._stopped.set()

    def run(self, ready: Callable[[int, int | None], None] = lambda server, worker: None) -> None:
        """Serve until `stop`.

        Args:
            ready: called once with the process ids of server and worker, if there is one, when the server answers.

        Raises:
            ServeError: the server ended by itself.
        """
        check_port(self._settings.host, self._settings.port)
        server = self._start(self._server)
        worker = self._start(self._worker) if self._worker else None
        started, pause, restart_at, announced = time.monotonic(), FIRST_PAUSE, 0.0, False
        try:
            while not self._stopped.wait(0.2):
                now = time.monotonic()
                if server.poll() is not None:
                    raise ServeError(f"the server: {describe_exit(server.returncode)}; its last lines may say why")
                if self._reloading.is_set():
                    self._reloading.clear()
                    server.send_signal(signal.SIGHUP)
                if not announced and self._answers():
                    announced = True
                    try:
                        ready(server.pid, worker.pid if worker else None)
                    except OSError as error:  # a log on a full disk, or whose reader is gone: it serves all the same
                        logger.warning("nobody can be told that it serves: %s", error.strerror or error)
                if worker is None or self._worker is None or worker.poll() is None:
                    continue
                if not restart_at:
                    pause = FIRST_PAUSE if now - started > STEADY_SECONDS else pause
                    how = describe_exit(worker.returncode)
                    logger.error("the worker: %s; started again in %.0f s", how, pause)
                    restart_at, pause = now + pause, min(pause * 2, MAX_PAUSE)
                elif now >= restart_at:
                    worker, started, restart_at = self._start(self._worker), now, 0.0
        finally:
            _end([server, worker] if worker else [server])

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal reaches this process alone, which then ends both in order.
        return subprocess.Popen(command, env=self._environ, start_new_session=True, stdin=subprocess.DEVNULL)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM to all, SIGKILL to the groups of those that do not heed it, SIGTERM to what the others leave behind."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # Such as networks that are being converted, which nobody waits for and which write to the data folder.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
