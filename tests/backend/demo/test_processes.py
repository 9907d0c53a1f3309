"""Servers as child processes, with small real ones."""

import os
import socket
import sys
from pathlib import Path

import pytest

from backend.demo.processes import Running, Server, stop_all, stop_leftover, tail
from backend.errors import DemoError

SERVE = "import http.server as h; h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def server(folder: Path, program: str) -> Server:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", program.format(port=port)]
    return Server("Small Server", command, dict(os.environ), f"http://127.0.0.1:{port}", "/", folder)


def test_a_server_is_waited_for_and_stopped(tmp_path: Path) -> None:
    running = server(tmp_path, SERVE).start()
    try:
        running.wait(30)
        assert running.healthy()
    finally:
        stop_all([running])
    assert not running.healthy()
    assert not running.server.pid_file.exists()


def test_a_server_that_dies_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    running = server(tmp_path, "print('the disk is on fire'); raise SystemExit(3)").start()
    try:
        with pytest.raises(DemoError, match=r"(?s)Small Server: ended with exit code 3.*the disk is on fire"):
            running.wait(30)
    finally:
        stop_all([running])


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    running = server(tmp_path, "import time; time.sleep(60)").start()
    try:
        with pytest.raises(DemoError, match="did not answer"):
            running.wait(0.1)
    finally:
        stop_all([running])


def test_a_server_that_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    running = server(tmp_path, STUBBORN).start()
    wait_for_line(running)
    stop_all([running], seconds=0.2)
    assert running.process.returncode == -9


def test_what_a_killed_run_left_behind_is_stopped_once(tmp_path: Path) -> None:
    running = server(tmp_path, SERVE).start()
    try:
        assert stop_leftover(running.server)
        assert running.process.wait(10) == -15
        assert not stop_leftover(running.server)
    finally:
        stop_all([running])


def test_a_process_that_only_got_the_same_number_is_left_alone(tmp_path: Path) -> None:
    small = server(tmp_path, SERVE)
    small.pid_file.parent.mkdir(parents=True)
    small.pid_file.write_text(f"{os.getpid()}:1")
    assert not stop_leftover(small)


def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    missing = Server("Label Studio", [tmp_path / "label-studio"], {}, "http://127.0.0.1:1", "/", tmp_path)
    with pytest.raises(DemoError, match="label-studio does not exist: run `make setup"):
        missing.start()


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {number}\n" for number in range(30)))
    assert tail(log, 2) == "    line 28\n    line 29"


def wait_for_line(running: Running) -> None:
    while not running.server.log.read_bytes():
        running.check()
