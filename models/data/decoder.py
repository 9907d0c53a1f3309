"""A helper process that decodes foreign images within limits: `python -m models.data.decoder SOCKET BYTES`.

It is started by `models.data.bounded`, answers one request after the other on an inherited socket, and ends when the
other side does. Memory beyond BYTES above what it has at the start is refused by the kernel, and the kernel ends it
where a request takes longer than it may.
"""

import os
import resource
import select
import signal
import socket
import struct
import sys
from contextlib import suppress

import numpy as np

from models.data.decoding import RgbImage, decode_page, open_pages

# Bytes of the file, largest number of pixels, page, pixels that the caller is ready for, seconds; the file follows.
REQUEST = struct.Struct("<QQQQd")
# How it went, height, width, bytes of the text; the pixels or the text follow.
ANSWER = struct.Struct("<cIII")
READY, IMAGE, MANY_PIXELS, REFUSED, NO_MEMORY = b"R", b"I", b"P", b"E", b"M"
GRACE = 2.0  # seconds after which the kernel ends a helper that the other side has not ended
LOOK_UP = 10.0  # seconds between looks whether the parent is still there
MAX_TEXT = 500


def receive(connection: socket.socket, size: int) -> bytearray:
    """Exactly so many bytes. Raises EOFError where the other side has closed."""
    data = bytearray(size)
    receive_into(connection, memoryview(data))
    return data


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fill a buffer of bytes. Raises EOFError where the other side has closed."""
    at = 0
    while at < len(view):
        count = connection.recv_into(view[at:])
        if not count:
            raise EOFError
        at += count


def serve(connection: socket.socket) -> None:
    """Answer requests until the other side closes."""
    parent = os.getppid()
    connection.sendall(ANSWER.pack(READY, 0, 0, 0))
    while True:
        while not select.select([connection], [], [], LOOK_UP)[0]:
            if os.getppid() != parent:
                return
        size, max_pixels, page, ready_for, seconds = REQUEST.unpack(receive(connection, REQUEST.size))
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        _answer(connection, size, max_pixels, page, ready_for)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(connection: socket.socket, size: int, max_pixels: int, page: int, ready_for: int) -> None:
    image: RgbImage | None = None
    height = width = 0
    try:
        data = receive(connection, size)
        with open_pages(data, max_pixels) as pages:
            height, width = pages.sizes[page] if page < len(pages) else (0, 0)
            if height * width > ready_for:
                kind, text = MANY_PIXELS, b""
            else:
                image = np.ascontiguousarray(decode_page(pages, page))
                (height, width), kind, text = image.shape[:2], IMAGE, b""
    except MemoryError:
        kind, text = NO_MEMORY, b""
    except ValueError as error:
        kind = NO_MEMORY if _lacks_memory(error) else REFUSED
        text = str(error)[:MAX_TEXT].encode("utf-8", "replace")
    connection.sendall(ANSWER.pack(kind, height, width, len(text)) + text)
    if image is not None:
        connection.sendall(image.data.cast("B"))


def _lacks_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _limit(memory: int) -> None:
    """No more memory than this above today's, no core files, and nothing written."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        held = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def main() -> None:
    """Serve on the socket that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the socket
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _limit(int(sys.argv[2]))
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            serve(connection)


if __name__ == "__main__":
    main()
