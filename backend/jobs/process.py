"""The process of a job: started in a group of its own, read line by line, killed as a whole."""

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.errors import JobError
from backend.system.processes import NICENESS, PARENT, describe_exit, identity, lower_priority


@dataclass(frozen=True)
class Line:
    """A printed line: as text for the log, and as an object if it was JSON."""

    text: str
    report: Mapping[str, Any] | None


class JobProcess:
    """One run of a job's command, at low priority: annotators who wait for masks come first.

    Args:
        command: program and arguments.
        folder: where it keeps temporary files.
        limit_seconds: time after which it is killed; None for no limit.
        niceness: from 0 to 19.

    Raises:
        JobError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, limit_seconds: float | None = None, niceness: int = NICENESS
    ) -> None:
        self._limit = limit_seconds
        self._overdue = False
        self._reaping = threading.Lock()  # no signal goes to a number that has just been given back
        self._tail: deque[str] = deque(maxlen=5)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", PARENT: str(os.getpid())},
                start_new_session=True,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise JobError(f"the job's process cannot be started: {error.strerror}: {command[0]}") from error
        lower_priority(self._process.pid, niceness)
        self.identity = identity(self._process.pid)

    def lines(self) -> Iterator[Line]:
        """The lines that it prints, until it ends."""
        timer = threading.Timer(self._limit or 0, self._expire)
        timer.daemon = True
        if self._limit is not None:
            timer.start()
        try:
            assert self._process.stdout is not None
            with self._process.stdout as output:
                for raw in output:
                    if text := raw.rstrip():
                        yield self._read(text)
        finally:
            timer.cancel()

    def wait(self) -> str | None:
        """Wait for its end; returns its failure in words, or None. For the thread that reads `lines`."""
        if self._process.returncode is None:
            # Look, but do not reap yet: as long as its number is not free, the group is surely its own.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
            with self._reaping:
                self._signal()  # to processes that it started and left behind
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()  # perhaps nobody has read it
        if self._overdue and self._limit is not None:
            return f"killed because it took longer than {self._limit / 60:.0f} minutes"
        if self._process.returncode == 0:
            return None
        # Without a JSON report only the last lines, usually a traceback's end, tell the reason.
        said = f"; its last words: {' | '.join(self._tail)}" if self._tail else ""
        return describe_exit(self._process.returncode) + said

    def kill(self) -> None:
        """Make it and everything it started end, from any thread; harmless when it has. `wait` alone reaps it."""
        with self._reaping:
            if self._process.returncode is None:
                self._signal()

    def _signal(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _expire(self) -> None:
        self._overdue = True
        self.kill()

    def _read(self, text: str) -> Line:
        try:
            report = json.loads(text) if text.startswith("{") else None
        except ValueError:
            report = None
        if not isinstance(report, dict):
            self._tail.append(text)
            return Line(text, None)
        said = report.get("message") or report.get("reason") or ""
        counted = f" {report['done']}/{report['total']}" if report.get("total") else ""
        return Line(f"{report.get('stage', '')}{counted}: {said}", report)
