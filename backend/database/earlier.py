"""Carries over what an earlier release kept in the data folder: `records.sqlite` and `credentials.json`.

That release kept JSON documents, and its words are old ones: "wanted" is requested, "firm" is committed, and the first
release's "annotation" is a prediction job.
"""

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import TypeAdapter
from sqlalchemy import Connection, Table, insert
from typing_extensions import TypedDict

from backend.database.credentials import Credentials
from backend.database.engine import Database, insert_into
from backend.database.jobs import PREDICTION, Job, insert_new
from backend.database.leases import task_number
from backend.database.tables import LEARNED, LEASES, LINES, NOTES
from backend.errors import DatabaseError
from models.documents import read_json

logger = logging.getLogger(__name__)

RECORDS, CREDENTIALS = "records.sqlite", "credentials.json"
DONE = ".carried-over"  # ending of the file once the database has everything
NAMES = {one.name for one in fields(Job)}
BATCH = 1000


class _Token(TypedDict):
    url: str
    api_key: str


TOKENS = TypeAdapter(dict[str, _Token])


def carry_over(database: Database, credentials: Credentials, folder: Path) -> None:
    """Take over an earlier release's jobs, logs, leases, notes and tokens; run again after a kill, it does so once.

    Args:
        database: of this release.
        credentials: kept in it.
        folder: the data folder.

    Raises:
        DatabaseError: the old files cannot be read, or the database cannot be used.
    """
    records, tokens = folder / RECORDS, folder / CREDENTIALS
    if not records.exists() and not tokens.exists():
        return
    with FileLock(folder / f"{RECORDS}.lock"):  # the earlier release's own
        if records.exists():
            _carry_records(database, records)
        if tokens.exists():
            _carry_tokens(credentials, tokens)


def _carry_records(database: Database, path: Path) -> None:
    try:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            documents = connection.execute("select collection, name, document from documents").fetchall()
            lines = connection.execute("select log, line from lines order by number").fetchall()
        found = [(table, name, json.loads(document)) for table, name, document in documents]
        jobs = sorted((_job(row) for table, _, row in found if table == "jobs"), key=lambda job: job.created)
        others = list(_rows(found))
    except (sqlite3.Error, ValueError, KeyError, TypeError) as error:
        raise DatabaseError(
            f"the jobs of the earlier release in {path} cannot be carried over: {type(error).__name__}: {error}",
            f"restore a copy, or move it away (mv {path} {path}.corrupt): jobs begin again then",
        ) from error

    def work(connection: Connection) -> int:
        # What is there already was carried over before a kill.
        new = {job.id for job in jobs if insert_new(connection, job)}
        if kept := [{"job": job, "line": line} for job, line in lines if job in new]:
            connection.execute(insert(LINES), kept)
        for table, rows in others:
            connection.execute(insert_into(connection, table).on_conflict_do_nothing(), rows)
        return len(new)

    count = database.change(work)
    path.replace(path.with_name(path.name + DONE))
    logger.info("%d jobs of an earlier release were carried over from %s", count, path)


def _rows(found: list[tuple[str, str, dict[str, Any]]]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
    """The rows of the other tables, some at a time."""
    rows: dict[Table, list[dict[str, Any]]] = {LEASES: [], LEARNED: [], NOTES: []}
    for collection, name, document in found:
        kind, _, project = collection.partition(":")
        if kind == "tasks":
            rows[LEASES].append(_lease(project, name, document))
        elif kind == "learned":
            rows[LEARNED].append({"project": project, "task": name, "annotations": document["annotations"]})
        elif kind == "noted":
            rows[NOTES].append({"project": name, "since": document["since"], "at": document["at"]})
    for table, all_rows in rows.items():
        for begin in range(0, len(all_rows), BATCH):
            yield table, all_rows[begin : begin + BATCH]


def _lease(project: str, task: str, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "project": project,
        "task": task,
        "number": task_number(task),
        "requested": row["wanted"],
        "holder": row["holder"],
        "committed": row["firm"],
        "version": row["version"],
        "expires": row["until"],
    }


def _job(row: dict[str, Any]) -> Job:
    known = {name: value for name, value in row.items() if name in NAMES}
    if known["kind"] == "annotation":
        known["kind"] = PREDICTION
    if known["state"] == "annotating":
        known["state"] = "predicting"
    return Job(**known)


def _carry_tokens(credentials: Credentials, path: Path) -> None:
    try:
        entries = read_json(path, TOKENS)
    except ValueError as error:
        logger.error("%s is damaged and ignored: %s; Label Studio's next /setup sends its tokens again", path, error)
        path.replace(path.with_name(path.name + DONE))
        return
    for project, entry in entries.items():
        credentials.remember(project, entry["url"], entry["api_key"])
    path.unlink()  # in it they are not encrypted
