"""`premask bench prefetch`: the next task, predicted while the annotator works on this one."""

import time

from backend.bench.measure import Case, Times
from backend.bench.server import BenchServer
from backend.bench.setting import Setting
from backend.errors import BenchError

NEXT = 0.05  # seconds that the next task may take in the backend
WORKING_SECONDS = 120.0  # that an annotator works on a task at most, on a machine that is busy with other things
REST_SECONDS = 3.0  # without a prediction, until there is none under way
APART = 100  # between the tasks that are opened out of order


def prefetch(setting: Setting) -> Case:
    """A task that nobody expected, and the one after it, opened when it has been predicted ahead."""
    times = {"a task out of order": Times(), "the next task": Times()}
    server = BenchServer(setting.model, setting.pipeline.classes, setting.frames, setting.environ, ahead=1)
    with server.running():
        _wait_for_rest(server)  # what was predicted ahead when the server was warmed up is none of these
        for number in range(setting.rounds + 1):
            first = APART * (number + 1)
            for side, task in zip(times, (first, first + 1), strict=True):
                made = server.predicted()
                began = time.perf_counter()
                server.open(task)
                seconds = time.perf_counter() - began
                if number:
                    times[side].wall.append(seconds)
                setting.tick()
                # Its own prediction and the next one's; the second task of a round finds its own in memory.
                _wait(server, made + (2 if task == first else 1))
    return Case("opening a task through the server", times, {"the next task": NEXT})


def _wait_for_rest(server: BenchServer) -> None:
    before = -1
    while before < (before := server.predicted()):
        time.sleep(REST_SECONDS)


def _wait(server: BenchServer, made: int) -> None:
    until = time.monotonic() + WORKING_SECONDS
    while server.predicted() < made:
        if time.monotonic() > until:
            raise BenchError(f"no task was predicted ahead within {WORKING_SECONDS:.0f} s; look at the server's log")
        time.sleep(0.05)
