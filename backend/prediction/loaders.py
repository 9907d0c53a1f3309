"""Threads that fetch images: each project has its own few, so that one whose images drip keeps no other waiting."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Loaders:
    """Runs calls at once, in order within a project. Threads end when their project has nothing to load.

    Requests that are answered at the same time are bounded, and with them the projects and the threads.

    Args:
        each: calls of a project that run at the same time.
    """

    def __init__(self, each: int = 4) -> None:
        self._each = each
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._running: dict[str, int] = {}

    def submit(self, project: str, call: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """The future result of a call for a project; it can be cancelled until a thread begins with it."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting.setdefault(project, deque()).append(lambda: _run(future, call, arguments))
            if self._running.get(project, 0) < self._each:
                self._running[project] = self._running.get(project, 0) + 1
                threading.Thread(target=self._work, args=(project,), name=f"images-{project}", daemon=True).start()
        return future

    def _work(self, project: str) -> None:
        while True:
            with self._lock:
                if not self._waiting.get(project):
                    self._running[project] -= 1
                    if not self._running[project]:
                        del self._running[project]
                        self._waiting.pop(project, None)
                    return
                run = self._waiting[project].popleft()
            run()
            del run  # and with it the image


def _run(future: Future[Any], call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call(*arguments)
    except BaseException as error:  # raised where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(result)
