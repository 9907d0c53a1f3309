"""Keep a caller waiting without its time-out running out.

Label Studio's time-out for an answer counts from byte to byte, and JSON allows white space between its parts, so a
blank every second holds the line for as long as the work takes.
"""

import contextvars
import queue
import threading
from collections.abc import Generator, Iterator

BLANK = b" "


def kept_alive(parts: Iterator[bytes], every: float = 1.0) -> Generator[bytes, None, None]:
    """The parts, with a blank whenever nothing came for a while.

    The parts are made on a thread of their own; when the caller hangs up, that thread stops at its next part.

    Args:
        parts: pieces of a JSON text, split between its tokens.
        every: seconds of silence before a blank.
    """
    finished = object()
    hung_up = threading.Event()
    waiting: queue.Queue[object] = queue.Queue(maxsize=4)

    def put(part: object) -> bool:
        while not hung_up.is_set():
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
        while True:
            try:
                part = waiting.get(timeout=every)
            except queue.Empty:
                yield BLANK
                continue
            if part is finished:
                return
            if isinstance(part, BaseException):
                raise part
            assert isinstance(part, bytes)
            yield part
    finally:
        hung_up.set()
