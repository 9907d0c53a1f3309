"""The training job: fetch accepted annotations, train in a process of its own, publish, promote."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from backend.database.bounded import CUT_OFF
from backend.database.jobs import Job
from backend.errors import (
    BackendError,
    ImageError,
    JobError,
    JobInterrupted,
    LabelStudioError,
    RegistryError,
    StoreError,
)
from backend.jobs.automatic import stamps_of
from backend.jobs.prediction_run import away
from backend.jobs.running import Attempt
from backend.label_studio.acceptance import parent_prediction
from backend.label_studio.annotations import AcceptedReport, write_data_folder
from backend.label_studio.images import ImageLoader
from backend.label_studio.label_config import parse_label_config
from backend.label_studio.readiness import accepted_in, too_few
from backend.label_studio.task_data import group_field
from backend.settings import Settings
from backend.system.files import write_json
from backend.versions.registry import Registry, VersionInfo
from models.checkpoint import CARD, PACKAGED, read_card
from models.data.decoding import RgbImage

COMMAND = (sys.executable, "-m", "models.training")
PREPARING = (sys.executable, "-m", "models.prepare")
PREPARE_SECONDS = 600.0  # after which a version is served as it is; it takes seconds on a quiet machine
PREPARE_GUESS = 45.0  # of them, before this worker has prepared a version
# Stage that training reports -> state of the job, and where its part of the bar begins and ends.
STAGES = {
    "classifier": ("training", 0.10, 0.50),
    "refiner": ("training", 0.50, 0.85),
    "evaluating": ("evaluating", 0.85, 0.95),
    "saving": ("evaluating", 0.95, 0.97),
}
FETCHED, TRAINED = 0.10, 0.97  # of the bar: between them a training whose time is known fills it evenly
ACCEPTED = "accepted.json"  # beside a version's card: the annotations that it learnt from, by task


class Project(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used here."""

    def project(self, project_id: str) -> Mapping[str, Any]:
        """The project's settings, `label_config` among them."""

    def export(self, project_id: str) -> list[dict[str, Any]]:
        """Tasks with their annotations."""

    def prediction(self, prediction_id: int) -> Mapping[str, Any]:
        """A stored prediction."""


@dataclass(frozen=True)
class Plan:
    """Configuration of trainings.

    Attributes:
        preset: size of a training.
        minutes: time budget.
        device: cpu, cuda, cuda:N or auto.
        processes: that share each batch; None for one on each GPU with cuda and auto, and for one otherwise.
        min_accepted: accepted tasks that a training needs.
        group_field: field of the tasks' data that names the group of each; None looks for one.
        spare_seconds: for reading data, evaluating and saving, on slow machines too.
    """

    preset: str = "fast"
    minutes: float = 10.0
    device: str = "cpu"
    processes: int | None = None
    min_accepted: int = 4
    group_field: str | None = None
    spare_seconds: float = 3600.0

    @property
    def limit_seconds(self) -> float:
        """Time after which a training is considered hung and killed."""
        return self.minutes * 60 * 3 + self.spare_seconds


class PresentImages:
    """A project's images, as long as Label Studio, the project and the key are there.

    A version is not to learn from what came before one of them went, with the rest called unusable.

    Args:
        images: loads them.
        ask: asks Label Studio for the project.
    """

    def __init__(self, images: ImageLoader, ask: Callable[[], object]) -> None:
        self._images, self._ask = images, ask

    def load(self, task: Mapping[str, Any], image_key: str) -> RgbImage:
        """As `ImageLoader.load`; raises LabelStudioError where no image would come."""
        try:
            return self._images.load(task, image_key)
        except ImageError as error:
            cause = error.__cause__
            if not isinstance(cause, LabelStudioError):
                raise
            self._ask()
            if not away(cause):
                raise
        return self._images.load(task, image_key)  # it is back


class TrainingWork:
    """The work of training jobs, as the worker sees it. Safe to share between the worker's threads.

    Args:
        registry: where versions are published.
        starter: checkpoint that a project's first version starts from; None for none.
        client: gives the Label Studio of a project.
        images: gives the image loader of a project.
        plan: configuration of trainings.
        learned: called with the project and its exported tasks when a training begins to learn from them.
        command: starts the training process; the path of its specification is appended.
        prepare: gives the command that makes of a version's folder what this machine's server needs to serve it, so
            that no request waits for it; None where nothing is to be made. A candidate is prepared by the server, if
            it is promoted.
    """

    def __init__(
        self,
        registry: Registry,
        starter: Path | None,
        client: Callable[[str], Project],
        images: Callable[[str], ImageLoader],
        plan: Plan,
        learned: Callable[[str, Sequence[Mapping[str, Any]]], None] = lambda project, tasks: None,
        command: Sequence[str] = COMMAND,
        prepare: Callable[[Path], Sequence[str]] | None = None,
    ) -> None:
        self._registry = registry
        self._starter = starter
        self._client = client
        self._images = images
        self._plan = plan
        self._learned = learned
        self._command = command
        self._prepare = prepare
        self._prepare_seconds = 0.0 if prepare is None else PREPARE_GUESS

    def do(self, attempt: Attempt) -> str:
        """Fetch, train, publish and perhaps promote; a job that was trained already is only published."""
        job, checkpoint = attempt.job, attempt.folder / "checkpoint"
        trained = "promote" in job.metrics and job.version is not None
        if not trained or not (self._published(job) or (checkpoint / CARD).is_file()):
            shutil.rmtree(attempt.folder)  # files of an interrupted attempt
            attempt.folder.mkdir()
            job = self._train(attempt)
        return self._publish(attempt, job, checkpoint)

    def _train(self, attempt: Attempt) -> Job:
        """Train; returns the job with its version and metrics."""
        job, folder = attempt.job, attempt.folder
        report = self._fetch(attempt, folder / "data")
        if report.used < self._plan.min_accepted:
            raise JobError(too_few(job.project, report.used, self._plan.min_accepted, _left_out(report)))
        current = self._registry.current(job.project)
        parent = current.directory if current is not None else self._starter
        card = read_card(parent) if parent is not None else None
        backbone = card.backbone if card is not None else None
        if (
            current is None
            and card is not None
            and backbone == PACKAGED
            and report.classes.keys().isdisjoint(card.classes)
        ):
            parent = None  # it knows none of the classes: ImageNet weights, at hand, know more of them
        if job.version is not None:  # of an attempt that was killed
            self._registry.give_back(job.project, job.version)
        version = self._registry.reserve(job.project, backbone)
        try:
            attempt.say(state="training", version=version, metrics={}, message=f"training {version}")
            command = [*self._command, str(self._specification(folder, parent, backbone, version, report.as_drawn))]
            result = attempt.process(command, _Stages(attempt, self._prepare_seconds), self._plan.limit_seconds)
        except (BackendError, OSError):
            self._registry.give_back(job.project, version)
            raise
        metrics = {"new": result.get("metrics"), "parent": result.get("parent_metrics")}
        metrics |= {"promote": bool(result.get("promote")), "verdict": str(result.get("reason") or "")}
        metrics["evidence"] = result.get("evidence") or {}
        shutil.copyfile(folder / ACCEPTED, folder / "checkpoint" / ACCEPTED)
        return replace(job, version=version, metrics=metrics)

    def _publish(self, attempt: Attempt, job: Job, checkpoint: Path) -> str:
        """Publish the new version. From here on the job cannot be cancelled, and it is finished after a crash."""
        message = f"publishing {job.version}"
        attempt.say(state="publishing", progress=0.97, message=message, metrics=job.metrics)
        info = self._published(job) or self._publish_once(attempt, job, checkpoint)
        if job.metrics["promote"]:
            self._prepared(attempt, info)
        verdict = f": {job.metrics['verdict']}" if job.metrics["verdict"] else ""
        evidence = job.metrics.get("evidence") or {}
        verdict += f"; {evidence['missing']}" if evidence.get("missing") else ""
        verdict += f". {doubts}" if (doubts := class_doubts(evidence)) else ""
        if not job.metrics["promote"]:
            return f"{info.version} stays a candidate{verdict}"
        current = self._registry.current(job.project)
        if current is None or current.version != info.version:
            self._registry.promote(job.project, info.version, attempt.fence)
        return f"{info.version} was promoted{verdict}"

    def _publish_once(self, attempt: Attempt, job: Job, checkpoint: Path) -> VersionInfo:
        try:
            return self._registry.publish(job.project, checkpoint, attempt.fence)
        except RegistryError:
            # A worker that had the job before may have held the lock, paused, and published it only now.
            if (info := self._published(job)) is None:
                raise
            return info

    def _prepared(self, attempt: Attempt, info: VersionInfo) -> None:
        """Have made what serves the version fast on this machine; it is served without that, too."""
        if self._prepare is None:
            return
        message = f"converting the networks of {info.version} for this machine"
        attempt.say(message=message, eta=self._prepare_seconds)
        begun = time.monotonic()
        try:
            held = info.fetch()  # until the end: copies that nobody holds may be removed
            attempt.process(self._prepare(held.path), lambda report: None, PREPARE_SECONDS)
            self._prepare_seconds = time.monotonic() - begun
        except JobInterrupted:
            raise
        except (JobError, StoreError) as error:
            attempt.log(f"{info.version} is not prepared for serving ({error}); the server does it when it loads it")

    def _published(self, job: Job) -> VersionInfo | None:
        """The job's version, if it is in the registry already."""
        return next((info for info in self._registry.versions(job.project) if info.version == job.version), None)

    def _fetch(self, attempt: Attempt, data: Path) -> AcceptedReport:
        """Write the project's accepted annotations as a data folder."""
        job = attempt.job
        attempt.say(message="fetching accepted annotations from Label Studio")
        client = self._client(job.project)
        project = client.project(job.project)
        title = str(project.get("title") or "")
        attempt.say(report={"title": title})  # by which people are told, if it fails
        config = parse_label_config(project["label_config"])
        if not config.training_classes:
            raise JobError("the labelling config names no class that could be learnt; write labels into it")
        tasks = client.export(job.project)
        self._learned(job.project, tasks)
        write_json(attempt.folder / ACCEPTED, stamps_of(tasks))
        if (accepted := accepted_in(tasks)) < self._plan.min_accepted:  # said before thousands of images are fetched
            raise JobError(too_few(job.project, accepted, self._plan.min_accepted))
        begun, ahead = time.monotonic(), self._plan.minutes * 60 + self._prepare_seconds
        attempt.say(progress=0.02, eta=ahead, message=f"fetching {_count(len(tasks), 'annotated task')}")

        def counted() -> Iterator[Mapping[str, Any]]:
            for done, task in enumerate(tasks):
                seconds = (time.monotonic() - begun) / done * (len(tasks) - done) if done else 0.0
                attempt.say(progress=0.02 + 0.08 * done / len(tasks), eta=seconds + ahead)
                yield task

        report = write_data_folder(
            counted(),
            config,
            PresentImages(self._images(job.project), lambda: client.project(job.project)),
            data,
            lambda made: parent_prediction(made, client.prediction),
            group_field=group_field((task.get("data") for task in tasks), self._plan.group_field),
        )
        for line in report.text.splitlines():
            attempt.log(line)
        # What was left out is in the folder and, counted, in `dropped`: a project may have thousands of such tasks.
        kept = asdict(replace(report, left_out=[], as_drawn=[])) | {"as_drawn": len(report.as_drawn)}
        if untold := kept.pop("untold"):
            kept[CUT_OFF] = {"problems": untold}
        attempt.say(report=kept | {"title": title, "colours": dict(config.colours)})
        return report

    def _specification(
        self, folder: Path, parent: Path | None, backbone: str | None, version: str, as_drawn: Sequence[str]
    ) -> Path:
        path = folder / "specification.json"
        write_json(
            path,
            {
                "data": str(folder / "data"),
                "out": str(folder / "checkpoint"),
                "parent": None if parent is None else str(parent),
                "preset": self._plan.preset,
                "minutes": self._plan.minutes,
                "device": self._plan.device,
                "processes": self._plan.processes,
                "backbone": backbone or "auto",
                "name": version,
                "as_drawn": as_drawn,
            },
        )
        return path


def preparing(settings: Settings, device: str) -> Callable[[Path], Sequence[str]] | None:
    """What a published version is prepared by for the server of these settings; None where nothing is to be done."""
    if settings.runtime == "pytorch" or device != "cpu":
        return None
    threads = [] if settings.torch_threads is None else ["--threads", str(settings.torch_threads)]
    return lambda folder: [*PREPARING, str(folder), "--runtime", settings.runtime, *threads]


def class_doubts(evidence: Mapping[str, Any]) -> str:
    """The classes that a version draws too weakly to help, and those that nothing has measured, in a sentence.

    >>> class_doubts({"classes": {"a": {"state": "measured"}, "b": {"state": "weak", "iou": 0.24}}})
    'Weak: b (IoU 0.24)'
    """
    classes = (evidence.get("classes") or {}).items()
    weak = [
        f"{label} (IoU {found['iou']:.2f})" if found.get("iou") is not None else label
        for label, found in classes
        if found["state"] == "weak"
    ]
    unmeasured = [label for label, found in classes if found["state"] == "not measured"]
    parts = [f"Weak: {', '.join(weak)}"] if weak else []
    parts += [f"Not measured: {', '.join(unmeasured)}"] if unmeasured else []
    return ". ".join(parts)


class _Stages:
    """Records the reports of a training; the bar never goes back, though some stages come twice.

    Args:
        attempt: where they are recorded.
        after: seconds that follow the training itself.
    """

    def __init__(self, attempt: Attempt, after: float = 0.0) -> None:
        self._attempt, self._after, self._progress = attempt, after, 0.0

    def __call__(self, report: Mapping[str, Any]) -> None:
        stage = STAGES.get(str(report.get("stage")))
        if stage is None:
            return
        state, begin, end = stage
        done, total = float(report.get("done") or 0), float(report.get("total") or 0)
        reached = begin + (end - begin) * min(done / total, 1.0) if total > 0 else begin
        left, spent, eta = report.get("left"), report.get("spent"), dict[str, float]()
        if isinstance(left, int | float) and isinstance(spent, int | float):
            eta = {"eta": float(left) + self._after}
            if left + spent > 0:
                reached = FETCHED + (TRAINED - FETCHED) * spent / (spent + left)
        self._progress = max(self._progress, round(reached, 4))
        figures = report.get("metrics")
        self._attempt.say(
            state=state,
            progress=self._progress,
            message=str(report.get("message") or ""),
            figures=figures if isinstance(figures, dict) else {},
            **eta,
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _left_out(report: AcceptedReport) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
