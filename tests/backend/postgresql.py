"""A PostgreSQL of the tests' own, in a temporary folder and on a socket in it; its server refuses to run as root."""

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.backend.fakes import eventually

OPTIONS = ("listen_addresses=", "fsync=off", "max_connections=100", "logging_collector=off")
# A user whose password is asked for; the others are let in.
GUARDED = "guarded"


@dataclass
class Server:
    """A server that can be stopped and started again.

    Attributes:
        folder: of its data and its socket.
    """

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", user: str = "postgres", password: str = "") -> str:
        """The address of a database in it."""
        return f"postgresql://{user}{password and ':' + password}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Return when it answers."""
        command = [program("postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        for option in OPTIONS:
            command += ["-c", option]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*as_user(), *command], stdout=log, stderr=subprocess.STDOUT)
        eventually(self.answers, 60)

    def stop(self) -> None:
        """End it and every connection to it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # SIGTERM would wait for its clients
        self.process.wait(60)

    def kill(self) -> None:
        """kill -9, and a new start as soon as its processes have let go of the data."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        for _ in range(20):
            try:
                self.start()
            except AssertionError:  # some still hold the shared memory
                self.process.kill()
                self.process.wait()
            else:
                return
        raise AssertionError(f"it does not start again; {self.folder}/log says why")

    def answers(self) -> bool:
        try:
            self.execute("select 1")
        except psycopg.OperationalError:
            return False
        return True

    def execute(self, *statements: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def create(self, database: str) -> str:
        """A new database; returns its address."""
        self.execute(f'create database "{database}"')
        return self.url(database)


def program(name: str) -> str | None:
    """Debian keeps PostgreSQL's programs off the search path."""
    return shutil.which(name) or next(iter(sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))[-1:]), None)


def as_user() -> list[str]:
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []


@contextmanager
def server() -> Iterator[Server]:
    """A new server; without PostgreSQL the test is skipped, and fails where everything must be installed."""
    if (initdb := program("initdb")) is None:
        reason = "needs PostgreSQL; on Debian: apt install postgresql"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="premask-pg-", dir="/tmp"))  # a socket's path has 107 characters at most
    if os.getuid() == 0:
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
    made: dict[str, Any] = {"check": True, "capture_output": True, "cwd": "/"}
    try:
        options = ["--pgdata", str(folder / "data"), "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        subprocess.run([*as_user(), initdb, *options, "--locale=C.UTF-8", "--no-sync"], **made)
        rules = folder / "data" / "pg_hba.conf"
        rules.write_text(f"local all {GUARDED} scram-sha-256\n{rules.read_text()}")
        running = Server(folder)
        running.start()
        try:
            yield running
        finally:
            running.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
