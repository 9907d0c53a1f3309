"""Foreign images decoded in helper processes, so that a hostile one costs no more than its own answer.

A helper has a limit of memory and a deadline for each image; one that dies or hangs is replaced. Helpers are started
when they are first needed, by executing a new interpreter, never by forking a process with threads, and are used again
and again.

All images of a process share a budget of decoded bytes, from before they are decoded until nothing refers to them any
more. Large ones, which a helper tells from their headers, have a budget of their own and are decoded one at a time, so
that some of them never keep others waiting. To wait for a helper or a share of the budget has a deadline too.
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
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from models.data.decoder import ANSWER, IMAGE, MANY_PIXELS, NO_MEMORY, REQUEST, receive, receive_into
from models.data.pages import RgbImage

ROOT = Path(__file__).parents[2]
HELPERS = 2  # images decoded at the same time: few, since each may take the whole memory
SECONDS = 20.0
WAIT_SECONDS = 60.0  # for a helper and for a share of the budget
MEMORY = 1 << 30  # bytes that decoding an image may take, beside what an idle helper has
LARGE = 8_000_000  # pixels above which an image is large
COLLECT_SECONDS = 0.1  # between looks whether images are gone
DECODED, DECODED_LARGE = 1 << 30, 768 << 20  # bytes of all decoded images, and of the large ones
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
        ValueError: as there, or decoding took more than SECONDS or MEMORY, or could not begin within WAIT_SECONDS.
    """
    return _shared(os.getpid()).decode(data, max_pixels, page)


class Budget:
    """Bytes that are shared in the order in which they are asked for.

    Args:
        total: of them.
    """

    def __init__(self, total: int) -> None:
        self.total, self._free = total, total
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._returned: SimpleQueue[int] = SimpleQueue()

    @property
    def free(self) -> int:
        """Bytes that nobody has."""
        with self._changed:
            return self._collected()

    def acquire(self, count: int, deadline: float) -> int:
        """Take bytes; more than there are in all are taken as all of them.

        Args:
            count: how many.
            deadline: on the clock of `time.monotonic`.

        Returns:
            How many to release.

        Raises:
            TimeoutError: they were not free in time.
        """
        count, turn = min(count, self.total), object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or self._collected() < count:
                    if time.monotonic() > deadline:
                        raise TimeoutError
                    self._changed.wait(COLLECT_SECONDS)
                self._free -= count
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
        return count

    def release(self, count: int) -> None:
        """Give bytes back."""
        with self._changed:
            self._free += count
            self._changed.notify_all()

    def lend(self, image: RgbImage, taken: int) -> RgbImage:
        """Give back at once what an image does not need of the bytes taken for it, and the rest when it is gone."""
        kept = min(image.nbytes, taken)
        self.release(taken - kept)
        # No lock may be taken where memory is freed: that may be in the middle of anything, also of `acquire`.
        weakref.finalize(image, self._returned.put, kept).atexit = False
        return image

    def _collected(self) -> int:
        with suppress(Empty):
            while True:
                self._free += self._returned.get_nowait()
        return self._free


class Decoders:
    """A few helper processes that decode images for any number of threads, in the order in which these ask.

    Args:
        helpers: how many; each is started when it is first needed.
        seconds: for an image, from the moment when a helper takes it.
        memory: bytes that decoding one may take.
        decoded: bytes of all decoded images that are referred to, without the large ones.
        decoded_large: bytes of the large ones.
        wait: seconds that an image may wait for a helper and for its share of these.
    """

    def __init__(
        self,
        helpers: int = HELPERS,
        seconds: float = SECONDS,
        memory: int = MEMORY,
        *,
        decoded: int = DECODED,
        decoded_large: int = DECODED_LARGE,
        wait: float = WAIT_SECONDS,
    ) -> None:
        self._wait = wait
        self._decoded, self._decoded_large = Budget(decoded), Budget(decoded_large)
        self._large = Budget(1)  # large images decoded at the same time
        self._lock = threading.Lock()
        self._helpers = [_Helper(seconds, memory) for _ in range(helpers)]
        self._idle = list(self._helpers)
        self._waiting: deque[SimpleQueue[_Helper]] = deque()

    def decode(self, data: bytes, max_pixels: int, page: int = 0) -> RgbImage:
        """As `decode_bounded`, in these helpers."""
        deadline = time.monotonic() + self._wait
        try:
            taken = self._decoded.acquire(3 * min(LARGE, max_pixels), deadline)
            try:
                with self._helper(deadline) as helper:
                    image = helper.decode(data, max_pixels, page, LARGE)
            except LargeImage as error:
                large = error.pixels
            except BaseException:
                self._decoded.release(taken)
                raise
            else:
                return self._decoded.lend(image, taken)
            self._decoded.release(taken)
            return self._decode_large(data, max_pixels, page, large, deadline)
        except TimeoutError:
            raise ValueError(f"it waited {self._wait:g} s for other images to be decoded; try again later") from None

    def _decode_large(self, data: bytes, max_pixels: int, page: int, pixels: int, deadline: float) -> RgbImage:
        taken = self._decoded_large.acquire(3 * pixels, deadline)
        try:
            turn = self._large.acquire(1, deadline)
            try:
                with self._helper(deadline) as helper:
                    image = helper.decode(data, max_pixels, page, max_pixels)
            finally:
                self._large.release(turn)
        except BaseException:
            self._decoded_large.release(taken)
            raise
        return self._decoded_large.lend(image, taken)

    def processes(self) -> list[int]:
        """Ids of the helpers that run."""
        return [helper.process.pid for helper in self._helpers if helper.process is not None]

    def close(self) -> None:
        """End all helpers, also in the middle of an image."""
        for helper in self._helpers:
            helper.kill()

    @contextmanager
    def _helper(self, deadline: float) -> "Iterator[_Helper]":
        """A helper for the caller alone; who waits longest gets the next one. Raises TimeoutError."""
        with self._lock:
            ticket: SimpleQueue[_Helper] = SimpleQueue()
            if self._idle:
                ticket.put(self._idle.pop())
            else:
                self._waiting.append(ticket)
        try:
            helper = ticket.get(timeout=max(deadline - time.monotonic(), 0.001))
        except Empty:
            with self._lock:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    raise TimeoutError from None
            helper = ticket.get()  # it has come this moment
        try:
            yield helper
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().put(helper)
                else:
                    self._idle.append(helper)


class LargeImage(Exception):
    """An image has more pixels than the caller is ready for.

    Attributes:
        pixels: how many.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__(f"it has {pixels} pixels")
        self.pixels = pixels


class _Helper:
    """One helper process, or the place of one. Used by one thread at a time."""

    def __init__(self, seconds: float, memory: int) -> None:
        self._seconds, self._memory = seconds, memory
        self.process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def decode(self, data: bytes, max_pixels: int, page: int, ready_for: int) -> RgbImage:
        """Decode an image, or raise LargeImage if it has more than `ready_for` pixels.

        The process is ended where it does not answer as it should, and the next call starts one.
        """
        connection = self._started()
        deadline = time.monotonic() + self._seconds
        try:
            connection.settimeout(self._seconds)
            connection.sendall(REQUEST.pack(len(data), max_pixels, page, ready_for, self._seconds))
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
        if kind == MANY_PIXELS:
            raise LargeImage(height * width)
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
