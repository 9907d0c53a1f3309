"""Threads that look after projects at intervals: what goes wrong with one project is that project's, and none ends.

A project that fails is tried again after longer and longer pauses while the others go on. What fails now is kept in a
file for each loop, by which `/metrics` and `premask doctor` see the loops of every process that shares the data folder.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from backend.system.files import write_json
from backend.system.processes import identity, is_alive, is_here, machine
from models.documents import read_json
from models.errors import PremaskError

logger = logging.getLogger(__name__)

MAX_PAUSE = 900.0  # seconds between two tries with a project that has failed many times
MAX_SHOWN = 100  # projects that are reported by name
REPORT_SECONDS = 15.0  # between two reports of a loop that goes on
SILENT_SECONDS = 600.0  # a round may wait for a Label Studio that does not answer, but not for so long
ALL = "*"  # in place of a project: the round itself failed


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with a project.

    Attributes:
        reason: a sentence.
        tries: how often it failed without a success in between.
        again: when it is tried again, on the loop's clock.
    """

    reason: str
    tries: int
    again: float


@dataclass(frozen=True)
class LoopReport:
    """A loop as another process sees it.

    Attributes:
        name: what it does.
        host: the machine, or container, that it runs on.
        process: the process that runs it, "pid:start".
        at: Unix time at which it last went round.
        failing: how many projects fail now.
        reasons: project -> why, of the first of them; ALL for the round itself.
    """

    name: str
    host: str
    process: str
    at: float
    failing: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


_REPORT = TypeAdapter(LoopReport)


class Loop:
    """One loop over projects. `attempt` and `round` are called by one thread.

    Args:
        name: what it does, for the log and for those who look.
        pause: seconds after which a project that failed is tried again, at first; later tries wait longer.
        folder: where it reports; None for nowhere.
        max_pause: no pause is longer.
    """

    def __init__(self, name: str, pause: float, folder: Path | None = None, max_pause: float = MAX_PAUSE) -> None:
        self.name = name
        self._pause, self._max_pause = pause, max_pause
        self._host, self._process = machine(), identity(os.getpid()) or ""
        file = f"{name}-{self._host}-{self._process.replace(':', '-')}.json"
        self._file = None if folder is None else folder / file
        self._troubles: dict[str, Trouble] = {}
        self._reported: tuple[float, dict[str, str]] | None = None

    def attempt(self, project: str, work: Callable[[], None], now: float) -> bool:
        """Do a project's part, unless it failed a moment ago.

        Args:
            project: Label Studio's project id.
            work: may raise anything.
            now: seconds, on any clock that is always the same.

        Returns:
            Whether it was done.
        """
        before = self._troubles.get(project)
        # One that seems far ahead failed before the clock was set back.
        if before is not None and 0 < before.again - now <= self._max_pause:
            return False
        try:
            work()
        except Exception as error:
            self._failed(project, error, before, now)
            return False
        if before is not None:
            del self._troubles[project]
            logger.info("%s: %s goes on", self.name, _named(project))
        return True

    def keep(self, projects: Collection[str]) -> None:
        """Forget what went wrong with all other projects."""
        for project in self._troubles.keys() - {*projects, ALL}:
            del self._troubles[project]

    def round(self, look: Callable[[], None]) -> None:
        """Go round once and report it. Never raises an Exception."""
        now = time.monotonic()
        self.attempt(ALL, look, now)
        reasons = {project: trouble.reason for project, trouble in self._troubles.items()}
        if self._file is None:
            return
        if self._reported is None or self._reported[1] != reasons or now - self._reported[0] >= REPORT_SECONDS:
            self._reported = now, reasons
            shown = dict(list(reasons.items())[:MAX_SHOWN])
            report = LoopReport(self.name, self._host, self._process, time.time(), len(reasons), shown)
            try:
                self._file.parent.mkdir(exist_ok=True)
                write_json(self._file, asdict(report))
            except (OSError, ValueError) as error:  # said elsewhere too: the disk is full
                logger.debug("%s: cannot report: %s", self.name, error)

    def start(self, look: Callable[[], None], every: float, stopped: threading.Event | None = None) -> threading.Event:
        """Go round on a thread of its own; returns the event that ends it."""
        over = threading.Event() if stopped is None else stopped

        def run() -> None:
            while not over.wait(every):
                self.round(look)
            if self._file is not None:
                self._file.unlink(missing_ok=True)

        threading.Thread(target=run, name=self.name, daemon=True).start()
        return over

    def _failed(self, project: str, error: Exception, before: Trouble | None, now: float) -> None:
        tries = 1 if before is None else before.tries + 1
        pause = min(self._pause * 2.0 ** min(max(tries - 2, 0), 20), self._max_pause)
        expected = isinstance(error, PremaskError)
        reason = str(error) if expected else f"{type(error).__name__}: {error}; the log says more"
        reason = reason.encode("utf-8", "backslashreplace").decode()  # half a character fits into no log and no file
        self._troubles[project] = Trouble(reason, tries, now + pause)
        if before is None or before.reason != reason:  # told once, however often it is met
            text = "%s: %s: %s; tried again in %.0f s, then less and less often"
            logger.warning(
                text, self.name, _named(project), reason, pause, exc_info=None if expected else error, stacklevel=3
            )


def loop_reports(folder: Path) -> list[LoopReport]:
    """The loops of all processes that share a folder; files of those that are gone, and what is none, are removed."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = read_json(path, _REPORT)
            if _lives(report):
                found.append(report)
                continue
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.warning("%s is no report of a loop and is removed: %s", path, error)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            logger.debug("%s cannot be removed: %s", path, error)
    return found


def _lives(report: LoopReport) -> bool:
    if is_here(report.host):
        return is_alive(report.process)
    return abs(time.time() - report.at) < SILENT_SECONDS


def _named(project: str) -> str:
    return "a round" if project == ALL else f"project {project}"
