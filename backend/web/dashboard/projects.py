"""Projects as the pages know them: from their jobs, their versions and their credentials."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from backend.database.credentials import Credentials
from backend.database.jobs import ACTIVE, TRAINING, Job
from backend.errors import BackendError, UnknownVersion
from backend.jobs.outlook import WAIT_SECONDS, Outlooks
from backend.jobs.queue import JobQueue
from backend.versions.registry import Registry
from backend.versions.serving import Serving
from backend.web.reports import MAX_JOBS, history, job_report, readable

logger = logging.getLogger(__name__)


class Projects:
    """Looks projects up.

    Args:
        registry: model versions.
        serving: which of them answer right now.
        jobs: the job queue.
        credentials: knows the projects that have called, and where people find them.
        outlooks: what was accepted since the served version; None if it is not looked up.
    """

    def __init__(
        self,
        registry: Registry,
        serving: Serving,
        jobs: JobQueue,
        credentials: Credentials,
        outlooks: Outlooks | None = None,
    ) -> None:
        self._registry, self._serving, self._jobs, self._credentials = registry, serving, jobs, credentials
        self._outlooks = outlooks

    def summaries(self) -> list[dict[str, Any]]:
        """Every known project, by number; of one that cannot be shown only "error", so that the others are."""
        known, addresses = self._jobs.store.find(limit=MAX_JOBS), self._credentials.addresses()
        ordered = sorted(self._known(known, addresses), key=lambda project: (len(project), project))
        # Of many projects the page waits for none: what was looked up before is shown.
        wait = 1.0 if len(ordered) <= 3 else 0.0
        jobs: dict[str, list[Job]] = {project: [] for project in ordered}
        for job in known:
            jobs[job.project].append(job)
        return [self._summary_or_error(project, jobs[project], addresses, wait) for project in ordered]

    def summary(self, project: str) -> dict[str, Any]:
        """One project. Raises UnknownVersion if it is not known."""
        return self._summary(project, self.jobs_of(project), self._credentials.addresses(), WAIT_SECONDS)

    def jobs_of(self, project: str) -> list[Job]:
        """A project's jobs, newest first. Raises UnknownVersion if it is not known."""
        known = self._jobs.store.find(project, limit=MAX_JOBS)
        if project not in self._known(known, self._credentials.addresses()):
            raise UnknownVersion(
                f"project {project} is not known here; `premask connect --project {project}` introduces it"
            )
        return known

    def _known(self, jobs: Sequence[Job], addresses: Mapping[str, str]) -> set[str]:
        return {*self._registry.projects(), *(job.project for job in jobs), *addresses}

    def _summary_or_error(
        self, project: str, jobs: Sequence[Job], addresses: Mapping[str, str], wait: float
    ) -> dict[str, Any]:
        try:
            return self._summary(project, jobs, addresses, wait)
        except BackendError as error:
            reason = str(error)
        except Exception as error:
            logger.exception("project %s: its summary cannot be made", project)
            reason = f"{type(error).__name__}; the server's log says more"
        return {"id": project, "title": f"Project {project}", "error": reason}

    def _summary(self, project: str, jobs: Sequence[Job], addresses: Mapping[str, str], wait: float) -> dict[str, Any]:
        """The figures of both pages, from the project's jobs."""
        versions = history(self._registry, jobs, project)
        reports = [job_report(readable(job)) for job in jobs]
        current = self._registry.current(project)
        address = addresses.get(project)
        outlook = self._outlooks.of(project, wait) if self._outlooks is not None else None
        told = next((title for job in reports if (title := job["report"].get("title"))), "")
        title = (outlook.title if outlook is not None else "") or told
        return {
            "id": project,
            "title": title or f"Project {project}",
            "address": address and f"{address}/projects/{project}/data",
            "versions": versions,
            "served": next((v for v in versions if current is not None and v["version"] == current.version), None),
            "answering": self._serving.active(project),
            "outlook": outlook,
            "said": outlook.sentence if outlook else None,
            "rollback_target": self._registry.rollback_target(project),
            "jobs": reports,
            "active": [job for job in reports if job["state"] in ACTIVE],
            "last_training": next((job for job in reports if job["kind"] == TRAINING), None),
        }
