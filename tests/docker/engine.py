"""Starts what compose.yml composes, as far as it goes without an engine and without anybody's registry.

The backend's containers are processes in the built image. PostgreSQL and Label Studio are this machine's, with
the variables that Compose gives them. All have a network of their own, with an address for each name.
"""

import ctypes
import glob
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEWNET = 0x40000000  # sched.h: CLONE_NEWNET
LIBC = ctypes.CDLL(None, use_errno=True)
WITH_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'


@contextmanager
def network(names: Sequence[str], folder: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """Put this thread and all it starts into a network where each name has an address; gives these and a hosts file."""
    outside = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert LIBC.unshare(NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 2)}
        for command in ("link set lo up", *(f"addr add {address}/32 dev lo" for address in addresses.values())):
            subprocess.run(["ip", *command.split()], check=True)
        hosts = folder / "hosts"
        lines = {"localhost": "127.0.0.1", **addresses}
        hosts.write_text("".join(f"{address} {name}\n" for name, address in lines.items()))
        yield addresses, hosts
    finally:
        assert LIBC.setns(outside, NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(outside)


@contextmanager
def process(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped at the end, by SIGTERM first."""
    with log.open("wb") as file:
        running = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextmanager
def postgres(service: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """A new PostgreSQL with the user, password and databases of the service, which asks for the password."""
    asked = service["environment"]
    shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text(asked["POSTGRES_PASSWORD"])
    shutil.chown(folder / "password", "postgres")
    his = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    user, database, data = asked["POSTGRES_USER"], asked["POSTGRES_DB"], folder / "data"
    login = [f"--username={user}", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256"]
    subprocess.run([*his, _program("initdb"), f"--pgdata={data}", *login], check=True, capture_output=True)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all all scram-sha-256\n")
    options = ["-D", str(data), "-c", "listen_addresses=*", "-c", f"unix_socket_directories={folder}"]
    with process([*his, _program("postgres"), *options], folder / "log"):
        psql = ["psql", f"--host={folder}", f"--username={user}", "--dbname=postgres"]
        password = {**os.environ, "PGPASSWORD": asked["POSTGRES_PASSWORD"]}
        for _ in range(600):
            if (
                subprocess.run([*psql, "--command=SELECT 1"], env=password, capture_output=True, check=False).returncode
                == 0
            ):
                break
        for name in (database, "premask"):
            subprocess.run([*psql, "--quiet", f"--command=CREATE DATABASE {name}"], env=password, check=True)
        yield


def label_studio(
    program: Path, service: Mapping[str, Any], folder: Path, hosts: Path
) -> tuple[list[str], dict[str, str]]:
    """The image's own command, and its variables."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    env = kept | service["environment"] | {"LABEL_STUDIO_BASE_DATA_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
    return ["unshare", "--mount", "sh", "-c", WITH_HOSTS, str(hosts), str(program)], env


def _program(name: str) -> str:
    """Debian keeps PostgreSQL's servers off the search path."""
    return shutil.which(name) or sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))[-1]
