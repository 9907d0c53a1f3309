"""Carries over what an earlier release kept in the data folder: `records.sqlite` and `credentials.json`.

That release kept JSON documents, and its words are old ones: "wanted" is requested, "firm" is committed, and the first
release's "annotation" is a prediction job.
"""

import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import Connection, Table, insert

from backend.database.credentials import Credentials
from backend.database.engine import Database, insert_into
from backend.database.jobs import PREDICTION, Job, insert_new
from backend.database.leases import recount, task_number
from backend.database.tables import LEARNED, LEASES, LINES, NOTES
from backend.errors import DatabaseError
from models.documents import first_problem, read_json
from models.errors import brief

logger = logging.getLogger(__name__)

RECORDS, CREDENTIALS = "records.sqlite", "credentials.json"
DONE = ".carried-over"  # ending of the file once the database has everything
BATCH = 1000
TOKENS_AGAIN = "Label Studio's next /setup sends its tokens again"
TOLD = 20  # documents that cannot be read and are named, of each file

Document = TypeVar("Document", bound=BaseModel)


class _Old(BaseModel):
    """A document of that release; what it held besides is not needed any more."""

    model_config = ConfigDict(allow_inf_nan=False)


class _Job(_Old):
    id: str
    kind: Literal["training", "prediction", "annotation"]
    project: str
    state: Literal[
        "queued", "fetching", "training", "evaluating", "publishing", "predicting", "annotating",
        "done", "failed", "cancelled",
    ]  # fmt: skip
    created: float
    updated: float
    started: float | None = None
    progress: float = 0.0
    eta: float | None = None
    message: str = ""
    reason: str = ""
    version: str | None = None
    figures: dict[str, Any] = {}
    report: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    worker: str | None = None
    process: str | None = None
    beat: float = 0.0
    restarts: int = Field(0, ge=0, lt=1 << 31)


class _Lease(_Old):
    wanted: bool
    holder: str
    firm: bool
    version: str
    until: float


class _Learned(_Old):
    annotations: str


class _Note(_Old):
    since: float
    at: float


class _Token(_Old):
    url: str
    api_key: str


TOKENS = TypeAdapter(dict[str, Any])


def carry_over(database: Database, credentials: Credentials, folder: Path) -> None:
    """Take over an earlier release's jobs, logs, leases, notes and tokens; run again after a kill, it does so once.

    A document that cannot be read is passed over and named in the log; the file of jobs stays, under another name.

    Args:
        database: of this release.
        credentials: kept in it.
        folder: the data folder.

    Raises:
        DatabaseError: the file of jobs is no database of that release, or the new database cannot be used.
    """
    records, tokens = folder / RECORDS, folder / CREDENTIALS
    if not records.exists() and not tokens.exists():
        return
    with FileLock(folder / f"{RECORDS}.lock"):  # the earlier release's own
        if records.exists():
            _carry_records(database, records)
        if tokens.exists():
            _carry_tokens(credentials, tokens)


class _Unreadable:
    """The documents of a file that cannot be read: each is passed over, and the first are named.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0

    def read(self, what: str, document: Any, kind: type[Document]) -> Document | None:
        """A document, None if it is not of that kind; `what` names it."""
        try:
            content = json.loads(document) if isinstance(document, str | bytes) else document
            return kind.model_validate(content)
        except ValidationError as error:
            self.note(what, first_problem(error))
        except (ValueError, RecursionError) as error:
            self.note(what, f"{type(error).__name__}: {error}")
        return None

    def note(self, what: str, why: str) -> None:
        """Pass something over."""
        self._count += 1
        if self._count <= TOLD:
            logger.error("%s in %s of an earlier release cannot be read and is passed over: %s", what, self._path, why)

    def sum_up(self, where: str) -> None:
        """Say how many there were, and where they still are."""
        if self._count:
            logger.error("%d entries of %s were passed over; %s", self._count, self._path, where)


def _carry_records(database: Database, path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.text_factory = lambda text: text.decode("utf-8", "replace")
            documents = connection.execute("select collection, name, document from documents").fetchall()
            lines = connection.execute("select log, line from lines order by number").fetchall()
    except sqlite3.Error as error:
        raise DatabaseError(
            f"the jobs of the earlier release in {path} cannot be carried over: {type(error).__name__}: {error}",
            f"restore a copy, or move it away (mv {path} {path}.corrupt): jobs begin again then",
        ) from error
    unreadable = _Unreadable(path)
    jobs = sorted(_jobs(documents, unreadable), key=lambda job: job.created)
    others = list(_rows(documents, unreadable))

    def work(connection: Connection) -> int:
        # What is there already was carried over before a kill.
        new = {job.id for job in jobs if insert_new(connection, job)}
        if kept := [{"job": job, "line": str(line)} for job, line in lines if job in new]:
            connection.execute(insert(LINES), kept)
        for table, rows in others:
            connection.execute(insert_into(connection, table).on_conflict_do_nothing(), rows)
        for project in {row["project"] for table, rows in others if table is LEASES for row in rows}:
            recount(connection, project)
        return len(new)

    count = database.change(work)
    done = path.with_name(path.name + DONE)
    path.replace(done)
    unreadable.sum_up(f"they are kept in {done}")
    logger.info("%d jobs of an earlier release were carried over from %s", count, path)


def _jobs(documents: Iterable[tuple[Any, Any, Any]], unreadable: _Unreadable) -> Iterator[Job]:
    for collection, name, document in documents:
        if collection == "jobs" and (row := unreadable.read(f"job {brief(name)}", document, _Job)) is not None:
            kind = PREDICTION if row.kind == "annotation" else row.kind
            state = "predicting" if row.state == "annotating" else row.state
            yield Job(**row.model_dump() | {"kind": kind, "state": state})


def _rows(
    documents: Iterable[tuple[Any, Any, Any]], unreadable: _Unreadable
) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """The rows of the other tables, some at a time."""
    rows: dict[Table, list[dict[str, Any]]] = {LEASES: [], LEARNED: [], NOTES: []}
    for collection, name, document in documents:
        kind, _, project = str(collection).partition(":")
        name, what = str(name), f"{brief(name)} of {brief(collection)}"
        if kind == "tasks" and (lease := unreadable.read(what, document, _Lease)) is not None:
            rows[LEASES].append(_lease(project, name, lease))
        elif kind == "learned" and (learned := unreadable.read(what, document, _Learned)) is not None:
            rows[LEARNED].append({"project": project, "task": name, "annotations": learned.annotations})
        elif kind == "noted" and (note := unreadable.read(what, document, _Note)) is not None:
            rows[NOTES].append({"project": name, "since": note.since, "at": note.at})
    for table, all_rows in rows.items():
        for begin in range(0, len(all_rows), BATCH):
            yield table, all_rows[begin : begin + BATCH]


def _lease(project: str, task: str, row: _Lease) -> dict[str, Any]:
    return {
        "project": project,
        "task": task,
        "number": task_number(task),
        "requested": row.wanted,
        "holder": row.holder,
        "committed": row.firm,
        "version": row.version,
        "expires": row.until,
    }


def _carry_tokens(credentials: Credentials, path: Path) -> None:
    try:
        entries = read_json(path, TOKENS)
    except ValueError as error:
        logger.error("%s is damaged and ignored: %s; %s", path, error, TOKENS_AGAIN)
        path.replace(path.with_name(path.name + DONE))
        return
    unreadable = _Unreadable(path)
    for project, entry in entries.items():
        if (token := unreadable.read(f"the token of project {brief(project)}", entry, _Token)) is not None:
            credentials.remember(project, token.url, token.api_key)
    path.unlink()  # in it they are not encrypted
    unreadable.sum_up(TOKENS_AGAIN)
