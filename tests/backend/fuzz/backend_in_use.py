"""The application as gunicorn runs it, with a Label Studio beside it and something of everything in its data folder."""

import io
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from backend.entrypoints.wsgi import app_of, login_of
from backend.settings import Settings
from backend.system.login import Login
from backend.versions.registry import Registry
from backend.web.security import SESSION_COOKIE
from backend.wiring import assemble_core
from models.checkpoint import read_card, write_card
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG

USER, PASSWORD, TOKEN = "lead", "pass:wörd", "h00k-t0ken"


@dataclass
class BackendInUse:
    """A backend.

    Attributes:
        app: the application.
        login: what callers have to know.
        known: names of things that are there, by the field of a request that may name them.
        form: the CSRF token of a page, and the cookie that belongs to it.
        statuses: how often each status was answered.
    """

    app: Any
    login: Login
    known: dict[str, list[Any]]
    form: tuple[str, str] = ("", "")
    statuses: Counter[int] = field(default_factory=Counter)


@dataclass
class Watched:
    """What a watcher saw of a backend.

    Attributes:
        health: seconds that each /health took.
        memory: bytes of this process and those that it started, at each look.
    """

    health: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


@contextmanager
def watched(backend: BackendInUse, every: float = 0.05) -> Iterator[Watched]:
    """While this block runs, /health is asked beside everything else, so many seconds apart.

    It shares this process, and so the interpreter, with what the block does: what holds that shows here at once. In a
    real server /health has a thread of its own besides.
    """
    seen, over = Watched(), threading.Event()
    client, process = backend.app.test_client(), psutil.Process()

    def look() -> None:
        while not over.wait(every):
            began = time.perf_counter()
            assert client.get("/health").status_code == 200
            seen.health.append(time.perf_counter() - began)
            seen.memory.append(_resident(process))

    thread = threading.Thread(target=look, name="watcher")
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _resident(process: psutil.Process) -> int:
    total = 0
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total


@contextmanager
def backend_in_use(folder: Path, starter: Path) -> Iterator[BackendInUse]:
    """A backend in an empty folder; `starter` is a checkpoint that finds Lumen everywhere."""
    with FakeLabelStudio() as label_studio:
        project = label_studio.add_project(CONFIG)
        frames = [label_studio.add_upload(project, f"{size}.png", _png(size)) for size in (24, 40)]
        settings = Settings.from_environ(
            {
                "LABEL_STUDIO_URL": label_studio.url,
                "LABEL_STUDIO_API_KEY": label_studio.legacy_token,
                "PREMASK_DATA_DIR": str(folder),
                "PREMASK_STARTER": str(starter),
                "PREMASK_BASIC_AUTH_USER": USER,
                "PREMASK_BASIC_AUTH_PASSWORD": PASSWORD,
                "PREMASK_WEBHOOK_TOKEN": TOKEN,
                "PREMASK_TRAIN_AFTER": "3",
                "PREMASK_DEADLINE": "5",
                "PREMASK_TORCH_THREADS": "1",
                "PREMASK_MINUTES_PER_MASK": "2",
                "PREMASK_MAX_REQUEST_MB": "1",
            }
        )
        login = login_of(settings)
        assert login is not None
        core = assemble_core(settings)
        app = app_of(settings, core, login)
        versions = _versions(core.parts.registry, starter, str(project))
        jobs = [core.jobs.submit(str(project))[0].id, core.jobs.predict(str(project), "all")[0].id]
        addresses = [label_studio.tasks[frame]["data"]["image"] for frame in frames]
        known: dict[str, list[Any]] = {
            "project": [str(project), project, f"{project}.1795393773"],
            "version": versions,
            "job": jobs,
            "task": [*frames, 10**9],
            "address": [*addresses, "/data/upload/1/gone.png", "http://169.254.169.254/latest", "s3://bucket/key.png"],
        }
        backend = BackendInUse(app, login, known)
        backend.form = _form(backend, str(project))
        counting: Any = _counting(app.wsgi_app, backend.statuses)
        app.wsgi_app = counting  # type: ignore[method-assign]
        yield backend


def _png(size: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size + 6, 3), size, np.uint8)).save(file, "PNG")
    return file.getvalue()


def _versions(registry: Registry, checkpoint: Path, project: str) -> list[str]:
    """Publish two versions, the first of them served."""
    names = []
    for _ in range(2):
        name = registry.reserve(project, "tf_efficientnet_lite0")
        copy = checkpoint.parent / f"fuzz-{name}"
        shutil.copytree(checkpoint, copy, dirs_exist_ok=True)
        write_card(copy, replace(read_card(copy), name=name))
        names.append(registry.publish(project, copy).version)
        shutil.rmtree(copy)
    registry.promote(project, names[0])
    return names


def _form(backend: BackendInUse, project: str) -> tuple[str, str]:
    client = backend.app.test_client()
    page = client.get(f"/dashboard/projects/{project}", auth=(USER, PASSWORD))
    token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    cookie = client.get_cookie(SESSION_COOKIE, path="/dashboard")
    assert token is not None
    assert cookie is not None
    return token[1], cookie.value


def _counting(app: Callable[..., Any], statuses: Counter[int]) -> Callable[..., Any]:
    """A WSGI application that counts the statuses of another one, and ends its answers as a server does."""

    def counted(environ: Any, start_response: Callable[..., Any]) -> Any:
        def start(status: str, *rest: Any) -> Any:
            statuses[int(status[:3])] += 1
            return start_response(status, *rest)

        with closing(app(environ, start)) as answer:
            return [b"".join(answer)]

    return counted
