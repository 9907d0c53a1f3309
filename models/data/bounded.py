"""Foreign images decoded in helper processes, so that a hostile one costs no more than its own answer.

A helper has a limit of memory and a deadline for each image; one that dies or hangs is replaced. Helpers are started
when they are first needed, by executing a new interpreter, never by forking a process with threads, and are used again
and again.
"""

import atexit
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from models.data.decoder import ANSWER, IMAGE, NO_MEMORY, REQUEST, receive, receive_into
from models.data.pages import RgbImage

ROOT = Path(__file__).parents[2]
HELPERS = 2  # images decoded at the same time: few, since each may take the whole memory
SECONDS = 20.0
MEMORY = 1 << 30  # bytes that decoding an image may take, beside what an idle helper has
START_SECONDS = 120.0  # for a busy machine
# The helper needs nothing of our environment, which may hold keys. One thread of each library, or their stacks and
# arenas would count as memory.
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "MALLOC_ARENA_MAX": "1",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}


def decode_bounded(data: bytes, max_pixels: int, page: int = 0) -> RgbImage:
    """As `models.data.decoding.decode_image`, in the helpers that this process shares; safe to call from any thread.

    Raises:
        ValueError: as there, or decoding took more than SECONDS or MEMORY.
    """
    return _shared(os.getpid()).decode(data, max_pixels, page)


class Decoders:
    """A few helper processes that decode images for any number of threads, in the order in which these ask.

    Args:
        helpers: how many; each is started when it is first needed.
        seconds: for an image, from the moment when a helper takes it.
        memory: bytes that decoding one may take.
    """

    def __init__(self, helpers: int = HELPERS, seconds: float = SECONDS, memory: int = MEMORY) -> None:
        self._lock = threading.Lock()
        self._helpers = [_Helper(seconds, memory) for _ in range(helpers)]
        self._idle = list(self._helpers)
        self._waiting: deque[SimpleQueue[_Helper]] = deque()

    def decode(self, data: bytes, max_pixels: int, page: int = 0) -> RgbImage:
        """As `decode_bounded`, in these helpers."""
        with self._helper() as helper:
            return helper.decode(data, max_pixels, page)

    def processes(self) -> list[int]:
        """Ids of the helpers that run."""
        return [helper.process.pid for helper in self._helpers if helper.process is not None]

    def close(self) -> None:
        """End all helpers, also in the middle of an image."""
        for helper in self._helpers:
            helper.kill()

    @contextmanager
    def _helper(self) -> "Iterator[_Helper]":
        """A helper for the caller alone; who waits longest gets the next one."""
        with self._lock:
            ticket: SimpleQueue[_Helper] = SimpleQueue()
            if self._idle:
                ticket.put(self._idle.pop())
            else:
                self._waiting.append(ticket)
        helper = ticket.get()
        try:
            yield helper
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().put(helper)
                else:
                    self._idle.append(helper)


class _Helper:
    """One helper process, or the place of one. Used by one thread at a time."""

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds, self._memory = seconds, memory
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def decode(self, data: bytes, max_pixels: int, page: int) -> RgbImage:
        """Decode an image; the process is ended where it does not answer as it should, and the next call starts one."""
        connection = self._started()
        deadline = time.monotonic() + self._seconds
        try:
            connection.settimeout(self._seconds)
            connection.sendall(REQUEST.pack(len(data), max_pixels, page, self._seconds))
            connection.sendall(data)
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            kind, height, width, length = ANSWER.unpack(receive(connection, ANSWER.size))
            connection.settimeout(self._seconds)
            if kind == IMAGE:
                image = np.empty((height, width, 3), np.uint8)
                receive_into(connection, image.data.cast("B"))
                return image
            text = receive(connection, length).decode()
        except TimeoutError:
            self.kill()
            raise ValueError(self._too_slow()) from None
        except (EOFError, OSError):
            raise ValueError(self._end()) from None
        except BaseException:  # the caller is being ended: what is still to come would be taken for the next answer
            self.kill()
            raise
        if kind == NO_MEMORY:
            self.kill()
            raise ValueError(f"decoding it took more than {self._memory >> 20} MB; make it smaller")
        raise ValueError(text)

    def kill(self) -> None:
        """End the process, if there is one."""
        process, connection = self.process, self._connection
        self.process = self._connection = None
        if connection is not None:
            connection.close()
        if process is not None:
            process.kill()
            process.wait()

    def _started(self) -> socket.socket:
        if self.process is not None and self.process.poll() is not None:
            self.kill()  # it was ended between two images
        if self._connection is None:
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-P", "-W", "ignore", "-m", "models.data.decoder"]
                self.process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(self._memory)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=ROOT,
                    env=ENVIRONMENT,
                )
            self._connection = ours
            ours.settimeout(START_SECONDS)
            try:
                receive(ours, ANSWER.size)
            except (EOFError, OSError):
                raise ValueError(f"the process that decodes images does not start: {self._end()}") from None
        return self._connection

    def _too_slow(self) -> str:
        return f"decoding it took more than {self._seconds:g} s; save it again, or make it smaller"

    def _end(self) -> str:
        """How the process ended, for people."""
        code = None
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self.process.wait(timeout=1)
        self.kill()
        if code == -signal.SIGALRM:
            return self._too_slow()
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit {code}"
        return f"decoding it ended the process that did so ({how}); it is damaged or takes too much memory"


@functools.cache
def _shared(process: int) -> Decoders:
    """The helpers of this process; one that was forked from it has its own."""
    decoders = Decoders()
    atexit.register(decoders.close)
    return decoders
