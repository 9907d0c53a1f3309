"""Cases through the real server: what annotators and Label Studio wait for."""

import time

from backend.bench.measure import Case, Times, alternate
from backend.bench.setting import Setting

# Seconds: what an annotator is promised, and what Label Studio waits for at most.
TASK, CLICK, HEALTH, SETUP = 2.0, 0.5, 1.0, 3.0
CALLS = 10  # of /health and /setup, in each state and round


def task(setting: Setting) -> Case:
    """Opening a task: through the server, against the networks alone."""
    server, pipeline, frames = setting.server, setting.pipeline, setting.frames
    sides = {"through the server": lambda: server.predict(1), "networks alone": lambda: pipeline.predict(frames[:1])}
    # The server computes in a process of its own, so computing time is not counted.
    times = alternate(sides, setting.rounds, setting.tick, cpu=False)
    return Case("opening one task, warm", times, {"through the server": TASK})


def clicks(setting: Setting) -> Case:
    """A click on a frame that was never seen, and the next click on it."""
    server = setting.server
    opened = server.new_task()

    def first() -> None:
        nonlocal opened
        opened = server.new_task()
        server.click(opened, 50, 50)

    sides = {"first click": first, "second click": lambda: server.click(opened, 55, 45)}
    times = alternate(sides, setting.rounds, setting.tick, cpu=False)
    return Case("a click with a smart tool", times, {"second click": CLICK})


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
