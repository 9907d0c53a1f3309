"""docker/nginx.conf, run by nginx: what it passes on, and what it keeps away."""

import contextlib
import http.server
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests

from tests.backend.fakes import eventually
from tests.docker.test_files import DOCKER, _aliases, composed

CONF = (DOCKER / "nginx.conf").read_text()


def test_it_names_the_services_and_ports_of_compose_and_bounds_what_comes() -> None:
    services = composed("team")["services"]
    names = {alias for one in services.values() for alias in _aliases(one)}
    targets = re.findall(r"set \$\w+ http://([\w-]+):(\d+);", CONF)
    assert {name for name, _ in targets} == {"label-studio", "premask"} <= names
    published = {str(port["target"]) for port in services["proxy"]["ports"]}
    assert published == set(re.findall(r"listen (\d+);", CONF)) == {port for _, port in targets}
    assert services["proxy"]["volumes"][0]["source"] == str(DOCKER / "nginx.conf")
    for limit in (
        "client_header_timeout",
        "client_body_timeout",
        "send_timeout",
        "client_max_body_size",
        "limit_conn ",
    ):
        assert limit in CONF


@pytest.mark.parametrize("profile", ["team", "gpu"])
def test_nothing_else_is_reached_from_outside(profile: str) -> None:
    services = composed(profile)["services"]
    assert [name for name, service in services.items() if service.get("ports")] == ["proxy"]


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = {"path": self.path, "headers": dict(self.headers), "bytes": len(body)}
        answer = json.dumps(asked).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def upstream() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Outside port by service, of an nginx with this configuration, whose waits are a tenth as long."""
    if shutil.which("nginx") is None:
        pytest.fail("install first: apt-get install --no-install-recommends nginx-light", pytrace=False)
    folder = tmp_path_factory.mktemp("nginx")
    outside = {"label-studio": free_port(), "premask": free_port()}
    with upstream() as label_studio, upstream() as premask:
        conf = CONF.replace("/tmp/", f"{folder}/").replace("listen 8080", f"listen {outside['label-studio']}")
        conf = conf.replace("listen 9090", f"listen {outside['premask']}")
        conf = conf.replace("http://label-studio:8080", f"http://127.0.0.1:{label_studio}")
        conf = conf.replace("http://premask:9090", f"http://127.0.0.1:{premask}")
        conf = conf.replace("rate=50r/s", "rate=1r/s")  # however slow this machine is today
        conf = re.sub(r"(client_\w+_timeout|send_timeout) (\d)0s", r"\1 \2s", conf)
        path = folder / "nginx.conf"
        path.write_text(conf)
        nginx = subprocess.Popen(["nginx", "-c", str(path), "-g", "daemon off; user root;"], stderr=subprocess.PIPE)
        try:
            eventually(lambda: up(outside["premask"]), 30)
            yield outside
        finally:
            nginx.terminate()
            nginx.communicate(timeout=30)


def up(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.docker
def test_requests_arrive_with_what_the_services_need_to_know(ports: dict[str, int]) -> None:
    for port in ports.values():
        sent = {"Host": "masks.example.com:8443", "X-Forwarded-Proto": "https", "Authorization": "Basic eA=="}
        answer = requests.post(f"http://127.0.0.1:{port}/a%20b?c=d", b"x" * 3_000_000, headers=sent, timeout=30).json()
        assert (answer["path"], answer["bytes"]) == ("/a%20b?c=d", 3_000_000)
        for name, value in sent.items():
            assert answer["headers"][name] == value


@pytest.mark.docker
@pytest.mark.parametrize(
    "half", [b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"]
)
def test_half_sent_requests_never_reach_the_backend(ports: dict[str, int], half: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", ports["premask"]), timeout=20))
            connection.sendall(half)
        assert up(ports["premask"])
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000)[:12] in (b"", b"HTTP/1.1 408")  # given up in the end


@pytest.mark.docker
def test_who_asks_too_often_is_told_so_and_health_is_answered_all_the_same(ports: dict[str, int]) -> None:
    with requests.Session() as session:
        url = f"http://127.0.0.1:{ports['premask']}"
        statuses = {session.get(f"{url}/versions", timeout=10).status_code for _ in range(300)}
        assert statuses == {200, 429}
        assert {session.get(f"{url}/health", timeout=10).status_code for _ in range(50)} == {200}
