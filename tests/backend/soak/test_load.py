"""32 clients at once, doing all that Label Studio, annotators and leads do, for five minutes.

Beside them 48 do what no one should: they send half a request, read no answer, or post what is huge, deep or wrong.

Threads with requests: locust would bring gevent, a web server and twelve more packages for what is a loop here.
"""

import os
import random
import threading
import time
from collections import defaultdict

import psutil
import pytest

from backend.bench.measure import percentile
from backend.bench.server import BenchServer
from models.phantom import render_phantom
from models.pipeline import load_pipeline
from models.starter import STARTER
from tests.backend.soak.hostile_clients import hostile_clients

SECONDS = float(os.environ.get("PREMASK_SOAK_SECONDS", "300"))
CLIENTS = 32
WEBHOOK = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}, "task": {"id": 1}, "project": {"id": 1}}

# Endpoint -> how often it is called; then a pause as people make them.
MIX = {
    "/predict one task": 10,
    "/predict four tasks": 3,
    "/predict click": 10,
    "/health": 20,
    "/setup": 20,
    "/versions": 8,
    "/webhook": 10,
    "/dashboard": 5,
    "/metrics": 4,
}
PAUSE = (0.1, 1.0)
GROWTH = 1 << 30  # bytes


def resident(server: BenchServer) -> int:
    """Memory of the server's processes, its decoders among them, in bytes."""
    root = psutil.Process(server.process.process.pid)
    return sum(
        one.memory_info().rss for one in root.children(recursive=True) if "worker" not in " ".join(one.cmdline())
    )


def call(server: BenchServer, what: str, rng: random.Random) -> None:
    """One request; anything but a good answer raises."""
    if what.startswith("/predict click"):
        # Some frames are clicked on again, most are new.
        server.click(rng.randrange(1_000_000, 1_000_100), (rng.uniform(20, 80), rng.uniform(20, 80)))
    elif what.startswith("/predict"):
        server.predict(4 if "four" in what else 1)
    elif what == "/setup":
        server.setup()
    elif what == "/webhook":
        assert server.ask("POST", "/webhook", WEBHOOK).json()["status"] == "noted"
    else:
        assert server.ask("GET", what)


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 3600)
def test_32_clients_get_every_answer() -> None:
    frames = [render_phantom(seed, 512).image for seed in range(4)]
    classes = load_pipeline(STARTER).classes
    latencies: dict[str, list[float]] = defaultdict(list)
    errors: list[str] = []
    with BenchServer(STARTER, classes, frames, os.environ).running() as server, hostile_clients(server.url) as wrong:
        end = time.monotonic() + SECONDS
        memory = [resident(server)]

        def client(seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < end:
                (what,) = rng.choices(list(MIX), list(MIX.values()))
                began = time.perf_counter()
                try:
                    call(server, what, rng)
                except Exception as error:
                    errors.append(f"{what}: {error!r}")
                latencies[what].append(time.perf_counter() - began)
                time.sleep(rng.uniform(*PAUSE))

        clients = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
            memory.append(resident(server))
        assert "premask_requests_total" in server.ask("GET", "/metrics").text
    print(f"{CLIENTS} clients, {SECONDS:.0f} s, load {os.getloadavg()[0]:.1f}; milliseconds")
    print(f"{'':22}{'requests':>9}{'p50':>9}{'p95':>9}{'p99':>9}{'most':>9}")
    for what, seconds in sorted(latencies.items()):
        figures = (percentile(seconds, percent) * 1000 for percent in (50, 95, 99, 100))
        print(f"{what:22}{len(seconds):9}" + "".join(f"{figure:9.0f}" for figure in figures))
    print(f"memory {memory[0] >> 20} MB at first, {max(memory) >> 20} MB at most")
    assert errors == []
    assert wrong == []
    assert set(latencies) == set(MIX)
    assert percentile(latencies["/health"], 99) < 1.0
    # The answers in memory, the embeddings of clicks, decoded images and bodies of 2 MB: docs/operations.md.
    assert max(memory) - memory[0] < GROWTH
