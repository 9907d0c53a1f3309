"""Clients that nobody wants: they send half of a request, or slowly, read no answers, or send what is no request."""

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

PREDICT = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
DEEP = b"[" * 200_000
PAUSE = 0.05


def half_a_head(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(b"GET /health HTTP/1.1\r\nX-Slow: ")
    _drip(connection, b"a", rng)


def half_a_body(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(PREDICT + b'Content-Length: 100000\r\n\r\n{"tasks": [')
    _drip(connection, b" ", rng)


def chunks(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(PREDICT + b"Transfer-Encoding: chunked\r\n\r\n")
    _drip(connection, b"1\r\n[\r\n", rng)


def reads_nothing(connection: socket.socket, rng: random.Random) -> None:
    """Asks for pages again and again, and leaves the answers in the network."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(5)
    for _ in range(rng.randint(10, 200)):
        connection.sendall(b"GET /dashboard HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(rng.uniform(1, 20))


def huge(connection: socket.socket, rng: random.Random) -> None:
    length = rng.choice([2_000_000, 10**12])
    connection.sendall(PREDICT + f"Content-Length: {length}\r\n\r\n".encode() + b"[" * 2_000_000)
    connection.recv(1000)


def nested(connection: socket.socket, rng: random.Random) -> None:
    path = rng.choice([b"/predict", b"/setup", b"/webhook", b"/train", b"/validate"])
    connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(DEEP) + DEEP)
    _refused(connection)


def mistyped(connection: socket.socket, rng: random.Random) -> None:
    odd: list[Any] = [None, True, -1, 1e400, "x" * 50_000, [[]] * 1000, {"a": {}}]
    body: dict[str, Any] = {
        name: rng.choice(odd) for name in ("tasks", "project", "label_config", "params", "schema", "action")
    }
    text = json.dumps(body).encode()
    path = rng.choice([b"/predict", b"/setup", b"/webhook", b"/train"])
    connection.sendall(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
    _refused(connection)


def garbage(connection: socket.socket, rng: random.Random) -> None:
    connection.sendall(rng.randbytes(rng.randint(1, 3000)) + b"\r\n\r\n")
    connection.recv(1000)


KINDS: list[Callable[[socket.socket, random.Random], None]] = [
    half_a_head,
    half_a_body,
    chunks,
    reads_nothing,
    huge,
    nested,
    mistyped,
    garbage,
]


class Broken(AssertionError):
    """A request was answered with 500."""


def _drip(connection: socket.socket, piece: bytes, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 40)):
        time.sleep(rng.uniform(0.2, 2))
        connection.sendall(piece)


def _refused(connection: socket.socket) -> None:
    status = connection.recv(1000)[9:12]
    if status == b"500":
        raise Broken(status)


@contextmanager
def hostile_clients(url: str, each: int = 6) -> Iterator[list[str]]:
    """While this block runs, so many of each kind are at work; gives a growing list of answers that should not be."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    assert host is not None
    assert port is not None
    over, wrong = threading.Event(), []

    def work(kind: Callable[[socket.socket, random.Random], None], seed: int) -> None:
        rng = random.Random(seed)
        while not over.is_set():
            # They are hung up on: that is as it should be.
            with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=30) as connection:
                try:
                    kind(connection, rng)
                except Broken as error:
                    wrong.append(f"{kind.__name__}: {error}")
            time.sleep(PAUSE)

    threads = [threading.Thread(target=work, args=(kind, seed), daemon=True) for seed in range(each) for kind in KINDS]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        over.set()
        for thread in threads:
            thread.join(120)
