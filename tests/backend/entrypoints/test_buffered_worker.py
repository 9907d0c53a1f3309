"""Callers who send or read too slowly cost themselves their answer, and others nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from backend.entrypoints.buffered_worker import Chunks, Head
from tests.backend.fakes import eventually

ROOT = Path(__file__).parents[3]
THREADS = 4
HEAD = b"POST /echo HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def serving(
    folder: Path, *options: str, running: list[subprocess.Popen[bytes]] | None = None, **environ: str
) -> Iterator[int]:
    """gunicorn with a few threads on a free port; `running` gets its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "backend.entrypoints.buffered_worker.BufferedWorker"]
    command += [f"--threads={THREADS}", f"--bind=127.0.0.1:{port}", "--no-control-socket", "--keep-alive=2", *options]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "tests.backend.entrypoints.small_app:app"],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdout=log,
            stderr=log,
        )
    if running is not None:
        running.append(server)
    try:
        eventually(lambda: is_up(port), 60)
        yield port
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(40)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
    log_text = (folder / "log").read_text()
    assert "Traceback" not in log_text, log_text


def is_up(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=1).text == "up"
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("server")) as port:
        yield port


def answers(port: int, sent: bytes) -> bytes:
    """All that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(sent)
        got = b""
        while piece := connection.recv(1 << 16):
            got += piece
        return got


def opened(stack: ExitStack, port: int, sent: bytes) -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
    connection.sendall(sent)
    return connection


@pytest.mark.parametrize(
    "half",
    [b"GET /health HTTP/1.1\r\nX-A:", b"", HEAD + b"Content-Length: 1000\r\n\r\nabc", b"\r\n", HEAD
     + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"],
    ids=["head", "nothing", "body", "a line", "chunks"],
)  # fmt: skip
def test_forty_half_sent_requests_hold_nothing(port: int, half: bytes) -> None:
    with ExitStack() as stack:
        connections = [opened(stack, port, half) for _ in range(40)]
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=10).text == "up"
        assert requests.post(f"http://127.0.0.1:{port}/echo", b"whole", timeout=10).content == b"whole"
        for connection in connections:
            connection.settimeout(20)
            answer = connection.recv(1000)
            assert answer.startswith(b"HTTP/1.1 408") if half.strip() else answer in (b"", answer)


def test_a_request_that_trickles_is_given_up_however_steadily(port: int) -> None:
    """A byte now and then keeps a time-out from running out, but not a deadline."""
    with ExitStack() as stack:
        connection = opened(stack, port, HEAD + b"Content-Length: 1000\r\n\r\n")
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011, PT012 - reset or broken pipe, or read from below
            while time.monotonic() - began < 30:
                connection.sendall(b"x")
                time.sleep(0.3)
                connection.settimeout(0.01)
                try:
                    if connection.recv(1000):
                        raise ConnectionResetError
                except TimeoutError:
                    pass
                connection.settimeout(20)
        assert time.monotonic() - began < 25


def test_health_is_answered_while_every_thread_is_busy(tmp_path: Path) -> None:
    with serving(tmp_path) as port, ExitStack() as stack:
        waiting = [opened(stack, port, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2 * THREADS)]
        other = opened(stack, port, b"GET /streams HTTP/1.1\r\nHost: x\r\n\r\n")
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=10).text == "up"
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(10)  # it waits for a thread indeed
        # What waits for a thread gets one.
        other.settimeout(60)
        assert other.recv(1000).startswith(b"HTTP/1.1 200")
        assert all(connection.recv(1000).startswith(b"HTTP/1.1 200") for connection in waiting)


def test_readers_that_stall_lose_their_thread(tmp_path: Path) -> None:
    with serving(tmp_path) as port, ExitStack() as stack:
        for _ in range(2 * THREADS):
            opened(stack, port, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        # All threads were taken, and are given back with the connections still open.
        assert requests.get(f"http://127.0.0.1:{port}/streams", timeout=60).status_code == 200
        eventually(lambda: requests.get(f"http://127.0.0.1:{port}/streams", timeout=60).text == "0", 60)
        honest = requests.get(f"http://127.0.0.1:{port}/large", timeout=60).content
        assert len(honest) == 400 * 100_000


def test_health_answers_that_are_not_read_hold_nothing(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            connection = opened(stack, port, b"")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 200_000)
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=10).text == "up"


def test_requests_in_one_packet_are_answered_one_after_the_other(port: int) -> None:
    one = HEAD + b"Content-Length: 3\r\n\r\n"
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nde\r\n1\r\nf\r\n0\r\nX-T: 1\r\n\r\n"
    last = HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nghi"
    got = answers(port, one + b"abc" + chunked + last)
    assert [got.count(body) for body in (b"\r\n\r\nabc", b"\r\n\r\ndef", b"\r\n\r\nghi")] == [1, 1, 1]
    assert got.index(b"\r\n\r\nabc") < got.index(b"\r\n\r\ndef") < got.index(b"\r\n\r\nghi")


def test_a_large_body_arrives_as_it_was_sent_whole_or_in_chunks(port: int) -> None:
    body = os.urandom(1_900_000)
    url = f"http://127.0.0.1:{port}/echo"
    with requests.Session() as session:
        for _ in range(2):
            assert session.post(url, body, timeout=60).content == body
            pieces = iter([body[:7], body[7:900_000], body[900_000:]])
            assert session.post(url, pieces, timeout=60).content == body


@pytest.mark.parametrize("length", [b"Content-Length: 3000000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_that_is_too_large_is_refused_before_it_has_come(port: int, length: bytes) -> None:
    piece = b"200000\r\n" + b"x" * 0x200000 + b"\r\n"
    got = answers(port, HEAD + length + b"\r\n" + (piece if b"chunked" in length else b"x"))
    assert got.startswith(b"HTTP/1.1 413")
    assert b"Connection: close" in got


def test_a_client_that_waits_for_leave_to_send_gets_it_once(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(HEAD + b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: 3\r\n\r\n")
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        got = b"".join(iter(lambda: connection.recv(1000), b""))
    assert got.startswith(b"HTTP/1.1 200")
    assert got.endswith(b"abc")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\nxyz\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\n{}\n0\n\n", b"400"),
        (b"GET / HTTP/1.1\r\n" + b"X-A: " + b"a" * 70_000, b"431"),
        (b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 20_000, b"431"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"\r\n\r\n\r\n\r\n", b"400"),
        (b"POST http://[/echo?%ff=%ff HTTP/1.1\r\nAuthorization: Basic \xff\r\nContent-Length: 0\r\n\r\n", b"400"),
        (b"POST //\xff HTTP/1.1\r\nHost: \xff\r\nContent-Length: 0\r\n\r\n", b"400"),
    ],
)
def test_what_is_no_request_is_refused(port: int, request_: bytes, status: bytes) -> None:
    assert answers(port, request_)[9:12] == status


def test_without_the_password_no_body_is_received(tmp_path: Path) -> None:
    """The refusal comes although hardly any of the body has; and what follows is not taken for another request."""
    with serving(tmp_path, PASSWORD="yes") as port:
        smuggled = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        for authorization in (b"", b"Authorization: Basic bGVhZDp3cm9uZw==\r\n"):
            got = answers(port, HEAD + authorization + b"Content-Length: 1900000\r\n\r\n" + smuggled)
            assert got.startswith(b"HTTP/1.1 401")
            assert got.count(b"HTTP/1.1") == 1
        body = b"x" * 1_000_000
        asked = requests.post(f"http://127.0.0.1:{port}/echo", body, auth=("lead", "s3cret-s3cret"), timeout=60)
        assert asked.content == body


def test_bodies_are_kept_up_to_a_sum(port: int) -> None:
    """Each is allowed; together they would fill the disk."""
    with ExitStack() as stack:
        part = HEAD + b"Content-Length: 1900000\r\n\r\n" + b"x" * 1_800_000
        connections = [opened(stack, port, b"") for _ in range(15)]
        statuses = set()
        for connection in connections:
            with suppress(BrokenPipeError, ConnectionResetError):  # it was refused before it had sent all
                connection.sendall(part)
        for connection in connections:
            with suppress(ConnectionResetError):
                statuses.add(connection.recv(1000)[9:12])
        assert b"503" in statuses
        assert statuses <= {b"503", b"408", b""}
    assert requests.post(f"http://127.0.0.1:{port}/echo", b"whole", timeout=10).content == b"whole"


def test_more_connections_than_there_may_be_make_room(tmp_path: Path) -> None:
    with serving(tmp_path, "--worker-connections=30") as port, ExitStack() as stack:
        for _ in range(100):
            opened(stack, port, b"GET /health HTTP/1.1\r\n")
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=10).text == "up"
        assert requests.post(f"http://127.0.0.1:{port}/echo", b"whole", timeout=10).content == b"whole"


def test_a_reload_ends_what_it_has_begun_to_receive_and_to_answer(tmp_path: Path) -> None:
    running: list[subprocess.Popen[bytes]] = []
    with serving(tmp_path, running=running) as port, ExitStack() as stack:
        answering = opened(stack, port, b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        receiving = opened(stack, port, HEAD + b"Content-Length: 3\r\n\r\n")
        idle = opened(stack, port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
        running[0].send_signal(signal.SIGHUP)
        receiving.sendall(b"abc")
        assert receiving.recv(1000).startswith(b"HTTP/1.1 200")
        assert answering.recv(1000).startswith(b"HTTP/1.1 200")
        while idle.recv(1000):  # what is left of its answer, and then the end: a head may come before its body
            pass
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=60).text == "up"


def test_a_process_that_carries_what_it_needs_no_more_is_replaced_once(tmp_path: Path) -> None:
    """In a quiet moment: a server that has loaded torch until its networks were converted does so."""
    with serving(tmp_path) as port:

        def process() -> str:
            return requests.get(f"http://127.0.0.1:{port}/process", timeout=10).text

        first = process()
        waiting = ThreadPoolExecutor(1).submit(requests.get, f"http://127.0.0.1:{port}/wait", timeout=30)
        requests.post(f"http://127.0.0.1:{port}/heavy", timeout=10).raise_for_status()
        assert waiting.result(30).text == "waited"
        assert Path(f"/proc/{first}").exists()
        eventually(lambda: not Path(f"/proc/{first}").exists(), 60)
        second = process()
        time.sleep(5)
        assert process() == second


def test_callers_that_do_not_close_hold_nothing_up(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            opened(stack, port, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        began = time.monotonic()
        assert requests.get(f"http://127.0.0.1:{port}/health", timeout=10).text == "up"
        assert time.monotonic() - began < 20  # two seconds for each would be 80


def test_the_end_of_a_body_in_chunks_is_found_however_it_is_cut() -> None:
    body = b"5\r\nab\r\nc\r\nA ;x\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n"
    for size in (1, 2, 3, 7, len(body)):
        chunks = Chunks()
        found = [chunks.ends(body[at : at + size]) for at in range(0, len(body), size)]
        assert found.index(True) == len(found) - 1
    assert Chunks().ends(b"xyz\r\n")
    assert Chunks().ends(b"1" * 10_000)


def test_a_head_is_read_as_far_as_its_body_needs() -> None:
    head = Head(b"POST /a%20b?c=d HTTP/1.1\r\nAuthorization: Basic eA==\r\ncontent-LENGTH:  7\t\r\n\r\n")
    assert (head.length, head.chunks, head.continues, head.asks_for) == (7, None, False, "")
    assert head.environ["HTTP_AUTHORIZATION"] == "Basic eA=="
    assert head.environ["QUERY_STRING"] == "c=d"
    assert Head(b"GET /health?x HTTP/1.1\r\n\r\n").asks_for == "/health"
