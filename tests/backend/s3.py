"""An S3 server of the tests' own: moto's, which keeps its buckets in memory."""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import s3fs

from tests.backend.fakes import eventually

# Which key it is makes no difference to moto.
KEYS = {"AWS_ACCESS_KEY_ID": "of-tests", "AWS_SECRET_ACCESS_KEY": "of-tests", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Server:
    """A server that can be stopped; a new start finds no bucket."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self.answers, 120)

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """kill -9, and a new start with what it held, which moto, unlike others, keeps in memory alone."""
        client = self.client()
        held = {path: client.cat_file(path) for bucket in client.ls("") for path in client.find(bucket)}
        self.stop()
        self.start()
        client = self.client()
        for bucket in {path.partition("/")[0] for path in held}:
            client.mkdir(bucket)
        for path, content in held.items():
            client.pipe_file(path, content)

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).close()
        except OSError:
            return False
        return True

    def client(self) -> s3fs.S3FileSystem:
        """A look at it that is not ours."""
        keys = {"key": KEYS["AWS_ACCESS_KEY_ID"], "secret": KEYS["AWS_SECRET_ACCESS_KEY"]}
        return s3fs.S3FileSystem(endpoint_url=self.endpoint, skip_instance_cache=True, use_listings_cache=False, **keys)

    def bucket(self, name: str) -> str:
        """A new bucket; returns an address in it."""
        self.client().mkdir(name)
        return f"s3://{name}/versions"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server() -> Iterator[Server]:
    os.environ.update(KEYS)
    running = Server(free_port())
    running.start()
    try:
        yield running
    finally:
        running.stop()
