"""The training job: fetch what was accepted, train in a process of its own, publish, promote."""

import logging
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from backend.errors import BackendError, JobError, JobInterrupted
from backend.files import write_json
from backend.jobs.process import TrainingProcess
from backend.jobs.store import Job, JobStore
from backend.label_studio.annotations import AcceptedReport, write_data_folder
from backend.label_studio.images import ImageLoader
from backend.label_studio.kept import drawn_before
from backend.label_studio.label_config import parse_label_config
from backend.registry import Registry
from models.checkpoint import read_card
from models.errors import ModelError

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "models.training")
KEPT_FAILURES = 3  # work folders of failed jobs, for whoever looks into it
# Stage that training reports -> state of the job, and the part of the progress bar that it fills.
STAGES = {
    "classifier": ("training", 0.10, 0.50),
    "refiner": ("training", 0.50, 0.85),
    "evaluating": ("evaluating", 0.85, 0.95),
    "saving": ("evaluating", 0.95, 0.97),
}


class Project(Protocol):
    """What is asked of `backend.label_studio.client.LabelStudio`."""

    def project(self, project_id: str) -> Mapping[str, Any]:
        """The project's settings, `label_config` among them."""

    def export(self, project_id: str) -> list[dict[str, Any]]:
        """Tasks with their annotations."""

    def prediction(self, prediction_id: int) -> Mapping[str, Any]:
        """A stored prediction."""


@dataclass(frozen=True)
class Plan:
    """How trainings are done here.

    Attributes:
        preset: size of a training.
        minutes: time budget.
        device: cpu or cuda.
        min_accepted: accepted tasks below which there is nothing to learn from.
        seed: of everything random.
        tolerance: how much worse than its parent a version may be and still be promoted.
        limit_seconds: a training that takes longer is taken for hung and killed.
    """

    preset: str = "fast"
    minutes: float = 10.0
    device: str = "cpu"
    min_accepted: int = 4
    seed: int = 0
    tolerance: float = 0.01

    @property
    def limit_seconds(self) -> float:
        """Reading data, evaluating and saving come on top of the budget, on slow machines too."""
        return self.minutes * 60 * 3 + 3600


class Trainer:
    """Runs training jobs. Safe to share between the worker's threads.

    Args:
        store: job records.
        registry: where versions are published.
        starter: what a project's first version starts from; None for nothing.
        client: Label Studio of a project.
        images: image loader of a project.
        work: folder for the jobs' files.
        plan: how to train.
        command: the training process; the path of its specification is appended.
    """

    def __init__(
        self,
        store: JobStore,
        registry: Registry,
        starter: Path | None,
        client: Callable[[str], Project],
        images: Callable[[str], ImageLoader],
        work: Path,
        plan: Plan,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._store = store
        self._registry = registry
        self._starter = starter
        self._client = client
        self._images = images
        self._work = work
        self._plan = plan
        self._command = command
        self._processes: dict[str, TrainingProcess] = {}
        self._stopping = False

    def run(self, job_id: str, worker: str) -> None:
        """Do one job to its end, and record it; a job that cannot be claimed is left alone."""
        if self._stopping or not self._store.claim(job_id, worker):
            return
        job = self._store.get(job_id)
        logger.info("job %s: project %s: training begins", job_id, job.project)
        folder = self._work / job_id
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted attempt left
        try:
            folder.mkdir(parents=True)
            self._train(job, folder)
        except JobInterrupted as error:
            self._store.log(job_id, str(error))
            self._store.release(job, "queued", str(error), restarts=job.restarts)
        except (BackendError, ModelError) as error:
            self._fail(job, str(error))
        except Exception as error:
            logger.exception("job %s: unexpected error", job_id)
            self._fail(job, f"{type(error).__name__}: {error}; the worker's log has the details")
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def stop(self) -> None:
        """End running trainings; their jobs go back into the queue."""
        self._stopping = True
        for process in list(self._processes.values()):
            process.kill()

    def _train(self, job: Job, folder: Path) -> None:
        report = self._fetch(job, folder / "data")
        if report.used < self._plan.min_accepted:
            raise JobError(
                f"project {job.project} has {_count(report.used, 'accepted task')} to learn from and needs "
                f"{self._plan.min_accepted}; annotate and submit {self._plan.min_accepted - report.used} more, then "
                f"press Start Training again{_left_out(report)}"
            )
        current = self._registry.current(job.project)
        parent = current.directory if current is not None else self._starter
        backbone = read_card(parent).backbone if parent is not None else None
        version = self._registry.reserve(job.project, backbone)
        self._store.update(job.id, state="training", version=version, message=f"training {version}")
        result = self._run_process(job, folder, self._specification(folder, parent, version))
        metrics = {"new": result.get("metrics"), "parent": result.get("parent_metrics")}
        self._store.update(job.id, state="publishing", progress=0.97, message=f"publishing {version}", metrics=metrics)
        info = self._registry.publish(job.project, folder / "checkpoint")
        verdict = str(result.get("reason") or "")
        if result.get("promote"):
            self._registry.promote(job.project, info.version)
            message = f"{info.version} is served from now on" + (f": {verdict}" if verdict else "")
        else:
            message = f"{info.version} stays a candidate" + (f": {verdict}" if verdict else "")
        self._store.log(job.id, message)
        self._store.update(job.id, state="done", progress=1.0, version=info.version, message=message)
        logger.info("job %s: project %s: %s", job.id, job.project, message)

    def _fetch(self, job: Job, data: Path) -> AcceptedReport:
        """Write the project's accepted annotations as a data folder."""
        self._store.update(job.id, message="fetching accepted annotations from Label Studio")
        client = self._client(job.project)
        project = client.project(job.project)
        config = parse_label_config(project["label_config"])
        tasks = client.export(job.project)
        self._store.update(job.id, progress=0.02, message=f"fetching {_count(len(tasks), 'annotated task')}")

        def counted() -> Any:
            for done, task in enumerate(tasks):
                if self._stopping:
                    raise JobInterrupted
                self._store.update(job.id, progress=0.02 + 0.08 * done / len(tasks))
                yield task

        report = write_data_folder(
            counted(), config, self._images(job.project), data, lambda made: drawn_before(made, client.prediction)
        )
        for line in report.text.splitlines():
            self._store.log(job.id, line)
        self._store.update(job.id, report=asdict(report) | {"title": str(project.get("title") or "")})
        return report

    def _specification(self, folder: Path, parent: Path | None, version: str) -> Path:
        path = folder / "specification.json"
        write_json(
            path,
            {
                "data": str(folder / "data"),
                "out": str(folder / "checkpoint"),
                "parent": None if parent is None else str(parent),
                "preset": self._plan.preset,
                "minutes": self._plan.minutes,
                "seed": self._plan.seed,
                "device": self._plan.device,
                "backbone": "auto",  # the parent's
                "name": version,
                "tolerance": self._plan.tolerance,
            },
        )
        return path

    def _run_process(self, job: Job, folder: Path, specification: Path) -> Mapping[str, Any]:
        """Train in a process of its own, recording what it says; returns its last line.

        Raises:
            JobError: it failed; the text says how.
            JobInterrupted: the worker is being stopped.
        """
        process = TrainingProcess([*self._command, str(specification)], folder, self._plan.limit_seconds)
        self._processes[job.id] = process
        self._store.update(job.id, process=process.identity)
        last: Mapping[str, Any] = {}
        progress = 0.0
        try:
            if self._stopping:
                process.kill()
            for line in process.lines():
                self._store.log(job.id, line.text)
                if line.report is not None:
                    last = line.report
                    progress = self._progress(job, last, progress)
            failure = process.wait()
        finally:
            process.kill()
            process.wait()
            self._processes.pop(job.id, None)
            self._store.update(job.id, process=None)
        if self._stopping:
            raise JobInterrupted
        if last.get("stage") == "failed":
            raise JobError(f"training failed: {last.get('reason') or 'no reason given'}")
        if failure is not None:
            raise JobError(f"training was {failure}" if failure.startswith("killed") else f"training {failure}")
        if last.get("stage") != "done":
            raise JobError("training ended without a result; the job's log says how far it came")
        return last

    def _progress(self, job: Job, report: Mapping[str, Any], so_far: float) -> float:
        """Record a stage; the bar never goes back, though some stages come twice."""
        stage = STAGES.get(str(report.get("stage")))
        if stage is None:
            return so_far
        state, begin, end = stage
        done, total = float(report.get("done") or 0), float(report.get("total") or 0)
        reached = begin + (end - begin) * min(done / total, 1.0) if total > 0 else begin
        progress = max(so_far, round(reached, 4))
        self._store.update(job.id, state=state, progress=progress, message=str(report.get("message") or ""))
        return progress

    def _fail(self, job: Job, reason: str) -> None:
        logger.error("job %s: project %s: training failed: %s", job.id, job.project, reason)
        self._store.log(job.id, f"failed: {reason}")
        self._store.update(job.id, state="failed", reason=reason, message="", process=None)
        failed = [other.id for other in self._store.find(states=("failed",), limit=1000)]
        for old in failed[KEPT_FAILURES:]:
            shutil.rmtree(self._work / old, ignore_errors=True)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _left_out(report: AcceptedReport) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
    return f" (left out: {reasons})" if reasons else ""
