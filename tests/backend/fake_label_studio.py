"""A small Label Studio: the HTTP calls that this backend uses, answered as version 1.23 does, without a database.

    with FakeLabelStudio() as server:
        project = server.add_project('<View>...</View>')
        task = server.add_upload(project, "a.png", png_bytes)
        client = LabelStudio(server.url, server.legacy_token)

It calls registered backends and webhooks for real. Its state lies open in attributes: `projects`, `tasks`,
`annotations`, `predictions`, `backends`, `webhooks`, `files`, `uploads`; `requests` lists what it was asked.
"""

import base64
import itertools
import json
import operator
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import requests
from flask import Flask, Response, jsonify, redirect, request
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

FILTERS = {"greater": operator.gt, "equal": operator.eq, "empty": lambda text, empty: (text == "") == empty}
CREATED = 1795393773  # goes into the project reference of /setup and /predict
# Label Studio waits 1 s for /health and webhooks and 3 s for /setup: too little for tests on a machine that trains.
PATIENCE = 30
RESERVED = "URL resolves to a reserved network address (block: 127.0.0.0/8)"
PERSONAL_TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJ0b2tlbl90eXBlIjoicmVmcmVzaCJ9.c2lnbmF0dXJl"


class _Refused(Exception):
    def __init__(self, status: int, **body: Any) -> None:
        self.status, self.body = status, {"status_code": status, **body}


class _QuietHandler(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Say nothing; a test that wants to know asks the application."""


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """An application on a free port of this machine; gives its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class FakeLabelStudio:
    """Label Studio on a free port of this machine, from `with` to its end.

    Attributes:
        base_path: path that it is mounted under, such as "/label-studio".
        legacy_enabled: False refuses every legacy token, as a new organization does.
        block_local_backends: ML_BLOCK_LOCAL_IP.
        block_local_webhooks: SSRF_PROTECTION_ENABLED.
        local_files_root: LOCAL_FILES_DOCUMENT_ROOT; "" where local files are not served.
        storage: cloud URI -> address that its presign call redirects to.
        faults: each is used up by the next request whose path ends so: it is refused with that status, or done and then
            answered with that status, as a proxy does whose patience ends.
        lacks: paths that this release does not have.
        drops: predictions that it answers as if they were stored, and does not store: those that are "imported" (as
            release 1.22 does), or "all".
        storing_seconds: what it takes to store one prediction of an answer to /predict.
    """

    base_path: str = ""
    legacy_token: str = "00112233445566778899aabbccddeeff00112233"
    personal_token: str = PERSONAL_TOKEN
    legacy_enabled: bool = True
    block_local_backends: bool = False
    block_local_webhooks: bool = False
    local_files_root: str = ""
    projects: dict[int, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    annotations: dict[int, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[int, dict[str, Any]] = field(default_factory=dict)
    backends: dict[int, dict[str, Any]] = field(default_factory=dict)
    webhooks: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[int, str] = field(default_factory=dict)  # id -> path below /data/
    storage: dict[str, str] = field(default_factory=dict)
    faults: list[tuple[str, int, Literal["refused", "done"]]] = field(default_factory=list)
    lacks: tuple[str, ...] = ()
    drops: Literal["", "imported", "all"] = ""
    storing_seconds: float = 0.0
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Authorization

    def __post_init__(self) -> None:
        self._ids = itertools.count(1)
        self._access = itertools.count(1)
        self.access_token = ""
        self._running = ExitStack()

    def __enter__(self) -> Self:
        root = self._running.enter_context(serving(self._app()))
        self.port = int(root.rpartition(":")[2])
        self.url = root + self.base_path
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    # State

    def add_project(self, label_config: str, title: str = "fake") -> int:
        """Create a project; returns its id."""
        project_id = next(self._ids)
        self.projects[project_id] = {
            "id": project_id,
            "title": title,
            "label_config": label_config,
            "model_version": "",
            "show_collab_predictions": True,
        }
        return project_id

    def add_task(self, project_id: int, data: dict[str, Any]) -> int:
        """Create a task; returns its id."""
        task_id = next(self._ids)
        self.tasks[task_id] = {"id": task_id, "project": project_id, "data": data, "meta": {}}
        return task_id

    def add_file(self, project_id: int, name: str, contents: bytes) -> int:
        """Upload a file without a task; returns its id."""
        upload_id = next(self._ids)
        self.uploads[upload_id] = f"upload/{project_id}/{upload_id:08x}-{name}"
        self.files[f"/data/{self.uploads[upload_id]}"] = contents
        return upload_id

    def add_upload(self, project_id: int, name: str, contents: bytes) -> int:
        """Create a task with an uploaded image; returns its id."""
        file = self.uploads[self.add_file(project_id, name, contents)]
        return self.add_task(project_id, {"image": f"{self.base_path}/data/{file}"})

    def add_annotation(self, task_id: int, result: list[dict[str, Any]], **fields: Any) -> int:
        """Submit an annotation and send its webhooks; returns its id."""
        annotation_id = next(self._ids)
        stamp = f"2026-11-23T00:{annotation_id // 60 % 60:02d}:{annotation_id % 60:02d}.000000Z"
        task = self.tasks[task_id]
        annotation = {
            "id": annotation_id,
            "task": task_id,
            "project": task["project"],
            "result": result,
            "was_cancelled": False,
            "ground_truth": False,
            "last_action": None,
            "parent_prediction": None,
            "lead_time": None,
            "created_at": stamp,
            "updated_at": stamp,
            **fields,
        }
        self.annotations[annotation_id] = annotation
        event = {"action": "ANNOTATION_CREATED", "annotation": annotation, "task": task}
        self._announce({**event, "project": self._project(task["project"])})
        return annotation_id

    def add_prediction(self, row: dict[str, Any]) -> int:
        """Store a prediction (`task`, `result`, `score`, `model_version`); returns its id."""
        if not isinstance(row.get("model_version"), str):
            raise _Refused(400, validation_errors={"model_version": ["This field may not be null."]})
        prediction_id = next(self._ids)
        project = self.tasks[int(row["task"])]["project"]
        self.predictions[prediction_id] = {"id": prediction_id, "project": project, "score": None, **row}
        return prediction_id

    def expire_access_tokens(self) -> None:
        """Every access token given out so far is refused from now on."""
        self.access_token = ""

    def export(self, project_id: int, all_tasks: bool = False) -> list[dict[str, Any]]:
        """Tasks with their annotations."""
        tasks = [
            {**task, "annotations": [a for a in self.annotations.values() if a["task"] == task["id"]]}
            for task in self.tasks.values()
            if task["project"] == project_id
        ]
        return [task for task in tasks if all_tasks or task["annotations"]]

    def _backend_of(self, project_id: int) -> dict[str, Any] | None:
        return next((b for b in list(self.backends.values()) if b["project"] == project_id), None)

    def _listed(self, project_id: int, query: dict[str, Any]) -> list[dict[str, Any]]:
        """Tasks as the Data Manager lists them, with the columns that it was asked to sort or filter by."""
        columns = [column.removeprefix("tasks:") for column in query.get("ordering", [])]
        filters = query.get("filters", {}).get("items", [])
        columns += [one["filter"].removeprefix("filter:tasks:") for one in filters]
        chosen = query.get("selectedItems")
        rows = []
        for task in list(self.tasks.values()):
            if task["project"] != project_id or (chosen and task["id"] not in chosen["included"]):
                continue
            annotations = [a for a in list(self.annotations.values()) if a["task"] == task["id"]]
            predictions = [p for p in list(self.predictions.values()) if p["task"] == task["id"]]
            versions = {p["model_version"] for p in predictions}
            row = {
                **task,
                "total_annotations": sum(not a["was_cancelled"] for a in annotations),
                "annotations_ids": ",".join(str(a["id"]) for a in annotations),
                "predictions_model_versions": ",".join(versions)[:500],
                "predictions_score": min((p.get("score") or 0 for p in predictions), default=None),
            }
            if all(FILTERS[one["operator"]](row[one["filter"][13:]], one["value"]) for one in filters):
                shown = {"id", "project", "data", "meta", "total_annotations", *columns}
                rows.append({key: value if key in shown else "" for key, value in row.items()})
        if query.get("ordering") == ["tasks:predictions_score"]:
            rows.sort(key=lambda row: (row["predictions_score"] is None, row["predictions_score"], row["id"]))
        return rows

    # What it asks backends

    def _reference(self, project_id: int) -> str:
        return f"{project_id}.{CREATED}"

    @staticmethod
    def _login(backend: dict[str, Any]) -> tuple[str, str] | None:
        user, password = backend.get("basic_auth_user"), backend.get("basic_auth_pass")
        return (user, password) if user and password else None

    @staticmethod
    def _shown(backend: dict[str, Any]) -> dict[str, Any]:
        """A backend as the API shows it: without its password."""
        shown = {name: value for name, value in backend.items() if name != "basic_auth_pass"}
        return {"basic_auth_user": None, **shown, "basic_auth_pass_is_set": bool(backend.get("basic_auth_pass"))}

    def _project(self, project_id: int) -> dict[str, Any]:
        number = sum(task["project"] == project_id for task in self.tasks.values())
        return {**self.projects[project_id], "task_number": number}

    def _set_up(self, backend: dict[str, Any]) -> None:
        """GET /health, then POST /setup, as before nearly everything."""
        url, project_id = backend["url"].rstrip("/"), backend["project"]
        body = {
            "project": self._reference(project_id),
            "schema": self.projects[project_id]["label_config"],
            "hostname": self.url,
            "access_token": self.legacy_token,
            "extra_params": None,
        }
        try:
            health = requests.get(f"{url}/health", timeout=PATIENCE)
            health.raise_for_status()
            health.json()
            backend["state"] = "DI"
            setup = requests.post(f"{url}/setup", json=body, timeout=PATIENCE, auth=self._login(backend))
            setup.raise_for_status()
            backend.update(state="CO", error_message="", model_version=setup.json().get("model_version"))
        except requests.RequestException as error:
            backend.update(state="ER", error_message=f"Can't connect to ML backend {url}: {error}")

    def _predict(self, backend: dict[str, Any], tasks: list[dict[str, Any]]) -> None:
        """One POST /predict with every task that lacks the current version; a wrong number of results stores none."""
        version = backend["model_version"]
        have = {p["task"] for p in list(self.predictions.values()) if version and p["model_version"] == version}
        wanted = [{**task, "annotations": [], "predictions": []} for task in tasks if task["id"] not in have]
        if not wanted:
            return
        body = {
            "tasks": wanted,
            "project": self._reference(backend["project"]),
            "label_config": self.projects[backend["project"]]["label_config"],
            "params": {"login": None, "password": None, "context": None},
        }
        url = f"{backend['url'].rstrip('/')}/predict"
        try:
            answer = requests.post(url, json=body, timeout=100, auth=self._login(backend))
            results = answer.json().get("results") if answer.ok else None
        except requests.RequestException:
            return  # the backend was killed: the part of its answer that had come is dropped
        if not results or len(results) != len(wanted):
            return
        if None in results:
            raise _Refused(500, detail="'NoneType' object is not iterable")
        for task, entry in zip(wanted, results, strict=True):
            for row in entry if isinstance(entry, list) else [entry]:
                if row:
                    time.sleep(self.storing_seconds)
                    self.add_prediction({"model_version": version, **row, "task": task["id"]})

    def _announce(self, event: dict[str, Any]) -> None:
        for hook in self.webhooks.values():
            if hook["project"] == event["project"]["id"]:
                try:
                    requests.post(hook["url"], json=event, headers=hook["headers"], timeout=PATIENCE)
                except requests.RequestException:
                    continue  # as Label Studio: best effort, never repeated

    # What it answers

    def _authorize(self) -> None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind == "Token" and token == self.legacy_token:
            if not self.legacy_enabled:
                raise _Refused(401, detail="legacy token authentication has been disabled for this organization")
        elif not (kind == "Bearer" and token and token == self.access_token):
            raise _Refused(401, detail="Invalid token.")

    def _fault(self, when: str) -> int | None:
        for fault in self.faults:
            if fault[2] == when and request.path.endswith(fault[0]):
                self.faults.remove(fault)
                return fault[1]
        return None

    def _app(self) -> Flask:
        app = Flask("fake-label-studio")
        app.wsgi_app = _Mounted(app.wsgi_app, self.base_path)  # type: ignore[method-assign]

        @app.before_request
        def authorize() -> None:
            path = request.full_path.rstrip("?")
            self.requests.append((request.method, path, request.headers.get("Authorization", "")))
            if request.path != "/api/token/refresh":
                self._authorize()
            if request.path in self.lacks:
                raise _Refused(404, detail="Not found.")
            if (status := self._fault("refused")) is not None:
                raise _Refused(status, detail="for a test")

        @app.after_request
        def swallow(response: Response) -> Response:
            status = self._fault("done")
            return response if status is None else Response("<html>", status)

        @app.errorhandler(_Refused)
        def refused(error: _Refused) -> tuple[Response, int]:
            return jsonify(error.body), error.status

        @app.errorhandler(KeyError)
        @app.errorhandler(404)
        def missing(error: KeyError | HTTPException) -> tuple[Response, int]:
            return jsonify(status_code=404, detail="Not found."), 404

        @app.post("/api/token/refresh")
        def refresh() -> dict[str, Any]:
            if request.get_json()["refresh"] != self.personal_token:
                raise _Refused(401, detail="Token is invalid")
            self.access_token = f"eyJ.access.{next(self._access)}"
            return {"access": self.access_token}

        @app.get("/api/current-user/whoami")
        def whoami() -> dict[str, Any]:
            return {"id": 1, "username": "admin", "email": "admin@example.com"}

        @app.get("/api/version/")
        def version() -> dict[str, Any]:
            return {"release": "1.23.2"}

        @app.get("/api/jwt/settings")
        def tokens() -> dict[str, Any]:
            return {"api_tokens_enabled": True, "legacy_api_tokens_enabled": self.legacy_enabled}

        self._project_routes(app)
        self._backend_routes(app)
        self._file_routes(app)
        return app

    def _project_routes(self, app: Flask) -> None:
        @app.route("/api/projects/", methods=["GET", "POST"])
        def projects() -> Any:
            if request.method == "GET":
                return {"count": len(self.projects), "results": [self._project(p) for p in self.projects]}
            fields = request.get_json()
            project_id = self.add_project(fields["label_config"], fields["title"])
            return self._project(project_id), 201

        @app.route("/api/projects/<int:project_id>/", methods=["GET", "PATCH"])
        def project(project_id: int) -> dict[str, Any]:
            if request.method == "PATCH":
                self.projects[project_id].update(request.get_json())
            return self._project(project_id)

        @app.post("/api/projects/<int:project_id>/import")
        def import_tasks(project_id: int) -> tuple[dict[str, Any], int]:
            self.projects[project_id]
            uploads = [file for _, file in request.files.items(multi=True)]
            if uploads and request.args.get("commit_to_project") == "false":
                ids = [self.add_file(project_id, str(file.filename), file.read()) for file in uploads]
                return {"task_count": len(ids), "file_upload_ids": ids}, 201
            if uploads:
                created = [self.add_upload(project_id, str(file.filename), file.read()) for file in uploads]
            else:
                created = [self.add_task(project_id, task.get("data", task)) for task in request.get_json()]
            return {"task_count": len(created)}, 201

        @app.get("/api/projects/<int:project_id>/file-uploads")
        def file_uploads(project_id: int) -> Response:
            ids = json.loads(request.args.get("ids", "[]"))
            return jsonify([{"id": one, "file": self.uploads[one]} for one in sorted(ids, reverse=True)])

        @app.get("/api/projects/<int:project_id>/export")
        def export(project_id: int) -> Response:
            return jsonify(self.export(project_id, request.args.get("download_all_tasks") == "true"))

        @app.post("/api/projects/<int:project_id>/import/predictions")
        def import_predictions(project_id: int) -> tuple[dict[str, Any], int]:
            self.projects[project_id]
            if missing := [row["task"] for row in request.get_json() if row["task"] not in self.tasks]:
                raise _Refused(400, validation_errors=[f"contains invalid task {missing[0]}"])
            if self.drops:
                return {"created": len(request.get_json()) if self.drops == "all" else 0}, 201
            return {"created": len([self.add_prediction(row) for row in request.get_json()])}, 201

        @app.route("/api/predictions/", methods=["GET", "POST"])
        def predictions() -> Any:
            if request.method == "POST":
                if request.get_json()["task"] not in self.tasks:
                    raise _Refused(400, validation_errors={"task": ["Invalid pk - object does not exist."]})
                if self.drops == "all":
                    return {"id": next(self._ids)}, 201
                return self.predictions[self.add_prediction(request.get_json())], 201
            ((key, value),) = request.args.items()
            return jsonify([p for p in list(self.predictions.values()) if p[key] == int(value)])

        @app.get("/api/tasks")
        def tasks() -> dict[str, Any]:
            self.projects[int(request.args["project"])]
            rows = self._listed(int(request.args["project"]), json.loads(request.args.get("query", "{}")))
            size, page = int(request.args["page_size"]), int(request.args.get("page", "1"))
            if page > 1 and (page - 1) * size >= len(rows):
                raise _Refused(404, detail="Invalid page.")
            return {"total": len(rows), "tasks": rows[(page - 1) * size : page * size]}

        @app.get("/api/predictions/<int:prediction_id>/")
        def prediction(prediction_id: int) -> dict[str, Any]:
            return self.predictions[prediction_id]

        @app.get("/api/tasks/<int:task_id>/")
        def task(task_id: int) -> dict[str, Any]:
            backend = self._backend_of(self.tasks[task_id]["project"])
            if backend is not None and not any(p["task"] == task_id for p in list(self.predictions.values())):
                self._set_up(backend)
                if backend["state"] == "CO":
                    self._predict(backend, [self.tasks[task_id]])
            return {
                **self.tasks[task_id],
                "annotations": [a for a in self.annotations.values() if a["task"] == task_id],
                "predictions": [p for p in self.predictions.values() if p["task"] == task_id],
            }

        @app.get("/api/tasks/<int:task_id>/annotations/")
        def annotations_of(task_id: int) -> Any:
            return [one for one in list(self.annotations.values()) if one["task"] == task_id]

        @app.post("/api/tasks/<int:task_id>/annotations/")
        def annotate(task_id: int) -> tuple[dict[str, Any], int]:
            return self.annotations[self.add_annotation(task_id, **request.get_json())], 201

        @app.post("/api/dm/actions")
        def act() -> dict[str, Any]:
            project_id, chosen = int(request.args["project"]), request.get_json()["selectedItems"]
            tasks = [
                task
                for task in self.tasks.values()
                if task["project"] == project_id and (chosen["all"] or task["id"] in chosen["included"])
            ]
            backend = self._backend_of(project_id)
            if backend is not None:
                self._set_up(backend)
                if backend["state"] == "CO":
                    self._predict(backend, tasks)
            return {"processed_items": len(tasks), "detail": f"Retrieved {len(tasks)} predictions"}

    def _backend_routes(self, app: Flask) -> None:
        @app.route("/api/ml/", methods=["GET", "POST"])
        def backends() -> Any:
            if request.method == "GET":
                project_id = int(request.args["project"])
                found = [b for b in self.backends.values() if b["project"] == project_id]
                for backend in found:
                    self._set_up(backend)
                return jsonify([self._shown(backend) for backend in found])
            # The address is judged before anything else.
            if self.block_local_backends:
                raise _Refused(403, detail=RESERVED)
            if "project" not in request.get_json():
                raise _Refused(400, validation_errors={"project": ["This field is required."]})
            backend = {"title": "", "model_version": None, **request.get_json(), "id": next(self._ids)}
            self._set_up(backend)
            if backend["state"] != "CO":
                raise _Refused(400, validation_errors={"non_field_errors": [backend["error_message"]]})
            self.backends[backend["id"]] = backend
            hook = f"{backend['url'].rstrip('/')}/webhook"
            if all(other["url"] != hook for other in self.webhooks.values()):
                hook_id = next(self._ids)
                self.webhooks[hook_id] = {"id": hook_id, "project": backend["project"], "url": hook, "headers": {}}
            return self._shown(backend), 201

        @app.patch("/api/ml/<int:backend_id>")
        def backend(backend_id: int) -> dict[str, Any]:
            before = self.backends[backend_id]["title"]
            self.backends[backend_id].update(request.get_json())
            self._set_up(self.backends[backend_id])
            project = self.projects[self.backends[backend_id]["project"]]
            if project.get("model_version") == before:
                project["model_version"] = self.backends[backend_id]["title"]
            return self._shown(self.backends[backend_id])

        @app.post("/api/ml/<int:backend_id>/train")
        def train(backend_id: int) -> Response:
            backend = self.backends[backend_id]
            event = {"action": "START_TRAINING", "project": self._project(backend["project"])}
            # Label Studio ignores the backend's answer and answers 200 with nothing in it.
            url = f"{backend['url'].rstrip('/')}/webhook"
            requests.post(url, json=event, timeout=100, auth=self._login(backend))
            return Response(status=200)

        @app.post("/api/webhooks/")
        def add_webhook() -> None:
            if self.block_local_webhooks:
                raise _Refused(403, detail=RESERVED)
            raise _Refused(400, validation_errors={"actions": {"0": ["is not a valid choice."]}})

        @app.get("/api/webhooks/")
        def webhooks() -> Response:
            project_id = int(request.args["project"])
            return jsonify([hook for hook in self.webhooks.values() if hook["project"] == project_id])

        @app.patch("/api/webhooks/<int:webhook_id>/")
        def webhook(webhook_id: int) -> dict[str, Any]:
            self.webhooks[webhook_id].update(request.get_json())
            return self.webhooks[webhook_id]

    def _file_routes(self, app: Flask) -> None:
        @app.get("/data/<path:path>")
        def file(path: str) -> Response:
            query = f"?d={request.args['d']}" if "d" in request.args else ""
            if query and f"/data/{path}{query}" not in self.files and not self.local_files_root:
                return Response("Serving local files can be dangerous, so it's disabled by default.", 403)
            return Response(self.files[f"/data/{path}{query}"], mimetype="application/octet-stream")

        @app.post("/api/storages/localfiles/validate")
        def validate_storage() -> None:
            root = self.local_files_root or "/"
            text = f'"/" must be a subdirectory of LOCAL_FILES_DOCUMENT_ROOT="{root}" by security reasons.'
            raise _Refused(400, validation_errors={"non_field_errors": [text]})

        @app.get("/tasks/<int:task_id>/presign/")
        def presign(task_id: int) -> Any:
            return redirect(self.storage[base64.urlsafe_b64decode(request.args["fileuri"]).decode()], 303)


class _Mounted:
    """A WSGI application under a path; anything beside it is somebody else's and not found."""

    def __init__(self, app: Any, base_path: str) -> None:
        self.app, self.base_path = app, base_path

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if not path.startswith(f"{self.base_path}/"):
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"not Label Studio"]
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = self.base_path, path.removeprefix(self.base_path)
        return self.app(environ, start_response)
