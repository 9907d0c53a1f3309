"""The review job: accepted annotations against models that have not learnt them; what disagrees is queued for a lead.

Each accepted image is judged by the served version or, where that has learnt it, by the newest version that has not, or
by the starter. A version has not learnt what was accepted after its training, and what it held out. What every version
has learnt is judged by the served one all the same, and said so: a network that is trained for minutes learns few wrong
masks by heart.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from backend.database.reviews import Doubt, Reviews
from backend.errors import BackendError, JobError
from backend.jobs.automatic import stamps_of
from backend.jobs.running import Attempt
from backend.jobs.training import ACCEPTED, PresentImages
from backend.label_studio.annotations import write_data_folder
from backend.label_studio.images import ImageLoader
from backend.label_studio.label_config import parse_label_config
from backend.system.files import write_json
from backend.versions.registry import Registry, VersionInfo
from models.checkpoint import read_card
from models.errors import CheckpointError

COMMAND = (sys.executable, "-m", "backend.entrypoints.review_job")
FETCHED = 0.3  # of the bar


class Project(Protocol):
    """The part of `backend.label_studio.client.LabelStudio` that is used here."""

    def project(self, project_id: str) -> Mapping[str, Any]:
        """The project's settings, `label_config` among them."""

    def export(self, project_id: str) -> list[dict[str, Any]]:
        """Tasks with their annotations."""


class Checkpoint(Protocol):
    """The part of `backend.versions.registry.VersionInfo` that is used here."""

    @property
    def directory(self) -> Path:
        """The checkpoint on this machine, which stays there as long as this object does."""


@dataclass(frozen=True)
class _Shipped:
    directory: Path


@dataclass(frozen=True, eq=False)
class Reviewer:
    """A model that may judge.

    Attributes:
        name: the version.
        checkpoint: says where it lies; versions that judge nothing are not fetched.
        classes: that it knows.
        accepted: task -> annotations that its training was given.
        held_out: names of images that its training held out.
    """

    name: str
    checkpoint: Checkpoint
    classes: frozenset[str]
    accepted: Mapping[str, str]
    held_out: frozenset[str]

    def has_learnt(self, image: str, task: str, annotations: str) -> bool:
        """Whether it learnt what was accepted of an image."""
        return self.accepted.get(task) == annotations and image not in self.held_out


class ReviewWork:
    """The work of review jobs, as the worker sees it. Safe to share between the worker's threads.

    Args:
        registry: versions, which judge.
        starter: checkpoint that judges what they have learnt; None for none.
        client: gives the Label Studio of a project.
        images: gives the image loader of a project.
        reviews: the queue.
        device: cpu or cuda.
        command: starts the process; the path of its specification is appended.
    """

    def __init__(
        self,
        registry: Registry,
        starter: Path | None,
        client: Callable[[str], Project],
        images: Callable[[str], ImageLoader],
        reviews: Reviews,
        device: str = "cpu",
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._registry, self._starter, self._client, self._images = registry, starter, client, images
        self._reviews, self._device, self._command = reviews, device, command

    def do(self, attempt: Attempt) -> str:
        """Fetch what is accepted, have it judged, and fill the queue; returns how many tasks are in it."""
        project = attempt.job.project
        attempt.say(state="fetching", message="fetching accepted annotations from Label Studio")
        client = self._client(project)
        config = parse_label_config(client.project(project)["label_config"])
        tasks, data = client.export(project), attempt.folder / "data"
        stamps = stamps_of(tasks)

        def counted() -> Iterable[Mapping[str, Any]]:
            for done, task in enumerate(tasks, 1):
                yield task
                attempt.say(progress=FETCHED * done / len(tasks))

        images = PresentImages(self._images(project), lambda: client.project(project))
        report = write_data_folder(counted(), config, images, data)
        if not report.images:
            raise JobError(f"project {project} has no accepted task that could be reviewed")
        names = [name for name in _names(data) if task_of(name) in stamps]
        reviewers = self._reviewers(project, config.training_classes)
        if not reviewers:
            raise JobError(
                f"no model knows the classes of project {project}, so nothing can disagree with what was accepted; "
                "train first"
            )
        plan = assign(names, stamps, reviewers)
        specification = attempt.folder / "review.json"
        write_json(specification, _specification(data, plan, self._device))
        attempt.say(state="evaluating", message=f"looking at {len(names)} accepted images")
        result = attempt.process([*self._command, str(specification)], lambda line: _say(attempt, line))
        doubts = doubts_of(result.get("findings") or [], stamps)
        waiting = self._reviews.replace(project, doubts, attempt.fence)
        return f"{len(names)} accepted images were looked at; {waiting} tasks are worth a second look"

    def _reviewers(self, project: str, classes: Collection[str]) -> list[Reviewer]:
        """The models that know a class of the project: what is served first, then the newest, the starter last."""
        infos = sorted(self._registry.versions(project), key=lambda info: (info.state != "served", -info.number))
        found = [_version(info) for info in infos]
        found += [_starter(self._starter)] if self._starter is not None else []
        return [one for one in found if one is not None and not one.classes.isdisjoint(classes)]


def assign(
    names: Sequence[str], stamps: Mapping[str, str], reviewers: Sequence[Reviewer]
) -> dict[tuple[Reviewer, bool], list[str]]:
    """Who judges which images, and whether the reviewer has learnt them.

    Args:
        names: of the images, as `write_data_folder` names them.
        stamps: task -> its annotations now.
        reviewers: at least one, the preferred ones first.
    """
    plan: dict[tuple[Reviewer, bool], list[str]] = defaultdict(list)
    for name in names:
        task = task_of(name)
        fresh = next((one for one in reviewers if not one.has_learnt(name, task, stamps[task])), None)
        plan[(fresh, False) if fresh is not None else (reviewers[0], True)].append(name)
    return dict(plan)


def doubts_of(found: Iterable[Mapping[str, Any]], stamps: Mapping[str, str]) -> list[Doubt]:
    """The findings of the process as doubts, the strongest of each task."""
    worst: dict[str, Doubt] = {}
    for one in found:
        task = task_of(one["image"])
        doubt = Doubt(
            task,
            stamps[task],
            one["image"].removeprefix(f"task-{task}").strip(),
            one["label"],
            one["kind"],
            float(one["suspicion"]),
            one["sentence"],
            one["version"],
            bool(one["learnt"]),
        )
        if task not in worst or doubt.suspicion > worst[task].suspicion:
            worst[task] = doubt
    return list(worst.values())


def task_of(image: str) -> str:
    """The task of an image, from its name.

    >>> task_of("task-12"), task_of("task-7 left, page 2")
    ('12', '7')
    """
    return image.split(" ", 1)[0].removeprefix("task-")


def _version(info: VersionInfo) -> Reviewer | None:
    try:
        card = info.card
    except CheckpointError:
        return None  # the versions' page says so
    try:
        accepted = json.loads(info.read(ACCEPTED))
    except (BackendError, ValueError):
        accepted = {}  # of an earlier release
    held_out = card.training.get("held_out") or ()
    return Reviewer(card.name, info, frozenset(card.classes), accepted, frozenset(held_out))


def _starter(directory: Path) -> Reviewer | None:
    try:
        card = read_card(directory)
    except CheckpointError:
        return None
    return Reviewer(card.name, _Shipped(directory), frozenset(card.classes), {}, frozenset())


def _names(data: Path) -> list[str]:
    from models.data.reader import open_data_folder

    return list(open_data_folder(data, skip_bad=True).samples)


def _specification(data: Path, plan: Mapping[tuple[Reviewer, bool], Sequence[str]], device: str) -> dict[str, Any]:
    parts = [
        {"version": one.name, "directory": str(one.checkpoint.directory), "learnt": learnt, "images": list(names)}
        for (one, learnt), names in plan.items()
    ]
    return {"data": str(data), "device": device, "parts": parts}


def _say(attempt: Attempt, line: Mapping[str, Any]) -> None:
    if line.get("stage") == "reviewing":
        done, total = int(line["done"]), int(line["total"])
        attempt.say(
            progress=FETCHED + (1 - FETCHED) * done / max(total, 1),
            message=f"{done} of {total} accepted images looked at",
            figures={"done": done, "total": total},
        )
