"""The calls this backend makes to Label Studio's HTTP API."""

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import quote

from pydantic import TypeAdapter

from backend.errors import LabelStudioError
from backend.label_studio import answers
from backend.label_studio.answers import checked
from backend.label_studio.transport import Transport
from models.errors import brief

__all__ = ["LabelStudio", "TaskRow"]

IMPORTED_AT_ONCE = 100
TASKS_AT_ONCE = 200
MAX_EXPORT = 8 << 30  # bytes: every annotation or prediction of a project, masks and all
COLUMN_LIMIT = 500  # characters after which the Data Manager cuts a column off


@dataclass(frozen=True)
class TaskRow:
    """A task as the Data Manager lists it.

    Attributes:
        id: the task.
        data: as in a request to /predict.
        annotations: ids of its annotations, cancelled ones too, as one text; "" unless annotated tasks were asked for.
        versions: model versions of its predictions; empty unless tasks were asked for by id.
    """

    id: int
    data: dict[str, Any]
    annotations: str
    versions: frozenset[str]


class LabelStudio(Transport):
    """One Label Studio server and the key to it. Safe to share between threads."""

    # Users and projects

    def check(self) -> dict[str, Any]:
        """The user whom the key belongs to.

        Raises:
            LabelStudioError: Label Studio cannot be reached, or refuses the key.
        """
        user: dict[str, Any] = self._ask(answers.OBJECT, "GET", "/api/current-user/whoami")
        return user

    def projects(self) -> list[dict[str, Any]]:
        """Every project the key's user can see."""
        projects: list[dict[str, Any]] = self._ask(answers.PROJECTS, "GET", "/api/projects/?page_size=1000")
        return projects

    def project(self, project_id: str | int) -> dict[str, Any]:
        """A project's settings, its `label_config` and `task_number` among them."""
        project: dict[str, Any] = self._ask(answers.PROJECT, "GET", f"/api/projects/{project_id}/")
        return project

    def create_project(self, title: str, label_config: str, **settings: Any) -> dict[str, Any]:
        """Create a project; returns it with its id."""
        fields = {"title": title, "label_config": label_config, **settings}
        project: dict[str, Any] = self._ask(answers.PROJECT, "POST", "/api/projects/", json=fields)
        return project

    def update_project(self, project_id: str | int, **settings: Any) -> dict[str, Any]:
        """Change some of a project's settings."""
        project: dict[str, Any] = self._ask(answers.OBJECT, "PATCH", f"/api/projects/{project_id}/", json=settings)
        return project

    # Tasks and annotations

    def import_files(self, project_id: str | int, files: Mapping[str, bytes | BinaryIO]) -> int:
        """Upload images, one task each.

        Args:
            project_id: the project.
            files: file name -> contents.

        Returns:
            How many tasks were created.
        """
        path = f"/api/projects/{project_id}/import"
        return int(self._ask(answers.COUNTED, "POST", path, files=list(files.items()))["task_count"])

    def upload(self, project_id: str | int, files: Mapping[str, bytes]) -> list[str]:
        """Upload files without making tasks of them.

        Args:
            project_id: the project.
            files: file name -> contents, at most 100.

        Returns:
            The address of each file, for the data of a task, in the order of `files`.
        """
        path = f"/api/projects/{project_id}/import?commit_to_project=false"
        ids = self._ask(answers.UPLOADED, "POST", path, files=list(files.items()))["file_upload_ids"]
        query = f"ids={quote(json.dumps(ids))}"
        listed = self._ask(answers.UPLOADS, "GET", f"/api/projects/{project_id}/file-uploads?{query}")
        found = {row["id"]: row["file"] for row in listed}
        if missing := [one for one in ids if one not in found]:
            raise LabelStudioError(f"Label Studio took uploads {brief(missing)} and does not list them")
        return [f"{self._base}/data/{quote(found[one])}" for one in ids]

    def create_tasks(self, project_id: str | int, data: Sequence[Mapping[str, Any]]) -> int:
        """Create tasks, whose ids are in the order of `data`.

        Args:
            project_id: the project.
            data: of each task.

        Returns:
            How many were created.
        """
        tasks = [{"data": dict(fields)} for fields in data]
        path = f"/api/projects/{project_id}/import"
        return int(self._ask(answers.COUNTED, "POST", path, json=tasks)["task_count"])

    def export(self, project_id: str | int, all_tasks: bool = False) -> list[dict[str, Any]]:
        """Tasks with their annotations and results, RLE and all.

        Args:
            project_id: the project.
            all_tasks: tasks without an annotation too.
        """
        query = f"exportType=JSON&download_all_tasks={str(all_tasks).lower()}"
        # Label Studio writes the whole export before it sends the first byte.
        slow = (self.timeout[0], 600.0)
        path = f"/api/projects/{project_id}/export?{query}"
        exported: list[dict[str, Any]] = self._ask(answers.OBJECTS, "GET", path, timeout=slow, max_bytes=MAX_EXPORT)
        return exported

    def task(self, task_id: int) -> dict[str, Any]:
        """One task with its annotations and predictions; if it has no prediction, Label Studio may ask a backend."""
        task: dict[str, Any] = self._ask(answers.TASK, "GET", f"/api/tasks/{task_id}/")
        return task

    def annotations(self, task_id: int) -> list[dict[str, Any]]:
        """The annotations of a task, results and all; unlike opening the task this asks no backend."""
        found: list[dict[str, Any]] = self._ask(answers.OBJECTS, "GET", f"/api/tasks/{task_id}/annotations/")
        return found

    def task_rows(
        self,
        project_id: str | int,
        task_ids: Collection[int] | None = None,
        *,
        annotated: bool | None = None,
        timeout: tuple[float, float] | None = None,
    ) -> list[TaskRow]:
        """Tasks in short, without results; unlike opening a task this asks no backend.

        Args:
            project_id: the project.
            task_ids: of these tasks, those that still exist; None for all.
            annotated: only those with, or only those without, an annotation that was not cancelled.
            timeout: as for the transport.
        """
        query: dict[str, Any] = {"ordering": ["tasks:id"]}
        size = TASKS_AT_ONCE
        # The Data Manager fills in the columns of versions and annotations only where it sorts or filters by them.
        if task_ids is not None:
            if not task_ids:
                return []
            query = {"ordering": ["tasks:predictions_model_versions"]}
            query["selectedItems"] = {"all": False, "included": sorted(task_ids)}
            size = len(task_ids)
        if annotated is not None:
            filters = [_column("total_annotations", "greater" if annotated else "equal", "Number", 0)]
            filters += [_column("annotations_ids", "empty", "Boolean", False)] if annotated else []
            query["filters"] = {"conjunction": "and", "items": filters}
        path = f"/api/tasks?project={project_id}&resolve_uri=false&page_size={size}&query={quote(json.dumps(query))}"
        rows: dict[int, TaskRow] = {}
        for page in itertools.count(1):
            answer = self._ask(answers.TASKS, "GET", f"{path}&page={page}", timeout=timeout or self.timeout)
            known = len(rows)
            rows |= {task["id"]: self._row(task) for task in answer["tasks"]}
            if page * size >= answer["total"] or not answer["tasks"]:
                break
            if len(rows) == known:  # it would go on for ever
                raise LabelStudioError(
                    f"page {page} of the tasks of project {project_id} at {self.url} is like those before",
                    remedy="is this Label Studio's address, and does a proxy before it hand on the query?",
                )
        return list(rows.values())

    def next_tasks(
        self, project_id: str | int, task: int, count: int, *, timeout: tuple[float, float] | None = None
    ) -> list[TaskRow]:
        """The tasks without an annotation that a project shows after one, in order, their versions left out.

        By id; a project that samples by uncertainty shows the task with the lowest score of its predictions first.

        Args:
            project_id: the project.
            task: that was opened.
            count: of the tasks at most.
            timeout: as for the transport.
        """
        waits = timeout or self.timeout
        sampling = self._ask(answers.PROJECT, "GET", f"/api/projects/{project_id}/", timeout=waits).get("sampling")
        by_score = str(sampling or "").startswith("Uncertainty")
        filters = [_column("total_annotations", "equal", "Number", 0)]
        if not by_score:
            filters.append(_column("id", "greater", "Number", task))
        query = {
            "ordering": ["tasks:predictions_score" if by_score else "tasks:id"],
            "filters": {"conjunction": "and", "items": filters},
        }
        path = f"/api/tasks?project={project_id}&resolve_uri=false&page=1&page_size={count + by_score}"
        answer = self._ask(answers.TASKS, "GET", f"{path}&query={quote(json.dumps(query))}", timeout=waits)
        found = [row for row in answer["tasks"] if row["id"] != task]
        return [TaskRow(row["id"], row["data"], "", frozenset()) for row in found[:count]]

    def _row(self, task: Mapping[str, Any]) -> TaskRow:
        text = str(task.get("predictions_model_versions") or "")
        versions = {version.strip() for version in text.split(",")} - {""}
        if len(text) >= COLUMN_LIMIT:
            listed = self._ask(answers.PREDICTIONS, "GET", f"/api/predictions/?task={task['id']}")
            versions = {str(prediction["model_version"]) for prediction in listed}
        return TaskRow(task["id"], task["data"], str(task.get("annotations_ids") or ""), frozenset(versions))

    # Predictions

    def predictions(self, project_id: str | int) -> list[dict[str, Any]]:
        """Every stored prediction of a project, each with `task`, `result`, `score` and `model_version`."""
        path = f"/api/predictions/?project={project_id}"
        found: list[dict[str, Any]] = self._ask(answers.PREDICTIONS, "GET", path, max_bytes=MAX_EXPORT)
        return found

    def prediction(self, prediction_id: int) -> dict[str, Any]:
        """One stored prediction: `task`, `result`, `score`, `model_version`."""
        path = f"/api/predictions/{prediction_id}/"
        prediction: dict[str, Any] = self._ask(answers.PREDICTION, "GET", path)
        return prediction

    def import_predictions(self, project_id: str | int, rows: Sequence[Mapping[str, Any]]) -> int:
        """Store predictions.

        Args:
            project_id: the project.
            rows: each with `task`, `result`, `score` and `model_version`.

        Returns:
            How many were stored, as Label Studio says. That may be fewer: release 1.22 takes most brush masks for
            malformed, says so in its own log alone, and answers 201.
        """
        path, created = f"/api/projects/{project_id}/import/predictions", 0
        # Label Studio takes about 0.15 s to store each, and the request must end before the time-out.
        for start in range(0, len(rows), IMPORTED_AT_ONCE):
            sent = list(rows[start : start + IMPORTED_AT_ONCE])
            created += int(self._ask(answers.CREATED, "POST", path, json=sent)["created"])
        return created

    def create_prediction(self, row: Mapping[str, Any]) -> None:
        """Store one prediction by the call that checks nothing of it where `import_predictions` does.

        Args:
            row: as for `import_predictions`.
        """
        self.call("POST", "/api/predictions/", json=dict(row))

    def retrieve_predictions(self, project_id: str | int, task_ids: Sequence[int] | None = None) -> str:
        """Press the Data Manager's Retrieve Predictions: Label Studio asks the project's first backend.

        Label Studio answers "Retrieved n predictions" even when the backend failed; look at `predictions`.

        Args:
            project_id: the project.
            task_ids: the selected tasks; None for all.
        """
        items = {"all": True, "excluded": []} if task_ids is None else {"all": False, "included": list(task_ids)}
        # The backend may take its time for a large project, and Label Studio stores the answers one by one.
        answer = self._ask(
            answers.OBJECT,
            "POST",
            f"/api/dm/actions?id=retrieve_tasks_predictions&project={project_id}",
            json={"selectedItems": items, "ordering": [], "filters": {"conjunction": "and", "items": []}},
            timeout=(self.timeout[0], 3600.0),
        )
        return str(answer.get("detail", ""))

    # Backends and webhooks

    def ml_backends(self, project_id: str | int) -> list[dict[str, Any]]:
        """The backends of a project; Label Studio asks each for its health first."""
        backends: list[dict[str, Any]] = self._ask(answers.BACKENDS, "GET", f"/api/ml/?project={project_id}")
        return backends

    def create_ml_backend(self, project_id: str | int, url: str, title: str, **settings: Any) -> dict[str, Any]:
        """Register a backend; Label Studio asks it for /health and /setup before it answers."""
        fields = {"project": int(project_id), "url": url, "title": title, **settings}
        backend: dict[str, Any] = self._ask(answers.BACKEND, "POST", "/api/ml/", json=fields)
        return backend

    def update_ml_backend(self, backend_id: int, **settings: Any) -> dict[str, Any]:
        """Change a backend's settings; Label Studio asks it for /health and /setup."""
        backend: dict[str, Any] = self._ask(answers.BACKEND, "PATCH", f"/api/ml/{backend_id}", json=settings)
        return backend

    def webhooks(self, project_id: str | int) -> list[dict[str, Any]]:
        """The webhooks of a project."""
        path = f"/api/webhooks/?project={project_id}"
        hooks: list[dict[str, Any]] = self._ask(answers.WEBHOOKS, "GET", path)
        return hooks

    def update_webhook(self, webhook_id: int, **settings: Any) -> dict[str, Any]:
        """Change a webhook, for instance its `headers`."""
        webhook: dict[str, Any] = self._ask(answers.OBJECT, "PATCH", f"/api/webhooks/{webhook_id}/", json=settings)
        return webhook

    def _ask(self, kind: TypeAdapter[Any], method: str, path: str, **options: Any) -> Any:
        """Call the API for an answer of a shape; another one raises LabelStudioError."""
        what = f"{method} {self.url}{path.partition('?')[0]}"
        return checked(self.call(method, path, **options), kind, what)


def _column(name: str, operator: str, kind: str, value: Any) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{name}", "operator": operator, "type": kind, "value": value}
