"""Takes over versions that lie in a store and that no database knows.

An earlier release kept what is served in a file of the project's folder, served.json, and a version's files at
project-3/p3-r001-lite0. Where a database was lost, its store is taken over the same way, without that file.
"""

import hashlib
import logging
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, insert

from backend.database.engine import insert_into
from backend.database.tables import NUMBERS, SERVED_BEFORE, VERSIONS
from backend.versions.registry import CANDIDATE, PROJECT, RETIRED, SERVED, row_of, version_number
from backend.versions.store import DERIVED, NONCE, File, Store
from models.checkpoint import CARD, parse_card
from models.documents import parse_json
from models.errors import CheckpointError

logger = logging.getLogger(__name__)

STATE = "served.json"


@dataclass
class _State:
    """served.json. `history` is what rolling back returns to, newest last; None stands for the starter."""

    current: str | None = None
    history: list[str | None] = field(default_factory=list)
    ever_served: list[str] = field(default_factory=list)
    last_number: int = 0


_STATE = TypeAdapter(_State)


@dataclass(frozen=True)
class Found:
    """A project's versions in a store, as rows of `VERSIONS`, `SERVED_BEFORE` and `NUMBERS`."""

    project: str
    versions: list[dict[str, Any]]
    before: list[dict[str, Any]]
    last: int


def found_in(store: Store) -> list[Found]:
    """The versions in a store; what cannot be read of it is logged and stays where it is.

    Raises:
        StoreError: the store cannot be read.
    """
    found = [_project(store, project) for project in store.projects() if PROJECT.fullmatch(project)]
    return [one for one in found if one.versions or one.last]


def take_over(connection: Connection, found: list[Found]) -> None:
    """Make the rows, in a transaction."""
    for project in found:
        for row in project.versions:
            connection.execute(insert_into(connection, VERSIONS).values(row).on_conflict_do_nothing())
        if project.before:
            connection.execute(insert(SERVED_BEFORE), project.before)
        last = insert_into(connection, NUMBERS).values(project=project.project, last=project.last)
        connection.execute(last.on_conflict_do_nothing())


def _project(store: Store, project: str) -> Found:
    places = store.places(project)
    state = _state(store, project) if f"project-{project}/{STATE}" in places else _State()
    rows: dict[str, dict[str, Any]] = {}
    for place in places:
        if (row := _row(store, project, place)) is not None:
            rows[row["name"]] = row
    stack = [name for name in (*state.history, state.current) if name in rows] if state.current else []
    if state.current and stack[-1:] != [state.current]:
        logger.error("project %s: %s, which was served, cannot be read", project, state.current)
    for name, row in rows.items():
        row["state"] = RETIRED if name in (*stack, *state.ever_served) else CANDIDATE
    if stack:
        rows[stack[-1]]["state"] = SERVED
    before = [
        {"project": project, "position": position, "version": name}
        for position, name in enumerate(stack[:-1], start=1)
        if name is not None
    ]
    last = max([state.last_number, *(row["number"] for row in rows.values())])
    return Found(project, list(rows.values()), before, last)


def _state(store: Store, project: str) -> _State:
    place = f"project-{project}"
    try:
        state = parse_json(store.read(place, STATE), _STATE)
        for name in (state.current, *state.history, *state.ever_served):
            if name is not None and version_number(project, name) is None:
                raise ValueError(f"{name[:80]!r} is no version of project {project}")
    except ValueError as error:
        logger.error(
            "%s/%s/%s is damaged (%s): nothing is served to project %s before a version is promoted",
            store.name,
            place,
            STATE,
            error,
            project,
        )
        return _State()
    return state


def _row(store: Store, project: str, place: str) -> dict[str, Any] | None:
    """The row of a version; None if what lies there is none."""
    at = place.rpartition("/")[2]
    name = at[:-13] if NONCE.fullmatch(at[-13:]) else at
    if version_number(project, name) is None:
        return None
    listed = {file: size for file, size in store.listed(place).items() if not file.startswith(f"{DERIVED}/")}
    if CARD not in listed:
        return None
    try:
        text = store.read(place, CARD).decode("utf-8", "replace")
        card = parse_card(text, name)
    except CheckpointError as error:
        logger.error("%s/%s is left out: %s", store.name, place, error.cause)
        return None
    if card.name != name or not listed.keys() >= card.weights.keys():
        logger.warning("%s/%s is left out: it is a copy, or not complete", store.name, place)
        return None
    # The weights' checksums, which are compared when they are loaded, are on the card.
    files = {
        file: File(card.weights.get(file) or hashlib.sha256(store.read(place, file)).hexdigest(), size)
        for file, size in listed.items()
    }
    row = row_of(project, name, card, text, place, files)
    return row | {"published": store.written(place)}
