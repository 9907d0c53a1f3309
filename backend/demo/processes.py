"""A server as a child process: started with a log file, waited for, stopped with all it started."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests

from backend.errors import DemoError
from backend.system.processes import describe_exit, identity, is_alive

STOP_SECONDS = 45.0  # for a request or a job that is being finished; then it is killed


@dataclass(frozen=True)
class Server:
    """How a server is started.

    Attributes:
        name: as a person would call it.
        command: program and arguments.
        env: its whole environment.
        url: where it answers.
        health: path that answers 2xx once it can work.
        folder: the demo's data folder; `logs/` and `run/` below it keep the log and the process id.
    """

    name: str
    command: Sequence[str | Path]
    env: Mapping[str, str] = field(repr=False)  # holds the token
    url: str
    health: str
    folder: Path

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return self.name.lower().replace(" ", "-")

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / "logs" / f"{self.slug}.log"

    @property
    def pid_file(self) -> Path:
        """Where its process id is kept while it runs."""
        return self.folder / "run" / f"{self.slug}.pid"

    def start(self) -> "Running":
        """Start it in a process group of its own, so that a Ctrl-C reaches only us and we stop it in order.

        Raises:
            DemoError: its program is not installed.
        """
        if not Path(self.command[0]).exists():
            raise DemoError(f"{self.command[0]} does not exist: run `make setup setup-label-studio`")
        for path in (self.log, self.pid_file):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in self.command],
                env=dict(self.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid_file.write_text(identity(process.pid) or "")
        return Running(self, process)


@dataclass(frozen=True)
class Running:
    """A server that was started."""

    server: Server
    process: "subprocess.Popen[bytes]"

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
            DemoError: it has; the text has its exit code and the end of its log.
        """
        code = self.process.poll()
        if code is not None:
            raise DemoError(
                f"{self.server.name}: {describe_exit(code)}. The end of {self.server.log}:\n{tail(self.server.log)}"
            )

    def healthy(self) -> bool:
        """Whether it answers now."""
        with requests.Session() as session:
            session.trust_env = False  # a proxy cannot reach this machine's own address
            try:
                return session.get(self.server.url + self.server.health, timeout=2).ok
            except requests.RequestException:
                return False

    def wait(self, seconds: float, tick: Callable[[], None] = lambda: None) -> None:
        """Wait until it answers; `tick` is called about twice a second meanwhile.

        Raises:
            DemoError: it ended, or did not answer in `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not self.healthy():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f"{self.server.name} did not answer at {self.server.url} within {seconds:.0f} s; "
                    f"run again on a less busy machine. The end of {self.server.log}:\n{tail(self.server.log)}"
                )
            tick()
            time.sleep(0.5)


def stop_all(servers: Iterable[Running], seconds: float = STOP_SECONDS) -> None:
    """End the servers together: each is asked, then after `seconds` its whole process group is killed."""
    running = list(servers)
    for one in running:
        if one.process.poll() is None:
            one.process.terminate()
    deadline = time.monotonic() + seconds
    for one in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.process.wait(max(0.1, deadline - time.monotonic()))
        _kill_group(one.process.pid)  # what it started and left behind, too
        one.process.wait()
        one.server.pid_file.unlink(missing_ok=True)


def stop_leftover(server: Server, seconds: float = STOP_SECONDS) -> bool:
    """End the server that an earlier run left behind because it was killed itself; True if there was one."""
    if not server.pid_file.exists():
        return False
    # The number may belong to somebody else by now, which its start time tells.
    process = server.pid_file.read_text()
    found = bool(process) and is_alive(process)
    if found:
        pid = int(process.partition(":")[0])
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while is_alive(process) and time.monotonic() < deadline:
            time.sleep(0.1)
        _kill_group(pid)
    server.pid_file.unlink()
    return found


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log file, indented."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        return f"    (cannot be read: {error})"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (empty)"


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
