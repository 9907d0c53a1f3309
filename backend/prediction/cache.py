"""Predictions made lately or being made now, so that no task is predicted twice.

Label Studio drops an answer that comes too late and then asks for the same tasks again, and three people who open the
same fresh task cause three requests for it.
"""

import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future

from backend.system.metrics import ANSWER_BYTES, ANSWERS

Entry = bytes  # JSON: written once, and handed on as it is


class PredictionCache:
    """Entries by key: finished ones for a while, running ones as futures that anybody may wait for.

    Args:
        max_bytes: compressed size of all finished entries; the one used longest ago goes first.
        max_age: seconds after which an entry is made again, in case the image behind its address has changed.
    """

    def __init__(self, max_bytes: int = 64 << 20, max_age: float = 900.0) -> None:
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._lock = threading.Lock()
        # Masks are lists of small integers; compressed they take a tenth of the memory.
        self._finished: OrderedDict[Hashable, tuple[float, bytes]] = OrderedDict()
        self._running: dict[Hashable, Future[Entry | None]] = {}
        self._bytes = 0

    def known(self, key: Hashable) -> bool:
        """Whether the entry is finished or being made."""
        with self._lock:
            return key in self._finished or key in self._running

    def join(self, key: Hashable) -> tuple[Future[Entry | None], bool]:
        """The future entry, and whether the caller has to make it and must call `finish` in every case."""
        with self._lock:
            finished = self._finished.get(key)
            if finished is not None and time.monotonic() - finished[0] <= self._max_age:
                self._finished.move_to_end(key)
                ANSWERS.labels("hit").inc()
                future: Future[Entry | None] = Future()
                future.set_result(zlib.decompress(finished[1]))
                return future, False
            if (running := self._running.get(key)) is not None:
                ANSWERS.labels("joined").inc()
                return running, False
            future = self._running[key] = Future()
            ANSWERS.labels("miss").inc()
            return future, True

    def finish(self, key: Hashable, entry: Entry | None) -> None:
        """Hand in the entry that `join` asked for; None if there is none, and the next caller tries again."""
        packed = None if entry is None else zlib.compress(entry, 1)
        with self._lock:
            future = self._running.pop(key)
            self._drop(key)
            if packed is not None:
                self._finished[key] = (time.monotonic(), packed)
                self._bytes += len(packed)
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._finished)))
            ANSWER_BYTES.set(self._bytes)
        future.set_result(entry)

    def _drop(self, key: Hashable) -> None:
        dropped = self._finished.pop(key, None)
        self._bytes -= len(dropped[1]) if dropped is not None else 0
