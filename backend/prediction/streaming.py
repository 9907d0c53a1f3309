"""Keep a caller waiting without its time-out running out, but not for ever.

Label Studio's time-out for an answer counts from byte to byte, and JSON allows white space between its parts, so a
blank every second holds the line for as long as the work takes.
"""

import contextvars
import queue
import threading
import time
from collections.abc import Generator, Iterator
from typing import TypeVar

BLANK = b" "
Part = TypeVar("Part")


def until(deadline: float, parts: Iterator[Part], every: float = 1.0) -> Generator[Part | None, None, None]:
    """The parts as they come, and None whenever nothing came for a while; ends with them or at the deadline.

    The parts are made on a thread of their own. When it is late or the caller hangs up, that thread stops at its next
    part.

    Args:
        deadline: on the clock of `time.monotonic`.
        parts: work that takes its time.
        every: seconds of silence before a None.
    """
    finished = object()
    over = threading.Event()
    waiting: queue.Queue[object] = queue.Queue(maxsize=4)

    def put(part: object) -> bool:
        while not over.is_set():
            try:
                waiting.put(part, timeout=0.2)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            if all(put(part) for part in parts):
                put(finished)
        except BaseException as error:  # raised where the parts are read
            put(error)

    # In the caller's context, so that what the work logs names the request.
    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="answer", daemon=True).start()
    try:
        while (left := deadline - time.monotonic()) > 0:
            try:
                part = waiting.get(timeout=min(every, left))
            except queue.Empty:
                yield None
                continue
            if part is finished:
                return
            if isinstance(part, BaseException):
                raise part
            yield part  # type: ignore[misc]
    finally:
        over.set()
