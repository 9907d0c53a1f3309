"""The server's memory over thousands of predictions: flat once it is warm."""

import os
import threading
from pathlib import Path

import psutil
import pytest

from backend.bench.server import BenchServer
from models.phantom import render_phantom
from models.pipeline import load_pipeline
from models.starter import STARTER

PREDICTIONS = int(os.environ.get("PREMASK_SOAK_PREDICTIONS", "10000"))
AT_ONCE = 10  # tasks of a request
CLIENTS = 4
# Predictions are kept for 15 minutes in up to 64 MB (`backend.prediction.cache`). A leak of one mask each would be 1 GB
# and more.
GROWTH = 100 << 20


def memory(server: BenchServer) -> int:
    """Bytes in memory of the process that answers (RSS)."""
    started = psutil.Process(server.process.process.pid).children()
    (gunicorn,) = (child for child in started if "gunicorn" in " ".join(child.cmdline()))
    (answering,) = gunicorn.children()
    rss: int = answering.memory_info().rss
    return rss


def predict(server: BenchServer, count: int) -> None:
    """So many predictions by several clients; every task is new."""
    errors: list[Exception] = []

    def client() -> None:
        try:
            for _ in range(max(count // CLIENTS // AT_ONCE, 1)):
                server.predict(AT_ONCE)
        except Exception as error:
            errors.append(error)

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    assert errors == []


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize(("weights", "size", "share"), [("small", 96, 1.0), ("shipped", 512, 0.1)])
def test_memory_is_flat_once_it_is_warm(weights: str, size: int, share: float, tiny_model: Path) -> None:
    """All predictions by a small real model, a tenth of them by the shipped one, which takes ten times as long."""
    model = STARTER if weights == "shipped" else tiny_model
    frames = [render_phantom(seed, size).image for seed in range(8)]
    steps, tenth = 10, int(PREDICTIONS * share) // 10
    with BenchServer(model, load_pipeline(model).classes, frames, os.environ).running() as server:
        seen = [memory(server)]
        for step in range(1, steps + 1):
            predict(server, tenth)
            seen.append(memory(server))
            print(f"{weights} model, {step * tenth} predictions: {seen[-1] / 1e6:.0f} MB", flush=True)
        log = server.process.server.log.read_text()
    print(f"{weights} model: {seen[0] / 1e6:.0f} MB after the first, {seen[1] / 1e6:.0f} at 10 %, {seen[-1] / 1e6:.0f}")
    assert log.count("is loaded and served") == 1
    assert max(seen[2:]) - seen[1] < GROWTH
