"""Posts a line to a webhook (Slack's form, which Mattermost, Discord's /slack and others take) when a job ends.

A message never holds a job up: it waits in a short queue for a thread of its own, is tried a few times, and is dropped
with a line in the log where nobody answers.
"""

import atexit
import logging
import queue
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import requests

from backend.database.jobs import PREDICTION, REVIEW, TRAINING, Job
from backend.label_studio.addresses import (
    LOOPBACK,
    AddressRefused,
    GuardedAdapter,
    guarded_session,
    is_host,
    is_other_host,
)

logger = logging.getLogger(__name__)

TRIES = 3
PAUSES = (2.0, 10.0)  # seconds between them
TIMEOUT = (5.0, 10.0)  # seconds to connect, and to wait for the answer
MAX_WAITING = 20  # messages; beyond them new ones are dropped
MAX_TEXT = 1500  # characters
LAST_SECONDS = 15.0  # that a process which ends gives the messages that still wait
# Titles and classes are named by others: what calls a whole channel or hides an address in one chat or another.
PLAIN = str.maketrans({"<": "\u2039", ">": "\u203a", "@": "@\u200b"})
NAMES = {TRAINING: "Training", PREDICTION: "Pre-annotation", REVIEW: "Review"}


class Webhook:
    """Sends messages to one address. Safe to share between threads.

    Args:
        url: where to post {"text": ...}.
        pause: waits for a number of seconds, or until the process ends.
    """

    def __init__(self, url: str, pause: Callable[[float], object] | None = None) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""
        self._ending = threading.Event()
        self._pause = pause or self._ending.wait
        self._waiting: queue.Queue[str] = queue.Queue(MAX_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def send(self, text: str) -> None:
        """Have a line sent; returns at once and never raises."""
        try:
            self._waiting.put_nowait(text[:MAX_TEXT])
        except queue.Full:
            logger.warning("a notification was dropped: %d wait for %s already", MAX_WAITING, self._host)
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
                self._thread.start()
                atexit.register(self.close)

    def close(self, seconds: float = LAST_SECONDS) -> None:
        """Give what still waits so many seconds, without pauses between tries."""
        self._ending.set()
        deadline = time.monotonic() + seconds
        while self._waiting.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.05)

    def _work(self) -> None:
        while True:
            text = self._waiting.get()
            try:
                self._deliver(text)
            except Exception:
                logger.exception("a notification could not be sent to %s", self._host)
            finally:
                self._waiting.task_done()

    def _deliver(self, text: str) -> None:
        for number in range(TRIES):
            if number:
                self._pause(PAUSES[number - 1])
            problem, again = self._post(text)
            if not problem:
                return
            if not again:
                break
        # The address itself is a secret: whoever has it may post.
        logger.warning("a notification was not taken by %s: %s; check PREMASK_NOTIFY_URL", self._host, problem)

    def _post(self, text: str) -> tuple[str, bool]:
        """What was wrong, "" if nothing; and whether another try may help."""
        judge = is_host if self._host in LOOPBACK else is_other_host
        try:
            with (
                guarded_session(GuardedAdapter(judge)) as session,
                session.post(
                    self._url, json={"text": text}, timeout=TIMEOUT, allow_redirects=False, stream=True
                ) as answer,
            ):
                status = answer.status_code
        except AddressRefused as error:
            return f"{error}, which may not be connected to", False
        except (requests.RequestException, OSError) as error:
            return type(error).__name__, True
        if status < 300:
            return "", False
        return f"HTTP {status}", status == 429 or status >= 500


def job_text(job: Job, title: str, dashboard: str | None) -> str:
    """What became of a job, in a line.

    Args:
        job: as it ended.
        title: of its project.
        dashboard: the address of the project's page, None if it is not known.

    >>> job = Job("1", "training", "3", "failed", 0, 0, reason="no room")
    >>> job_text(job, "Leaves", "http://premask:9090/dashboard/projects/3")
    'Training for Leaves failed: no room http://premask:9090/dashboard/projects/3'
    """
    said = job.reason if job.state == "failed" else job.message
    state = "failed" if job.state == "failed" else "is done"
    text = f"{NAMES.get(job.kind, job.kind)} for {title} {state}: {said or 'no more is known'}".translate(PLAIN)
    return f"{text} {dashboard or ''}".strip()
