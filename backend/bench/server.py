"""A real `premask serve` on a free port of this machine, with what it needs to predict: images at an address."""

import http.server
import itertools
import json
import re
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import quoteattr

import requests

from backend.demo.processes import Running, Server, stop_all
from backend.errors import BenchError
from backend.settings import Settings
from models.data.png import encode_png
from models.pipeline import Image

HOST = "127.0.0.1"
START_SECONDS = 300.0  # on a machine that is busy with other things
ANSWER_SECONDS = 900.0
# The server is one of its own: it must not take jobs from the queue of one that is at work, nor ask for its login.
OTHERS = ("PREMASK_", "LABEL_STUDIO_")
MEASURED = (
    "PREMASK_DEVICE",
    "PREMASK_BATCH_SIZE",
    "PREMASK_THREADS",
    "PREMASK_TORCH_THREADS",
    "PREMASK_RUNTIME",
)
CONVERTED_SECONDS = 600.0  # until a version's networks are converted, on a machine that is busy with other things
COMPUTED = re.compile(r"(\S+) is computed by (.*)")  # in the log
PROJECT = "1.1795393773"  # as Label Studio refers to it
UNKNOWN = "Class that no model knows"


class BenchServer:
    """The backend under measurement.

    Args:
        model: checkpoint that it serves.
        classes: that the labelling config offers.
        frames: images of the tasks, shape (H, W, 3), uint8 RGB.
        environ: where the server's settings are taken from that matter for its speed.
        ahead: tasks that it predicts ahead; 0 in measurements of tasks that were never seen.
        alone: without a worker beside it.
    """

    def __init__(
        self,
        model: Path,
        classes: Sequence[str],
        frames: Sequence[Image],
        environ: Mapping[str, str],
        *,
        ahead: int = 0,
        alone: bool = False,
    ) -> None:
        self._model, self._environ, self._ahead = model, environ, ahead
        # A Label Studio that stores nothing would have a worker predict it all once more.
        self._alone = alone or ahead > 0
        labels = "".join(f"<Label value={quoteattr(name)}/>" for name in (*classes, UNKNOWN))
        self._config = (
            f'<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">{labels}</BrushLabels>'
            f'<KeyPointLabels name="click" toName="image" smart="true">{labels}</KeyPointLabels></View>'
        )
        self._label = classes[0]
        self._pngs = [encode_png(frame) for frame in frames]
        self._ids = itertools.count(1)
        self._local = threading.local()
        self._images = ""
        self.url = ""
        self.process: Running
        self.settings: Settings

    @contextmanager
    def running(self) -> Iterator[Self]:
        """From start to end; the model is loaded when the block begins.

        Raises:
            BackendError: it does not start, or does not predict.
        """
        with self._image_host() as self._images, tempfile.TemporaryDirectory(prefix="premask-bench-") as folder:
            port = _free_port()
            self.url = f"http://{HOST}:{port}"
            env = {name: value for name, value in self._environ.items() if not name.startswith(OTHERS)}
            env |= {name: self._environ[name] for name in MEASURED if name in self._environ}
            env |= {
                "PREMASK_DATA_DIR": str(Path(folder) / "data"),
                "PREMASK_STARTER": str(self._model.absolute()),
                "PREMASK_IMAGE_HOSTS": HOST,
                "PREMASK_PREFETCH": str(self._ahead),
                # What takes long shall be waited for and counted, not left to a job.
                "PREMASK_DEADLINE": "600",
            }
            if self._ahead:
                env |= {"LABEL_STUDIO_URL": self._images, "LABEL_STUDIO_API_KEY": "bench"}
            program = Path(sys.executable).parent / "premask"
            command: list[str | Path] = [program, "serve", "--host", HOST, "--port", str(port)]
            if self._alone:
                command.append("--no-worker")
            self.settings = Settings.from_environ(env)
            self.process = Server("premask serve", command, env, self.url, "/health", Path(folder)).start()
            try:
                self.process.wait(START_SECONDS)
                self.setup()
                self.predict(1)
                self.settle()
                yield self
            finally:
                stop_all([self.process])

    @contextmanager
    def _image_host(self) -> Iterator[str]:
        pngs, config = self._pngs, self._config

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                address = urlsplit(self.path)
                if address.path.endswith(".png"):
                    self._answer("image/png", pngs[int(Path(address.path).stem) % len(pngs)])
                elif address.path == "/api/tasks":
                    asked = {name: values[0] for name, values in parse_qs(address.query).items()}
                    rows = _tasks(json.loads(asked["query"]), int(asked["page_size"]), self.headers["Host"])
                    self._answer("application/json", json.dumps({"total": len(rows), "tasks": rows}).encode())
                else:
                    project = {"id": int(PROJECT.split(".")[0]), "title": "bench", "label_config": config}
                    self._answer("application/json", json.dumps(project).encode())

            def _answer(self, kind: str, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing: it would be in the middle of the progress bar."""

        server = http.server.ThreadingHTTPServer((HOST, 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def settle(self, models: int = 1) -> None:
        """Wait until so many models are computed by what computes them for good, and PyTorch is not in memory for that.

        Raises:
            BenchError: it takes too long.
        """
        if self.settings.runtime == "pytorch" or self.settings.device != "cpu":
            return
        until = time.monotonic() + CONVERTED_SECONDS
        while True:
            said = COMPUTED.findall(self.process.server.log.read_text(encoding="utf-8", errors="replace"))
            # The first one is said again by the process that takes over, unless that needs PyTorch as well.
            if len({model for model, _ in said}) >= models and (len(said) > models or "PyTorch" in said[0][1]):
                break
            if time.monotonic() > until:
                raise BenchError(f"no runtime was chosen within {CONVERTED_SECONDS:.0f} s; look at the server's log")
            time.sleep(0.5)
        self.predict(1)

    def stop(self) -> None:
        """End it, for the time being."""
        stop_all([self.process])

    def start_again(self) -> None:
        """Start it over the same data; until it is ready to predict.

        Raises:
            BackendError: it ends, or takes too long.
        """
        self.process = self.process.server.start()
        until = time.monotonic() + START_SECONDS
        while not self._is_ready():
            self.process.check()
            if time.monotonic() > until:
                raise BenchError(f"it was not ready within {START_SECONDS:.0f} s; look at {self.process.server.log}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        with requests.Session() as session:
            session.trust_env = False  # a proxy cannot reach this machine's own address
            try:
                return session.get(f"{self.url}/ready", timeout=START_SECONDS).ok
            except requests.ConnectionError:
                return False

    def health(self) -> None:
        """GET /health."""
        self.ask("GET", "/health")

    def setup(self) -> None:
        """POST /setup, as Label Studio does before nearly everything."""
        body = {"project": PROJECT, "schema": self._config, "hostname": "", "access_token": ""}
        if not self.ask("POST", "/setup", body).json().get("model_version"):
            raise BenchError("/setup names no model version; look at the server's log")

    def predict(self, count: int, project: str | None = None) -> None:
        """POST /predict for `count` tasks that it has never seen, so that nothing comes from a cache.

        Args:
            count: of tasks.
            project: another one than that of all other requests.
        """
        body = self._body([next(self._ids) for _ in range(count)])
        if project is not None:
            body["project"] = f"{project}.{PROJECT.partition('.')[2]}"
        answer = self.ask("POST", "/predict", body).json()
        if [bool(entry) for entry in answer["results"]] != [True] * count:
            raise BenchError(
                f"/predict answered {answer['results']!r:.200} for {count} tasks; expected a mask for each"
            )

    def open(self, task: int) -> None:
        """POST /predict for a task, as Label Studio does when it is opened."""
        (entry,) = self.ask("POST", "/predict", self._body([task])).json()["results"]
        if not entry:
            raise BenchError(f"/predict answered {entry!r:.200} for task {task}; expected a mask")

    def predicted(self) -> int:
        """How many tasks were predicted by the networks so far, whether they were asked for or predicted ahead."""
        name = 'premask_stage_seconds_count{stage="encode"}'  # the last stage: a miss is counted when it begins
        lines = self.ask("GET", "/metrics").text.splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith(name)))

    def click(self, task: int, *places: tuple[float, float], known: bool = True) -> None:
        """Keypoints on a task's image, at these per cents of its width and height.

        Args:
            task: on whose image.
            places: of one object, the last of them new.
            known: of the first class; else of one that no model knows, as in a project without a training.
        """
        prompt = {"type": "keypointlabels", "is_positive": True, "from_name": "click", "to_name": "image"}
        label = self._label if known else UNKNOWN
        prompts = [
            prompt | {"id": f"k{number}", "value": {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}}
            for number, (x, y) in enumerate(places)
        ]
        body = self._body([task])
        body["params"]["context"] = {"result": prompts}
        (entry,) = self.ask("POST", "/predict", body).json()["results"]
        if "result" not in entry:
            raise BenchError(f"a click was answered with {entry!r:.200}; expected a region")

    def new_task(self) -> int:
        """A task that was never asked for."""
        return next(self._ids)

    @contextmanager
    def predicting(self, threads: int, tasks: int) -> Iterator[None]:
        """While this block runs, `threads` clients ask for `tasks` tasks each, over and over."""
        over, failures = threading.Event(), []

        def ask() -> None:
            try:
                while not over.is_set():
                    self.predict(tasks)
            except Exception as error:
                failures.append(error)

        clients = [threading.Thread(target=ask) for _ in range(threads)]
        for client in clients:
            client.start()
        try:
            time.sleep(1.0)  # until the networks have work
            yield
        finally:
            over.set()
            for client in clients:
                client.join()
        if failures:
            raise failures[0]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> requests.Response:
        """The answer to a request.

        Raises:
            BenchError: there is none, or it is no success.
        """
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False  # a proxy cannot reach this machine's own address
        try:
            response: requests.Response = self._local.session.request(
                method, self.url + path, json=body, timeout=ANSWER_SECONDS
            )
            response.raise_for_status()
            return response
        except requests.RequestException as error:
            raise BenchError(f"{method} {path} failed: {error}") from error

    def _body(self, tasks: Sequence[int]) -> dict[str, Any]:
        return {
            "tasks": [{"id": task, "data": {"image": f"{self._images}/{task}.png"}} for task in tasks],
            "project": PROJECT,
            "label_config": self._config,
            "params": {"login": None, "password": None, "context": None},
        }


def _tasks(query: Mapping[str, Any], count: int, host: str) -> list[dict[str, Any]]:
    """The tasks that Label Studio would list: those named, or the next ones after an id."""
    filters = query.get("filters", {}).get("items", [])
    after = max((one["value"] for one in filters if one["filter"] == "filter:tasks:id"), default=0)
    ids = query.get("selectedItems", {}).get("included", range(after + 1, after + 1 + count))
    return [{"id": task, "data": {"image": f"http://{host}/{task}.png"}} for task in ids]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
