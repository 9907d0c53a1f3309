"""Cases through the real server: what annotators and Label Studio wait for."""

import time
from collections.abc import Callable
from functools import partial

from backend.bench.measure import Case, Times, alternate
from backend.bench.server import BenchServer
from backend.bench.setting import Setting
from backend.versions.serving import load_on

# Seconds: what an annotator is promised, and what Label Studio waits for at most.
TASK, CLICK, HEALTH, SETUP = 2.0, 0.5, 1.0, 3.0
FIRST = 1.0  # that the first task after a start may take
FIRST_ALONE, NEXT_ALONE = 0.3, 0.12  # clicks in a project that no model was trained for
CALLS = 10  # of /health and /setup, in each state and round


def task(setting: Setting) -> Case:
    """Opening a task: through the server, against the networks alone."""
    server, frames = setting.server, setting.frames
    settings = server.settings
    load = load_on(settings.device, settings.runtime, settings.torch_threads, settings.data_dir / "runtime")
    model = load(setting.model)  # computed as the server has it
    sides = {"through the server": lambda: server.predict(1), "networks alone": lambda: model.predict(frames[:1])}
    # The server computes in a process of its own, so computing time is not counted.
    times = alternate(sides, setting.rounds, setting.tick, cpu=False)
    return Case("opening one task, warm", times, {"through the server": TASK})


def start(setting: Setting) -> Case:
    """A server that is started again: until it is ready, and the first task that is opened then."""
    server = BenchServer(setting.model, setting.pipeline.classes, setting.frames, setting.environ)
    times = {"until it is ready": Times(), "the first task then": Times()}
    steps: list[Callable[[], None]] = [server.start_again, partial(server.predict, 1)]
    with server.running():
        for _ in range(setting.rounds):
            server.stop()
            for side, step in zip(times, steps, strict=True):
                began = time.perf_counter()
                step()
                times[side].wall.append(time.perf_counter() - began)
            setting.tick()
    return Case("a start, whose networks were converted before", times, {"the first task then": FIRST})


def clicks(setting: Setting) -> Case:
    """A click on a frame that was never seen, and the next click on it: with a model, and where no model knows it."""
    server = setting.server
    opened = {known: server.new_task() for known in (True, False)}

    def first(known: bool) -> None:
        opened[known] = server.new_task()
        server.click(opened[known], (50, 50), known=known)

    def second(known: bool) -> None:
        server.click(opened[known], (50, 50), (55, 45), known=known)

    first(known=False)  # loads the prompt network
    ways = {"": True, ", no model": False}
    sides = {
        f"{name} click{way}": partial(ask, known)
        for way, known in ways.items()
        for name, ask in (("first", first), ("second", second))
    }
    times = alternate(sides, setting.rounds, setting.tick, cpu=False)
    targets = {"second click": CLICK, "first click, no model": FIRST_ALONE, "second click, no model": NEXT_ALONE}
    return Case("a click with a smart tool", times, targets)


def busy(setting: Setting) -> Case:
    """/health and /setup while nothing happens, and while more clients than there are cores ask for predictions."""
    server = setting.server
    calls = {"/health": server.health, "/setup": server.setup}
    times = {f"{path}, {state}": Times() for path in calls for state in ("idle", "busy")}

    def measure(state: str) -> None:
        for path, call in calls.items():
            for _ in range(CALLS):
                began = time.perf_counter()
                call()
                times[f"{path}, {state}"].wall.append(time.perf_counter() - began)
        setting.tick()

    for _ in range(setting.rounds):
        measure("idle")
        with server.predicting(threads=setting.clients, tasks=setting.images):
            measure("busy")
    targets = {"/health, busy": HEALTH, "/setup, busy": SETUP}
    against = {side: f"{side.partition(',')[0]}, idle" for side in times}
    about = f"while {setting.clients} clients ask for predictions of {setting.images} tasks"
    return Case(about, times, targets, against)
