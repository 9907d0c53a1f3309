"""Jobs and versions as JSON for people and scripts; nothing in it is secret."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from backend.database.jobs import Job
from backend.errors import RegistryError
from backend.versions.registry import Registry, VersionInfo, version_number
from backend.versions.serving import Serving
from models.checkpoint import Metrics
from models.documents import Figure, Part
from models.errors import CheckpointError

MAX_JOBS = 1000  # that are looked through for what became of trainings


class _Accepted(Part):
    drawn: int
    iou: Figure = None
    unchanged: int
    added: int


class _Report(Part):
    title: str | None = None
    used: int | None = None
    classes: dict[str, int] | None = None
    acceptance: dict[str, dict[str, _Accepted]] | None = None
    kept: dict[str, dict[str, _Accepted]] | None = None  # what earlier releases call it
    cut_off: dict[str, int] | None = None


class _Measured(Part):
    new: Metrics | None = None
    parent: Metrics | None = None


def readable(job: Job) -> Job:
    """A job without what pages could not read: records of other releases, or of processes that printed nonsense."""
    return replace(
        job,
        report=_checked(_Report, job.report),
        metrics=_checked(_Measured, job.metrics),
        figures=job.figures if isinstance(job.figures, dict) else {},
    )


def _checked(kind: type[Part], content: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return kind.model_validate(content).model_dump(exclude_unset=True)
    except (ValidationError, RecursionError):
        return {}


def job_report(job: Job) -> dict[str, Any]:
    """A job, without what only workers need."""
    report = asdict(job)
    for name in ("worker", "process", "beat"):
        del report[name]
    return report | {name: _iso(report[name]) for name in ("created", "updated", "started")}


def version_report(info: VersionInfo, training: Job | None = None) -> dict[str, Any]:
    """A version with what training wrote about it; "error" instead where that cannot be read.

    Returns:
        `metrics` are its figures on the tasks held out at its training, and `before` those of the version that was
        served then, on the same tasks; None if there was none or the training is no longer known.
    """
    report: dict[str, Any] = {"version": info.version, "state": info.state}
    try:
        card = info.card
    except CheckpointError as error:
        return report | {"error": str(error)}
    return report | {
        "created": card.created,
        "classes": card.classes,
        "backbone": card.backbone,
        "parent": card.parent,
        "data": card.data,
        "metrics": card.metrics,
        "before": None if training is None else training.metrics.get("parent"),
        "gallery": card.gallery,
        "evidence": card.training.get("evidence") or {},
    }


def project_report(registry: Registry, serving: Serving, jobs: Sequence[Job], project: str) -> dict[str, Any]:
    """A project's versions.

    Args:
        registry: model versions.
        serving: which of them answer right now.
        jobs: newest first; those of other projects do no harm.
        project: Label Studio's project id.

    Returns:
        `current`: the version that should be served, None for the starter; `serving`: those that answer right now,
        which is the one before while a new one loads; `error`: why the rest is missing, where it cannot be read.
    """
    report: dict[str, Any] = {"project": project, "serving": serving.active(project)}
    try:
        current, versions = registry.current(project), registry.versions(project)
    except RegistryError as error:
        return report | {"current": None, "versions": [], "error": str(error)}
    trainings = _trainings(jobs, project)
    return report | {
        "current": None if current is None else current.version,
        "versions": [version_report(info, trainings.get(info.version)) for info in versions],
    }


def history(registry: Registry, jobs: Sequence[Job], project: str) -> list[dict[str, Any]]:
    """A project's versions, oldest first, and those that were removed since, as far as their trainings are known.

    Args:
        registry: model versions.
        jobs: newest first; those of other projects do no harm.
        project: Label Studio's project id.
    """
    trainings = _trainings(jobs, project)
    reports = [version_report(info, trainings.get(info.version)) for info in registry.versions(project)]
    there = {report["version"] for report in reports}
    reports += [
        {
            "version": version,
            "state": "removed",
            "created": _iso(job.updated),
            "metrics": job.metrics.get("new") or {},
            "before": job.metrics.get("parent"),
            "accepted": job.report.get("used"),
            "evidence": job.metrics.get("evidence") or {},
        }
        for version, job in trainings.items()
        if version not in there
    ]
    return sorted(reports, key=lambda report: version_number(project, report["version"]) or 0)


def _trainings(jobs: Sequence[Job], project: str) -> dict[str, Job]:
    """The training of each version that was published."""
    done = [job for job in reversed(jobs) if job.project == project and job.state == "done" and job.kind == "training"]
    return {job.version: readable(job) for job in done if job.version is not None}


def _iso(stamp: float | None) -> str | None:
    return None if stamp is None else datetime.fromtimestamp(stamp, UTC).isoformat(timespec="seconds")
