"""`premask serve` for real: gunicorn, the worker, signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from flask import Flask

from backend.entrypoints import supervisor as supervisor_module
from backend.entrypoints.supervisor import Supervisor
from backend.errors import ServeError
from backend.settings import Settings
from backend.system.processes import identity, is_alive
from models.checkpoint import read_card
from tests.backend.fake_label_studio import serving
from tests.backend.fakes import eventually, predict_body, setup_body, start_training

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
PREMASK = (sys.executable, "-c", "from backend.cli import main; main()")
# A server that answers /health and nothing else, and ends on SIGTERM.
SMALL_SERVER = """
import http.server, os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PREMASK_PORT"])), Handler).serve_forever()
"""
SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def environ(tmp_path, starter):
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {
        "PREMASK_DATA_DIR": str(tmp_path / "data"),
        "PREMASK_STARTER": str(starter),
        "PREMASK_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }


def test_serve_and_worker_say_in_a_sentence_what_is_wrong_with_the_database(environ):
    folder = Path(environ["PREMASK_DATA_DIR"])
    folder.mkdir()
    (folder / "premask.sqlite").write_text("no database at all, but long enough to be looked at" * 100)
    for command in ("serve", "worker"):
        done = subprocess.run([*PREMASK, command], env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert f"the database {folder / 'premask.sqlite'} cannot be used: file is not a database" in done.stderr
        assert "Traceback" not in done.stderr


def test_serve_answers_trains_restarts_its_worker_and_leaves_nothing_behind(environ, tiny_model):
    environ["PREMASK_STARTER"] = str(tiny_model)
    url = f"http://127.0.0.1:{environ['PREMASK_PORT']}"
    serve = subprocess.Popen([*PREMASK, "serve"], env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert serve.stdout.readline().startswith(f"premask serves at {url}")
        children = eventually(lambda: len(c := _children(serve.pid)) == 2 and c)
        assert requests.get(f"{url}/health", timeout=30).json()["status"] == "UP"
        setup = requests.post(f"{url}/setup", json=setup_body(hostname="http://127.0.0.1:1"), timeout=30)
        assert setup.json() == {"model_version": read_card(tiny_model).name}
        job = requests.post(f"{url}/webhook", json=start_training(), timeout=30).json()["job"]
        show = lambda: requests.get(f"{url}/api/jobs/{job}", timeout=30).json()  # noqa: E731
        assert eventually(lambda: show()["state"] == "failed", 60)
        assert "Label Studio cannot be reached at http://127.0.0.1:1" in show()["reason"]
        worker = next(child for child in children if "backend.entrypoints.worker" in _command(child))
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: worker not in (now := _children(serve.pid)) and len(now) == 2)
        family = [identity(pid) for child in _children(serve.pid) for pid in [child, *_children(child)]]
        assert len(family) >= 3  # gunicorn, its one process, the worker
        serve.terminate()
        assert serve.wait(60) == 0
        assert [process for process in family if is_alive(process)] == []
    finally:
        serve.kill()
        serve.wait()
        serve.stdout.close()


def test_a_server_without_a_worker_leaves_the_jobs_to_others(environ, tmp_path):
    url, report = f"http://127.0.0.1:{environ['PREMASK_PORT']}", tmp_path / "report.json"
    command = [*PREMASK, "serve", "--no-worker", "--json", str(report)]
    serve = subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert serve.stdout.readline().startswith(f"premask serves at {url}")
        assert json.loads(eventually(lambda: report.exists() and report.read_text()))["worker"] is None
        requests.post(f"{url}/setup", json=setup_body(hostname="http://127.0.0.1:1"), timeout=30)
        job = requests.post(f"{url}/webhook", json=start_training(), timeout=30).json()["job"]
        assert [_command(pid) for pid in _children(serve.pid) if "gunicorn" not in _command(pid)] == []
        show = lambda: requests.get(f"{url}/api/jobs/{job}", timeout=30).json()  # noqa: E731
        assert show()["state"] == "queued"
        worker = subprocess.Popen([*PREMASK, "worker"], env=environ, cwd=ROOT)
        try:
            assert eventually(lambda: show()["state"] == "failed", 60)
        finally:
            worker.terminate()
            worker.wait(60)
        serve.terminate()
        assert serve.wait(60) == 0
    finally:
        serve.kill()
        serve.wait()
        serve.stdout.close()


def test_a_reload_drops_no_request_and_every_line_is_json_without_secrets(environ, tmp_path, tiny_model):
    """A prediction whose image is slow to come is answered by the old process while the new one already serves."""
    slow, log = threading.Event(), tmp_path / "log"
    environ |= {
        "PREMASK_STARTER": str(tiny_model),
        "PREMASK_LOG_FORMAT": "json",
        "PREMASK_LOG_LEVEL": "DEBUG",
        "PREMASK_BASIC_AUTH_USER": "lead",
        "PREMASK_BASIC_AUTH_PASSWORD": "s3cret-s3cret",
        "PREMASK_WEBHOOK_TOKEN": "h00k-h00k",
    }
    url, auth = f"http://127.0.0.1:{environ['PREMASK_PORT']}", ("lead", "s3cret-s3cret")
    with held_up_images(slow) as images, log.open("wb") as errors:
        environ["PREMASK_IMAGE_HOSTS"] = "127.0.0.1"
        serve = subprocess.Popen(
            [*PREMASK, "serve"], env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        answers = []
        body = predict_body([f"{images}/a.png?token=h00k-h00k"])
        asking = threading.Thread(
            target=lambda: answers.append(requests.post(f"{url}/predict", json=body, auth=auth, timeout=100))
        )
        try:
            assert serve.stdout.readline().startswith("premask serves")
            before = _answering(serve.pid)
            asking.start()
            eventually(lambda: requests.get(f"{images}/asked", timeout=30).text == "1", 120)
            serve.send_signal(signal.SIGHUP)
            eventually(lambda: set(_answering(serve.pid)) - set(before), 60)
            slow.set()
            ready = f"{url}/ready?token=h00k-h00k"
            eventually(lambda: requests.get(ready, auth=auth, timeout=30).status_code == 200, 120)  # models load first
            assert requests.post(f"{url}/webhook?token=wr0ng-token", json={}, timeout=30).status_code == 401
            with socket.create_connection(("127.0.0.1", int(environ["PREMASK_PORT"]))) as broken:
                broken.sendall(b"GET /?token=h00k-h00k HTTP/9.9\r\nAuthorization: Basic bGVhZDpzM2NyZXQ=\r\n\r\n")
                broken.recv(1000)
            slow.set()
            asking.join(60)
            assert [answer.json() for answer in answers] == [{"results": [[]]}]
            eventually(lambda: not set(_answering(serve.pid)) & set(before), 60)
            serve.terminate()
            assert serve.wait(60) == 0
        finally:
            slow.set()
            serve.kill()
            serve.wait()
            serve.stdout.close()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["logger"] for line in lines} >= {
        "backend.web.operations",
        "gunicorn.error",
        "backend.jobs.worker",
    }
    for secret in ("s3cret", "h00k", "wr0ng", "bGVhZDpzM2NyZXQ"):
        assert secret not in log.read_text()


@contextmanager
def held_up_images(released: threading.Event) -> Iterator[str]:
    """A host whose images come once they are released, and are none; /asked says how many were asked for."""
    app, asked = Flask("images"), []

    @app.get("/a.png")
    def image() -> str:
        asked.append(1)
        released.wait(100)
        return "no image"

    @app.get("/asked")
    def count() -> str:
        return str(len(asked))

    with serving(app) as url:
        yield url


def _answering(pid: int) -> list[int]:
    """The processes of gunicorn that answer requests."""
    return [child for one in _children(pid) if "gunicorn" in _command(one) for child in _children(one)]


def test_a_busy_port_is_a_sentence_and_exit_code_1(environ):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        serve = subprocess.run(
            [*PREMASK, "serve", "--port", port], env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    assert serve.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; stop what listens there" in serve.stderr
    assert "Traceback" not in serve.stderr


def test_settings_that_cannot_be_used_are_listed_and_nothing_starts(environ):
    serve = subprocess.run(
        [*PREMASK, "serve"],
        env=environ | {"PREMASK_THREADS": "0", "PREMASK_DEVICE": "tpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert serve.returncode == 1
    assert "2 settings cannot be used" in serve.stderr
    assert "PREMASK_THREADS=0" in serve.stderr


def test_a_server_that_ends_by_itself_ends_the_worker_too(environ, tmp_path):
    note = tmp_path / "worker"
    worker = (
        sys.executable,
        "-c",
        f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)",
    )
    quick = (
        sys.executable,
        "-c",
        f"import os, time\nwhile not os.path.exists({str(note)!r}): time.sleep(0.05)\nexit(3)",
    )
    supervisor = Supervisor(Settings.from_environ(environ), environ, quick, worker)
    with pytest.raises(ServeError, match="exit code 3"):
        supervisor.run()
    assert identity(int(note.read_text() or 1)) is None


def test_a_server_that_is_killed_is_said_to_be(environ):
    killed = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    supervisor = Supervisor(Settings.from_environ(environ), environ, killed, None)
    with pytest.raises(ServeError, match=r"the server: killed by signal 9 \(SIGKILL; out of memory\?\)"):
        supervisor.run()


def test_a_server_whose_output_nobody_takes_serves_all_the_same(environ):
    """A disk that is full of logs must not keep it from starting."""
    with open("/dev/full", "wb") as full:
        serve = subprocess.Popen([*PREMASK, "serve", "--no-worker"], env=environ, cwd=ROOT, stdout=full)
    try:
        url = f"http://127.0.0.1:{environ['PREMASK_PORT']}/health"
        eventually(lambda: answers(url), 60)
        with pytest.raises(subprocess.TimeoutExpired):  # it tells at its next look that it serves
            serve.wait(3)
        assert answers(url)
    finally:
        serve.terminate()
        serve.wait(60)


def test_what_the_server_has_started_ends_with_it(environ, tmp_path):
    """Such as the conversion of a version that it has met for the first time: it would go on in a stopped folder."""
    note = tmp_path / "child"
    child = f"import subprocess, sys; c = subprocess.Popen({list(SLEEP)!r}); open({str(note)!r}, 'w').write(str(c.pid))"
    supervisor = Supervisor(Settings.from_environ(environ), environ, (sys.executable, "-c", child + SMALL_SERVER), None)
    supervisor.run(lambda server, worker: supervisor.stop())
    assert note.read_text()
    eventually(lambda: identity(int(note.read_text())) is None)


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def test_a_worker_that_keeps_dying_is_started_again_after_longer_and_longer_pauses(environ, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "FIRST_PAUSE", 0.3)
    note = tmp_path / "starts"
    dying = (sys.executable, "-c", f"import time; open({str(note)!r}, 'a').write(f'{{time.monotonic()}} ')")
    supervisor = Supervisor(Settings.from_environ(environ), environ, (sys.executable, "-c", SMALL_SERVER), dying)
    announced = []
    thread = threading.Thread(target=supervisor.run, args=(lambda *pids: announced.append(pids),))
    thread.start()
    starts = eventually(lambda: note.exists() and len(s := note.read_text().split()) >= 3 and [float(x) for x in s])
    supervisor.stop()
    thread.join(20)
    assert starts[2] - starts[1] > starts[1] - starts[0] - 0.3 > 0
    assert len(announced) == 1


def test_kill_9_of_the_supervisor_ends_what_called_die_with_parent():
    code = (
        "import backend.system.processes as p, os, time; p.die_with_parent(str(os.getppid())); "
        "print('up', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout.readline() == "up\n"
    (child,) = _children(parent.pid)
    name = identity(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not is_alive(name))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
