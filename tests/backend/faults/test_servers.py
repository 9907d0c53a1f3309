"""Two servers behind a balancer that sends each request anywhere: one database, one bucket, folders of their own."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from backend.settings import Settings
from backend.wiring import assemble
from tests.backend.conftest import close_queues
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG, eventually, publish, setup_body
from tests.backend.s3 import KEYS, free_port

ROOT = Path(__file__).parents[3]
LEAD, PASSWORD = "lead", "s3cret-s3cret"
SECRET = "one secret for all of them"
TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


@contextmanager
def server(environ: dict[str, str]) -> Iterator[str]:
    """A server without a worker; gives its address."""
    url = f"http://127.0.0.1:{environ['PREMASK_PORT']}"
    with subprocess.Popen([sys.executable, "-m", "tests.backend.faults.stack", "server"], env=environ, cwd=ROOT) as run:
        try:
            eventually(lambda: answers(url), 120)
            yield url
        finally:
            run.terminate()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=2).ok
    except requests.RequestException:
        return False


@pytest.mark.timeout(900)
def test_a_visitor_may_meet_another_server_at_each_click(postgresql_url, s3_server, starter, tmp_path):
    """A page of one is posted to the other, whose message the first one shows; what it promotes, the first one serves.

    A server that starts again takes the page, too; one with another secret refuses it, as it must.
    """
    url = s3_server.bucket(f"b{os.urandom(6).hex()}")
    shared = KEYS | {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PREMASK_DATABASE_URL": postgresql_url,
        "PREMASK_MODELS_URL": url,
        "PREMASK_MODELS_ENDPOINT": s3_server.endpoint,
        "PREMASK_STARTER": str(starter),
        "PREMASK_BASIC_AUTH_USER": LEAD,
        "PREMASK_BASIC_AUTH_PASSWORD": PASSWORD,
        "OMP_NUM_THREADS": "1",
    }

    def machine(name: str, secret: str = SECRET) -> dict[str, str]:
        own = {"PREMASK_DATA_DIR": str(tmp_path / name), "PREMASK_PORT": str(free_port()), "PREMASK_SECRET_KEY": secret}
        return shared | own

    parts = assemble(Settings.from_environ(machine("here")))
    visitor = requests.Session()  # cookies tell hosts apart, not ports: to it the servers are one
    visitor.auth = (LEAD, PASSWORD)
    with ExitStack() as running, FakeLabelStudio() as label_studio:
        project = label_studio.add_project(CONFIG)
        page = f"dashboard/projects/{project}"
        first, second = (publish(parts.registry, tmp_path / "made", str(project)) for _ in range(2))
        parts.registry.promote(str(project), first)
        parts.database.close()
        close_queues(parts.queues)
        one, other = (running.enter_context(server(machine(name))) for name in ("one", "other"))
        said = setup_body(project, hostname=label_studio.url, token=label_studio.legacy_token)
        assert visitor.post(f"{one}/setup", json=said, timeout=60).json() == {"model_version": first}
        for address in (one, other):  # the second knows the project from the first
            assert requests.get(f"{address}/{page}", timeout=60).status_code == 401
            assert first in visitor.get(f"{address}/{page}", timeout=60).text
        token = TOKEN.search(visitor.get(f"{one}/{page}", timeout=60).text)[1]
        press: Any = {"data": {"csrf_token": token}, "allow_redirects": False, "timeout": 60}
        pressed = visitor.post(f"{other}/{page}/versions/{second}/promote", **press)
        assert pressed.status_code == 303, pressed.text
        began = time.monotonic()
        eventually(lambda: visitor.post(f"{one}/setup", json=said, timeout=60).json() == {"model_version": second}, 60)
        print(f"promoted at one server, served by the other after {time.monotonic() - began:.2f} s")
        assert f"{second} is served from now on" in visitor.get(f"{one}/{page}", timeout=60).text

        stranger = running.enter_context(server(machine("stranger", "a secret of its own, by mistake")))
        refused = visitor.post(f"{stranger}/{page}/rollback", **press)
        assert (refused.status_code, "reload it" in refused.text) == (403, True)
