"""Jobs and versions as JSON for people and scripts; nothing in it is secret."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from backend.jobs.store import Job
from backend.registry import Registry, VersionInfo
from backend.serving import Serving
from models.errors import CheckpointError


def job_report(job: Job) -> dict[str, Any]:
    """A job, without what only workers need."""
    report = asdict(job)
    for name in ("worker", "process", "beat"):
        del report[name]
    return report | {name: _iso(report[name]) for name in ("created", "updated", "started")}


def version_report(info: VersionInfo) -> dict[str, Any]:
    """A version with what training wrote about it; "error" instead where that cannot be read."""
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
    }


def project_report(registry: Registry, serving: Serving, project: str) -> dict[str, Any]:
    """A project's versions.

    Returns:
        `current`: the version that should be served, None for the starter; `serving`: those that answer right now,
        which is the one before while a new one loads.
    """
    current = registry.current(project)
    return {
        "project": project,
        "current": None if current is None else current.version,
        "serving": serving.active(project),
        "versions": [version_report(info) for info in registry.versions(project)],
    }


def _iso(stamp: float | None) -> str | None:
    return None if stamp is None else datetime.fromtimestamp(stamp, UTC).isoformat(timespec="seconds")
