"""An application that takes its time on request, for a server whose deadlines are short."""

import os
import time
from collections.abc import Iterator

from flask import Flask, Response, request

from backend.entrypoints import buffered_worker
from backend.system.login import Login
from backend.system.memory import HEAVY
from backend.web.security import secure

buffered_worker.HEAD_SECONDS = 1.0
buffered_worker.BODY_SECONDS = 3.0
buffered_worker.STALL_SECONDS = 1.0
buffered_worker.WRITE_SECONDS = 1.0

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 2_000_000
secure(app, Login("lead", "s3cret-s3cret") if os.environ.get("PASSWORD") else None)
streams: list[int] = []


@app.get("/health")
def health() -> str:
    return "up"


@app.post("/echo")
def echo() -> bytes:
    return request.get_data()


@app.get("/wait")
def wait() -> str:
    time.sleep(4)
    return "waited"


@app.get("/large")
def large() -> Response:
    def pieces() -> Iterator[bytes]:
        for _ in range(400):
            yield b"x" * 100_000

    response = Response(pieces())
    streams.append(1)
    response.call_on_close(streams.pop)
    return response


@app.get("/streams")
def count() -> str:
    return str(len(streams))


@app.get("/process")
def process() -> str:
    return str(os.getpid())


@app.post("/heavy")
def heavy() -> str:
    HEAVY.set()
    return ""
