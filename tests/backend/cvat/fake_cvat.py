"""A small CVAT: the HTTP calls of cvat-cli's auto-annotation and agents, for one task, answered as version 2.80 does.

with FakeCVAT(tmp_path, labels=[{"name": "Lumen", "type": "mask"}], frames={"a.png": png_bytes}) as server:
    client = server.client()
"""

import io
import itertools
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from flask import Flask, Response, request
from PIL import Image, ImageOps

from tests.backend.fake_label_studio import serving

TOKEN = "cvat-access-token"
DATE = "2026-01-01T00:00:00Z"


@dataclass
class FakeCVAT:
    """CVAT on a free port of this machine, from `with` to its end, with one task, number 7.

    Attributes:
        cache: folder where clients keep what they fetched.
        labels: the task's labels: name and type.
        frames: the task's images as uploaded: name -> file.
        deleted: numbers of frames that were deleted.
        annotations: (method, tags and shapes) of every upload.
        functions: registered native functions by id.
        requests: what users ask of a function: parameters of annotation requests, taken by agents in turn.
        results: (request, "complete" or "fail", body) that agents sent.
    """

    cache: Path
    labels: list[dict[str, Any]]
    frames: dict[str, bytes]
    deleted: list[int] = field(default_factory=list)
    annotations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    functions: dict[int, dict[str, Any]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    results: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> "FakeCVAT":
        self._stack = ExitStack()
        self.url = self._stack.enter_context(serving(self._app()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def client(self) -> Client:
        """A client that is logged in."""
        client = Client(self.url, config=Config(cache_dir=self.cache))
        client.login(AccessTokenCredentials(TOKEN))
        return client

    def label_id(self, name: str) -> int:
        """The id of a label in the task."""
        return 100 + [label["name"] for label in self.labels].index(name)

    def frame(self, number: int) -> tuple[str, bytes]:
        """A frame's name and its file as CVAT hands it out: turned upright, if its EXIF orientation says so."""
        name, file = list(self.frames.items())[number]
        with Image.open(io.BytesIO(file)) as image:
            if image.getexif().get(0x0112, 1) == 1:
                return name, file
            turned, out = ImageOps.exif_transpose(image), io.BytesIO()
            turned.save(out, format=image.format, quality=100, subsampling=0)
        return name, out.getvalue()

    def _app(self) -> Flask:
        app = Flask("cvat")
        numbers = itertools.count(1)

        @app.before_request
        def authorize() -> Any:
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                return {"detail": "Authentication credentials were not provided."}, 401
            return None

        @app.get("/api/server/about")
        def about() -> Any:
            return {"name": "CVAT", "description": "", "version": "2.80.0", "logo_url": "", "subtitle": ""}

        @app.get("/api/tasks/7")
        def task() -> Any:
            return {
                "id": 7,
                "name": "task",
                "jobs": {"completed": 0, "validation": 0, "count": 1, "url": "/api/jobs?task_id=7"},
                "labels": {"url": "/api/labels?task_id=7"},
                "created_date": DATE,
                "updated_date": DATE,
                "size": len(self.frames),
                "data_chunk_size": 2,
                "data_original_chunk_type": "imageset",
                "organization": None,
            }

        @app.get("/api/labels")
        def labels() -> Any:
            results = [
                {"attributes": [], "sublabels": [], "id": self.label_id(label["name"]), **label}
                for label in self.labels
            ]
            return {"count": len(results), "next": None, "previous": None, "results": results}

        @app.get("/api/tasks/7/data/meta")
        def meta() -> Any:
            frames = [{"name": name, "related_files": 0} for name in self.frames]
            return {"chunks_updated_date": DATE, "frames": frames, "deleted_frames": self.deleted}

        @app.get("/api/tasks/7/data/")
        def data() -> Any:
            number = request.args.get("number", type=int) or 0
            if request.args["type"] == "frame":
                return Response(self.frame(number)[1], mimetype="application/octet-stream")
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w") as chunk:
                for index in range(number * 2, min(number * 2 + 2, len(self.frames))):
                    chunk.writestr(f"{index:06d}.bin", self.frame(index)[1])
            return Response(out.getvalue(), mimetype="application/zip")

        @app.patch("/api/tasks/7/annotations/")
        @app.put("/api/tasks/7/annotations/")
        def annotations() -> Any:
            body = request.get_json()
            self.annotations.append((request.method, body))
            return {"version": 1, "tags": [], "shapes": [], "tracks": [], "intervals": []}

        @app.post("/api/functions")
        def create_function() -> Any:
            function = {"id": next(numbers), **request.get_json()}
            if function["kind"] == "interactor":
                defaults = {"min_neg_points": -1, "startswith_box": False, "startswith_box_optional": False}
                function = defaults | function
            self.functions[function["id"]] = function
            return function, 201

        @app.get("/api/functions/<int:number>")
        def show_function(number: int) -> Any:
            return self.functions[number]

        @app.post("/api/functions/queues/<queue>/requests/acquire")
        def acquire(queue: str) -> Any:
            batch = request.get_json()["request_category"] == "batch"
            waiting = [one for one in self.requests if (one["type"] == "annotate_task") == batch]
            if not waiting:
                return {"ar_assignment": None}
            self.requests.remove(waiting[0])
            return {"ar_assignment": {"ar_id": f"ar{next(numbers)}", "ar_params": waiting[0]}}

        @app.post("/api/functions/queues/<queue>/requests/<asked>/<what>")
        def finish(queue: str, asked: str, what: str) -> Any:
            self.results.append((asked, what, request.get_json()))
            return {}

        return app
