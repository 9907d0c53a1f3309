"""`make run` as a newcomer meets it."""

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.demo import sample_project, servers
from backend.errors import BackendError
from backend.label_studio.client import LabelStudio
from backend.system.ports import port_is_free
from tests.end_to_end.stack import ENVIRON, LABEL_STUDIO, PREMASK, free_port

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


def demo(folder: Path, port: int, label_studio_port: int, *arguments: object) -> "subprocess.Popen[str]":
    # fmt: off
    command = [
        PREMASK, "demo", "--data", folder, "--port", port, "--label-studio-port", label_studio_port,
        "--label-studio", LABEL_STUDIO, *arguments,
    ]
    # fmt: on
    return subprocess.Popen(
        [str(part) for part in command], env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_run_that_was_killed_half_way_is_resumed_to_masks_on_every_frame(template: Path, tmp_path: Path) -> None:
    """kill -9 leaves the servers behind: the next run stops them and uploads only what is missing."""
    folder = tmp_path / "premask-data"
    shutil.copytree(template, folder)
    port, label_studio_port = free_port(9700), free_port(8700)
    client = LabelStudio(f"http://127.0.0.1:{label_studio_port}", servers.login_of(folder).token)

    with demo(folder, port, label_studio_port) as first:
        wait_until(lambda: frames_uploaded(client) > 0)
        first.kill()

    report = tmp_path / "summary.json"
    with demo(folder, port, label_studio_port, "--no-wait", "--json", report) as second:
        output, _ = second.communicate(timeout=600)
    assert second.returncode == 0, output
    summary = json.loads(report.read_text())
    assert (summary["tasks"], summary["tasks_with_masks"]) == (24, 24), output
    assert summary["mean_iou"]["Lumen"] >= 0.8
    assert "Log in" in output
    assert all(port_is_free(one) for one in (port, label_studio_port)), "both servers are stopped"


def test_a_busy_port_is_one_sentence_that_offers_a_free_one(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        busy = somebody.getsockname()[1]
        with demo(tmp_path, free_port(9700), busy) as process:
            output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"port {busy}, which Label Studio needs, is in use" in " ".join(output.split())
    assert "make run LABEL_STUDIO_PORT=" in " ".join(output.split())


def test_sigterm_stops_both_servers(template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "premask-data"
    shutil.copytree(template, folder)
    port, label_studio_port = free_port(9700), free_port(8700)
    with demo(folder, port, label_studio_port) as process:
        wait_until(lambda: not port_is_free(label_studio_port))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "`make run` goes on with the same data" in " ".join(output.split())
    assert port_is_free(port)
    assert port_is_free(label_studio_port)


def frames_uploaded(client: LabelStudio) -> int:
    try:
        projects = [project for project in client.projects() if project["title"] == sample_project.TITLE]
    except BackendError:
        return 0  # not up yet
    return int(projects[0]["task_number"]) if projects else 0


def wait_until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in five minutes"
        time.sleep(0.2)
