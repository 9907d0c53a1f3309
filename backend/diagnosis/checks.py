"""Checks of this machine, each with a finding and a remedy: for /ready and `premask doctor`."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.database.engine import MAX_SKEW, Database
from backend.database.tables import REVISION
from backend.errors import BackendError
from backend.jobs.queue import JobQueue
from backend.system.loops import ALL, SILENT_SECONDS, LoopReport
from backend.versions.machines import met
from backend.versions.opening import identity_of
from backend.versions.serving import Serving
from backend.versions.store import Store
from models.checkpoint import read_card
from models.errors import ModelError

FINE, DOUBTFUL, BROKEN = "ok", "warning", "broken"
GIGABYTE = 1 << 30
MAX_TOLD = 5  # failing projects that a finding names
SCARCE, TOO_LITTLE = 5 * GIGABYTE, GIGABYTE // 2


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: the thing.
        state: FINE, DOUBTFUL or BROKEN.
        found: the finding.
        remedy: instructions, "" where there is nothing to do or `found` says what.
    """

    name: str
    state: str
    found: str
    remedy: str = ""

    def report(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def check(name: str, look: Callable[[], Check | str]) -> Check:
    """The finding of a look; an expected error is a finding too, with its remedy."""
    try:
        found = look()
    except (BackendError, ModelError) as error:
        return Check(name, BROKEN, error.cause, error.remedy)
    return Check(name, FINE, found) if isinstance(found, str) else found


def data_folder(folder: Path) -> Check:
    """Whether the data folder can be written to and has room for another version."""
    name = "data folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        remedy = f"make room, or run `chown -R {os.getuid()} {folder}`, or choose another folder by PREMASK_DATA_DIR"
        return Check(name, BROKEN, f"{folder} cannot be written to: {error.strerror}", remedy)
    found = f"{folder}, {free / GIGABYTE:.1f} GiB free"
    if free < SCARCE:
        state = BROKEN if free < TOO_LITTLE else DOUBTFUL
        return Check(name, state, found, "make room: a training needs some GiB, and job records need some MiB always")
    return Check(name, FINE, found)


def database(opened: Database) -> Check | str:
    """Whether the database can be written to, and whether its clock is this machine's."""
    opened.change(lambda connection: None)
    ahead = opened.skew()
    if abs(ahead) > MAX_SKEW:
        found = (
            f"{opened.name}, whose clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"
        )
        return Check(
            "database",
            DOUBTFUL,
            found,
            "set both by NTP: premask goes by the database's, and the times in this machine's logs are others",
        )
    return revision(opened)


def revision(opened: Database) -> str:
    """Whether the database can be read, and is still of this release: another may have been started beside it."""
    opened.check()
    return f"{opened.name}, revision {REVISION}"


def store(opened: Database, versions: Store) -> Check | str:
    """Whether the store of versions can be written to and is the database's, and whether other machines use both."""
    name = "store of versions"
    versions.check()
    identity, bound = identity_of(opened)
    if not bound or versions.identity() != identity:
        remedy = "name the same PREMASK_MODELS_URL and PREMASK_DATABASE_URL on every machine, then restart"
        return Check(name, BROKEN, f"{versions.name} is not the one that {opened.name} belongs to ({identity})", remedy)
    others = met(opened, versions)
    if others.other_store:
        found = f"{_few(others.other_store)} use this database and another store than {versions.name}"
        return Check(name, BROKEN, found, "name the same PREMASK_MODELS_URL on every machine, then restart them")
    if others.other_database:
        found = f"{_few(others.other_database)} use the store {versions.name} and another database"
        return Check(name, BROKEN, found, "name the same PREMASK_DATABASE_URL on every machine, then restart them")
    shared = f", shared with {_few(others.together)}" if others.together else ""
    return f"{versions.name}, identity {identity}{shared}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_TOLD} more" if len(names) > MAX_TOLD else ""
    return ", ".join(names[:MAX_TOLD]) + more


def queue(jobs: JobQueue) -> str:
    """Whether jobs can be queued and looked up."""
    waiting = jobs.waiting()
    jobs.store.find(limit=1)
    return f"reachable, {waiting} jobs wait"


def loops(reports: Sequence[LoopReport]) -> Check:
    """Whether the loops that look after projects go round, and which projects fail in them."""
    name = "loops over projects"
    silent = [report for report in reports if time.time() - report.at > SILENT_SECONDS]
    failing = [
        f"{report.name}: {'a round' if project == ALL else f'project {project}'}: {reason}"
        for report in reports
        for project, reason in report.reasons.items()
    ]
    if silent:
        found = ", ".join(f"{one.name} (process {one.process})" for one in silent)
        return Check(name, BROKEN, f"no news for {SILENT_SECONDS / 60:.0f} minutes of {found}", "restart that process")
    if failing:
        more = f"; and {len(failing) - MAX_TOLD} more" if len(failing) > MAX_TOLD else ""
        remedy = "each is tried again by itself; other projects go on meanwhile"
        return Check(name, DOUBTFUL, "; ".join(failing[:MAX_TOLD]) + more, remedy)
    return Check(name, FINE, ", ".join(sorted({report.name for report in reports})) or "none runs now")


def model(serving: Serving, starter: Path | None) -> Check:
    """Whether there is something to predict with: loaded already, or to be loaded by the first prediction."""
    name, loaded = "model", ", ".join(serving.loaded())
    if serving.warming:
        return Check(name, BROKEN, f"being loaded; in memory: {loaded or 'none'}", "wait some seconds")
    if failed := serving.failed():
        remedy = "restore their folders, or promote another version"
        found = f"{', '.join(failed)} cannot be loaded; in memory: {loaded or 'none'}"
        return Check(name, DOUBTFUL if loaded else BROKEN, found, remedy)
    if loaded or starter is None:
        return Check(name, FINE, f"in memory: {loaded}" if loaded else "none yet: projects train theirs")
    return Check(name, FINE, f"{read_card(starter).name}, not in memory before the first prediction")
