"""A gunicorn worker whose threads never wait for a stranger: gunicorn's own, with buffers and deadlines around it.

gunicorn's threads read requests themselves, and send answers for as long as these are read. Forty half-sent requests
would hold all of them. Here its main loop receives: a thread gets a request when it is whole, or when it is going to be
refused anyway, because its body is too large or its caller does not know the password. What comes too slowly is
answered with 408 and dropped; answers that are not read are given up. /health and /ready have threads of their own.

A connection is in one of four places: receiving (registered with the poller), in the hands of a thread, lingering (its
answer is sent and its end awaited), or closed.
"""

import errno
import json
import logging
import os
import re
import resource
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from gunicorn import util
from gunicorn.http.errors import InvalidChunkSize, NoMoreData
from gunicorn.http.parser import RequestParser
from gunicorn.workers.gthread import TConn, ThreadWorker

from backend.system.memory import HEAVY
from backend.system.metrics import GIVEN_UP
from backend.web.security import ADMITS

logger = logging.getLogger(__name__)

HEAD_SECONDS = 10.0  # for a request line and all headers
MAX_HEAD = 64 << 10  # bytes of them
BODY_SECONDS = 20.0  # for a body, and a second more for each MIN_RATE bytes of it
STALL_SECONDS = 10.0  # without a byte of it
MIN_RATE = 256 << 10
WRITE_SECONDS = 15.0  # that a thread may wait for a reader in all, and a second more for each WRITE_RATE bytes
WRITE_RATE = 64 << 10
HEALTH_WRITE_SECONDS = 0.05  # such an answer fits into the kernel's buffer, unless its caller reads none
LINGER_SECONDS = 2.0  # in which the other side may close a connection after the answer
SWEEP_SECONDS = 0.5
QUIET_SECONDS = 1.0  # without a request, after which a process may be replaced; pages and monitors ask every two
# The network's thread asks for the interpreter after each of its some 600 layers, and waits so long for it whenever
# another thread is busy; Python's own 5 ms make a pass under load some three times as long.
SWITCH_SECONDS = 0.0005
IN_MEMORY = 64 << 10  # bytes of a request that are kept in memory; the rest is in a file
AT_ONCE = 64 << 10  # bytes received before another connection has its turn
LARGEST_CHUNK_LINE = 8 << 10

HEALTH = ("/", "/health")
STATE = ("/ready", "/metrics")
SAFE = ("GET", "HEAD")
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*(?=\r\n)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*(?=\r\n)", re.IGNORECASE)
CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
HEADER = re.compile(rb"\r\n([!-9;-~]+):[ \t]*([^\r\n]*)")


class Head:
    """What has to be known of a request's head to receive its body; gunicorn reads and checks it again.

    Attributes:
        length: bytes of the body; None where that is not said.
        chunks: finds the end of a body in chunks; None of another.
        continues: the client waits for leave to send the body.
        environ: method, path, query and headers, as WSGI has them.
    """

    def __init__(self, head: bytes) -> None:
        method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
        target = rest.partition(" ")[0]
        path, _, query = target.partition("?")
        self.environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        for name, value in HEADER.findall(head):
            key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
            self.environ.setdefault(key, value.decode("latin-1").rstrip(" \t"))
        self.chunks = Chunks() if CHUNKED.search(head) else None
        found = LENGTH.search(head)
        self.length = None if self.chunks is not None else int(found[1]) if found else 0
        self.continues = CONTINUE.search(head) is not None

    @property
    def asks_for(self) -> str:
        """The path, of a request that changes nothing; else ""."""
        return self.environ["PATH_INFO"] if self.environ["REQUEST_METHOD"] in SAFE else ""


class Chunks:
    """Finds the end of a body that comes in chunks."""

    def __init__(self) -> None:
        self._line, self._skip, self._trailer, self._over = b"", 0, False, False

    def ends(self, data: bytes) -> bool:
        """Whether the body ends, or stops making sense, in its next piece."""
        at = 0
        while at < len(data) and not self._over:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip, at = self._skip - step, at + step
                continue
            end = data.find(b"\n", at)
            self._line += data[at : end + 1 or len(data)]
            if end < 0:
                self._over = len(self._line) > LARGEST_CHUNK_LINE
                break
            self._take(self._line.strip())
            self._line, at = b"", end + 1
        return self._over

    def _take(self, line: bytes) -> None:
        if self._trailer:
            self._over = not line
            return
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            self._over = True  # gunicorn says what is wrong
            return
        self._trailer, self._skip = size == 0, size + 2 if size > 0 else 0


class Received:
    """The bytes of a connection that no request has taken yet; gunicorn's parser reads them as from a socket."""

    def __init__(self) -> None:
        self.size = 0
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - closed with the request

    def add(self, data: bytes) -> None:
        """Append bytes."""
        self.size += len(data)
        self._file.write(data)

    def rewind(self) -> None:
        """Let the bytes be read from the first on."""
        self._file.seek(0)

    def recv(self, size: int) -> bytes:
        """The next bytes; none at the end of what was received, which for the parser is a closed connection."""
        return self._file.read(size)

    def close(self) -> None:
        """Give up the bytes."""
        self._file.close()


class Sending:
    """The socket of a connection as gunicorn's threads see it: they wait for its reader, but not for ever."""

    def __init__(self, sock: socket.socket, stalled: Callable[[], None]) -> None:
        self.plain = sock
        self.seconds = WRITE_SECONDS
        self._stalled = stalled

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def setblocking(self, flag: bool) -> None:
        """Nothing: the main loop never blocks, and a thread sends with a time limit."""

    def sendall(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            BrokenPipeError: its reader has made threads wait for too long.
        """
        for start in range(0, len(data), AT_ONCE):
            piece = data[start : start + AT_ONCE]
            began = time.monotonic()
            try:
                self.plain.settimeout(max(self.seconds, 0.001))
                self.plain.sendall(piece)
            except TimeoutError:
                self.seconds = 0.0
                self._stalled()
                raise BrokenPipeError(errno.EPIPE, "the answer is not read") from None
            left = self.seconds + len(piece) / WRITE_RATE - (time.monotonic() - began)
            self.seconds = min(left, WRITE_SECONDS)


class Connection(TConn):  # type: ignore[misc]
    """A connection, with the request that it is receiving.

    Attributes:
        deadline: on the clock of `time.monotonic`, when it is given up.
        received: its bytes.
        head: of the request; None until it is there.
        head_end: bytes up to its body.
        whole: the request was received to its end.
        lingers: its last answer is sent.
        drained: bytes that came after that.
    """

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any, stalled: Callable[[], None]) -> None:
        super().__init__(cfg, sock, client, server)
        self.sock = Sending(sock, stalled)
        self.data_ready = True  # no thread waits for it
        self.deadline = time.monotonic() + HEAD_SECONDS
        self.received = Received()
        self.head: Head | None = None
        self.head_end = self.drained = 0
        self.whole = self.lingers = False
        self._beginning = bytearray()
        self._searched = 0
        self._body_began = 0.0

    @property
    def idle(self) -> bool:
        """Whether no byte of a request has come."""
        return not self.received.size

    def wait(self, seconds: float, rest: bytes = b"") -> None:
        """Begin to wait for a request, of which `rest` is there already."""
        self.received.close()
        self.received, self.head, self.whole = Received(), None, False
        self._beginning, self._searched = bytearray(), 0
        self.deadline = time.monotonic() + seconds
        if rest:
            self.take(rest)

    def take(self, data: bytes) -> None:
        """Add bytes, and look whether the head or the whole request is there."""
        now = time.monotonic()
        if self.idle:
            self.deadline = now + HEAD_SECONDS
        self.received.add(data)
        if self.head is None:
            self._beginning += data
            end = self._beginning.find(b"\r\n\r\n", max(self._searched - 3, 0))
            self._searched = len(self._beginning)
            if end < 0:
                return
            self.head_end, self._body_began = end + 4, now
            # A request may follow an empty line.
            self.head = Head(bytes(self._beginning[: self.head_end]).lstrip(b"\r\n"))
            data = bytes(self._beginning[self.head_end :])
            self._beginning = bytearray()
        if self.head.chunks is not None:
            self.whole = self.head.chunks.ends(data)
        elif self.head.length is not None:
            self.whole = self.received.size >= self.head_end + self.head.length
        allowed = self._body_began + BODY_SECONDS + self.received.size / MIN_RATE
        self.deadline = min(allowed, now + STALL_SECONDS)


class BufferedWorker(ThreadWorker):  # type: ignore[misc]
    """Receives requests in the main loop and answers them in threads; see above."""

    def init_process(self) -> None:
        """Prepare, then run until the end."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._waiting: set[Connection] = set()
        self._held = 0  # bytes of all requests, until they are answered
        self._swept = self._answered = 0.0
        self._health = ThreadPoolExecutor(2, "health")
        self._state = ThreadPoolExecutor(2, "state")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Each connection is a file; many systems begin with 1,024 of them.
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)) if hard > 0 else soft, hard))
        super().init_process()

    # Called by the main loop

    def accept(self, listener: socket.socket) -> None:
        """Take a connection; where there are too many, the one that has been incomplete for longest makes room."""
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._make_room()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        sock.setblocking(False)
        connection = Connection(self.cfg, sock, client, listener.getsockname(), self._note_stall)
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        self._receive(connection)

    def murder_keepalived(self, force: bool = False) -> None:
        """Give up what is too slow."""
        now = time.monotonic()
        if now < self._swept + SWEEP_SECONDS and not force:
            return
        self._swept = now
        if self.nr_conns > len(self._waiting):
            self._answered = now  # a reload would give what is being answered half a minute
        if HEAVY.is_set() and self.alive and now >= self._answered + QUIET_SECONDS:
            HEAVY.clear()
            logger.info("a fresh process takes over, without what this one has loaded and needs no more")
            os.kill(self.ppid, signal.SIGHUP)
        for connection in [one for one in self._waiting if force or one.deadline <= now]:
            if force or connection.idle or connection.lingers:
                self._close(connection)
                continue
            part = "headers" if connection.head is None else "body"
            GIVEN_UP.labels(part).inc()
            self._refuse(connection, 408, f"the request's {part} came too slowly")

    def murder_pending(self) -> None:
        """Nothing: gunicorn's own list stays empty."""

    def _cap_keepalive(self, deadline: float) -> None:
        for connection in self._waiting:
            if connection.idle:
                connection.deadline = min(connection.deadline, deadline)

    def _receive(self, connection: Connection) -> None:
        self._waiting.add(connection)
        self.poller.register(connection.sock.plain, selectors.EVENT_READ, lambda _: self._readable(connection))

    def _leave(self, connection: Connection) -> None:
        """Receive no more."""
        if connection in self._waiting:
            self._waiting.remove(connection)
            self.poller.unregister(connection.sock.plain)

    def _readable(self, connection: Connection) -> None:
        if connection not in self._waiting:
            return  # it was closed to make room since the kernel named it
        try:
            self._take_from(connection)
        except Exception:  # whatever one of them sends, the others are received
            self.log.exception("receiving from %s failed", connection.client)
            self._close(connection)

    def _take_from(self, connection: Connection) -> None:
        try:
            data = connection.sock.plain.recv(AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        connection.drained += len(data) if connection.lingers else 0
        if not data or connection.drained > MAX_HEAD:
            self._close(connection)
        elif not connection.lingers:
            self._held += len(data)
            headless = connection.head is None
            try:
                connection.take(data)
            except OSError as error:
                self.log.error("a request cannot be received: %s; make room in %s", error, tempfile.gettempdir())
                self._refuse(connection, 507, "the server has no room for the request")
                return
            self._look_at(connection, headless)

    def _look_at(self, connection: Connection, headless: bool) -> None:
        """Hand a connection over, refuse it, or go on receiving, as its newest bytes call for.

        Args:
            connection: which one.
            headless: it had no head before those bytes.
        """
        head = connection.head
        if connection.head_end > MAX_HEAD or (head is None and connection.received.size > MAX_HEAD):
            self._refuse(connection, 431, f"the request's headers are longer than {MAX_HEAD} bytes")
        elif head is not None and head.chunks is not None and connection.received.size > self._limit:
            # The application could not tell it from one that ends there.
            most = f"{self._limit / (1 << 20):g} MB"
            self._refuse(connection, 413, f"a body may have {most}; send less, or raise PREMASK_MAX_REQUEST_MB")
        elif head is not None and (connection.whole or self._is_refused(connection, head, headless)):
            self._hand_over(connection, head)
        elif self._held > self._most_held:
            self._refuse(connection, 503, "too many large requests at once; try again in a while")
        elif head is not None and head.continues and headless:
            self._send_now(connection, b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def _most_held(self) -> int:
        return self._limit + (16 << 20)

    @property
    def _limit(self) -> int:
        return int(self.wsgi.config["MAX_CONTENT_LENGTH"])

    def _is_refused(self, connection: Connection, head: Head, headless: bool) -> bool:
        """Whether a request will be refused whatever its body, so that none is waited for."""
        if (head.length or 0) > self._limit:
            return True
        return headless and not self.wsgi.extensions[ADMITS](head.environ)

    def _hand_over(self, connection: Connection, head: Head) -> None:
        self._leave(connection)
        connection.received.rewind()
        # What the parser takes for a socket ends where the request does: no thread waits for more.
        connection.parser = RequestParser(self.cfg, connection.received, connection.client)
        path = head.asks_for
        pool = self._health if path in HEALTH else self._state if path in STATE else self.tpool
        connection.sock.seconds = HEALTH_WRITE_SECONDS if path in HEALTH else WRITE_SECONDS
        if pool is self.tpool:
            self._answered = time.monotonic()
        future = pool.submit(self.handle, connection)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, connection, done))

    def finish_request(self, connection: Connection, done: Future[Any]) -> None:
        """Take a connection back from a thread."""
        kept = False
        try:
            kept = bool(done.result()) and connection.whole
        except Exception:
            self.log.exception("a request ended unexpectedly")
        # What follows the request begins where gunicorn, which has read it, says so.
        rest = connection.parser.unreader.take_buffered() + connection.received.recv(-1) if kept else b""
        self._held += len(rest) - connection.received.size
        if not kept:
            self._linger(connection)
            return
        connection.wait(self.cfg.keepalive if self.alive else LINGER_SECONDS, rest)
        connection.sock.plain.setblocking(False)
        self._receive(connection)
        if rest:
            self._look_at(connection, True)

    def _refuse(self, connection: Connection, status: int, text: str) -> None:
        self._leave(connection)
        self.log.warning("a request from %s was refused with %d: %s", connection.client, status, text)
        body = json.dumps({"error": text, "status": status}).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._send_now(connection, head.encode() + body)
        self._held -= connection.received.size
        self._linger(connection)

    def _send_now(self, connection: Connection, data: bytes) -> None:
        """Send what fits into the kernel's buffer, and do not wait for its reader."""
        with suppress(OSError):  # it is closed, or not read: then it is not worth more
            connection.sock.plain.setblocking(False)
            connection.sock.plain.send(data)

    def _linger(self, connection: Connection) -> None:
        """Close a connection when the other side has: a reset would take the answer from it (RFC 9112, 9.6)."""
        connection.wait(LINGER_SECONDS)
        connection.lingers = True
        try:
            connection.sock.plain.setblocking(False)
            connection.sock.plain.shutdown(socket.SHUT_WR)
            self._receive(connection)
        except (OSError, ValueError):
            self._close(connection)

    def _make_room(self) -> None:
        """Close a connection that no thread works for: one that lingers or is idle, else the slowest."""
        if self._waiting:
            GIVEN_UP.labels("room").inc()
            self._close(min(self._waiting, key=lambda one: (not one.lingers, not one.idle, one.deadline)))

    def _close(self, connection: Connection) -> None:
        self._leave(connection)
        self._held -= connection.received.size
        self.nr_conns -= 1
        connection.received.close()
        util.close(connection.sock.plain)

    # Called by threads

    def handle_request(self, req: Any, conn: Connection) -> Any:
        """Answer a request."""
        req._expected_100_continue = False  # the main loop has said so
        if not conn.whole:
            req.force_close()
        if conn.head is not None and conn.head.chunks is not None:
            # Read here, so that chunks which make no sense are the caller's fault and not the application's.
            with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as body:
                framed = req.body
                try:
                    shutil.copyfileobj(framed, body)
                except NoMoreData as error:  # gunicorn takes it for a caller who hung up, and says nothing
                    raise InvalidChunkSize(b"a line that does not end by CRLF") from error
                body.seek(0)
                req.body = body
                try:
                    return super().handle_request(req, conn)
                finally:
                    req.body = framed
        return super().handle_request(req, conn)

    def _note_stall(self) -> None:
        GIVEN_UP.labels("answer").inc()
        self.log.warning("an answer was given up: its reader stopped reading")
