"""Model versions of every project: publish, current, promote, roll back.

A version is a row of the database, and its files lie in the store. They are put there first, at a place of their own;
then one transaction makes the row, so what a killed publisher left is seen by no one and collected later. Which version
is served is the state of a row too: at most one of a project's is, on every machine the same. The row of a removed
version stays, without its files: a name never means two sets of weights.

Publishing also removes old versions: beyond the newest few, only the served one and the one that rolling back returns
to are kept.
"""

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from backend.database.engine import Database, Fence, insert_into, no_fence
from backend.database.tables import NUMBERS, SERVED_BEFORE, VERSIONS
from backend.errors import DatabaseError, RegistryError, StoreError, UnknownVersion, VersionConflict
from backend.versions.store import DERIVED, INCOMING, NONCE, Fetched, File, Store
from models.checkpoint import CARD, Card, parse_card, read_card, write_card
from models.errors import CheckpointError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PROJECT = re.compile("[0-9A-Za-z]{1,32}")
STARTER = "starter"  # what rolling back before the first promotion returns to; no version has this name
CANDIDATE, SERVED, RETIRED, REMOVED = "candidate", "served", "retired", "removed"
GARBAGE_SECONDS = 12 * 3600.0  # after which files that no row names are collected
SWEPT_SECONDS = 7 * 86400.0  # the same where nothing is published: a week to find out that a database is the wrong one
PUBLISH_SECONDS = 6 * 3600.0  # after which a publication gives up, long before
# Short names of backbones, as in p3-r007-lite0; any other loses what precedes its last underscore.
SHORT = {"tf_efficientnet_lite0": "lite0", "legacy_xception": "xception", "convnext_base": "convnext"}


@dataclass(frozen=True)
class VersionInfo:
    """One published version.

    Attributes:
        project: Label Studio's project id.
        version: its name, the same in `/setup`, in predictions and here.
        number: counts up from 1 and is never given twice.
        state: served, retired (was served before) or candidate (never served).
        place: of its files in the store.
        files: their checksums and sizes, by name.
        published: Unix time.
        parent: the version that its training began from, if any.
    """

    project: str
    version: str
    number: int
    state: str
    place: str
    files: Mapping[str, File] = field(repr=False)
    published: float
    parent: str | None
    _card: str = field(repr=False)
    _store: Store = field(repr=False, compare=False)

    @property
    def card(self) -> Card:
        """The card that training wrote, as it was published.

        Raises:
            CheckpointError: it was written by a release whose cards this one does not read.
        """
        return parse_card(self._card, self.version)

    def draws(self, classes: Collection[str]) -> bool:
        """Whether it knows one of these classes; not, if its card cannot be read."""
        try:
            return not set(classes).isdisjoint(self.card.classes)
        except CheckpointError:
            return False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def local(self) -> Path:
        """Where its files are on this machine once `fetch` or `directory` was asked for."""
        return self._store.local(self.place)

    @property
    def directory(self) -> Path:
        """The checkpoint on this machine, which stays there as long as this object does.

        Raises:
            StoreError: it cannot be fetched, or is not what was published.
        """
        return self._fetched.path

    def fetch(self) -> Fetched:
        """The same, as long as the returned object is there."""
        return self._store.fetch(self.place, self.files)

    def check(self) -> None:
        """Whether all files are in the store with the sizes that were published, and its card's checksum; quick.

        Raises:
            StoreError: a file is missing or another one, or the store cannot be read.
        """
        there = self._store.listed(self.place)
        wrong = [name for name, file in self.files.items() if there.get(name) != file.size]
        if wrong:
            raise StoreError(
                f"{self.version} is not whole in {self._store.name}: {', '.join(sorted(wrong))}",
                "restore it from a copy, or promote another version",
            )
        self.read(CARD)

    def read(self, name: str) -> bytes:
        """One of its files.

        Raises:
            UnknownVersion: there is none of that name.
            StoreError: it cannot be read, or is not what was published.
        """
        if name not in self.files:
            raise UnknownVersion(f"{self.version} has no file {name[:80]!r}")
        return self._store.read(self.place, name, self.files[name])

    @cached_property
    def _fetched(self) -> Fetched:
        return self.fetch()


class Registry:
    """The versions of a database and a store, safe to use from several threads and processes at once.

    Args:
        database: holds a row for each version.
        store: holds their files.
        keep: how many of a project's newest versions outlive a publication.

    Attributes:
        store: the same.
    """

    def __init__(self, database: Database, store: Store, keep: int = 10) -> None:
        self.store = store
        self._database = database
        self._keep = keep

    def projects(self) -> list[str]:
        """Every project that has a version."""
        query = select(VERSIONS.c.project).where(VERSIONS.c.state != REMOVED).distinct()
        return sorted(self._database.read(lambda connection: connection.execute(query).scalars().all()))

    def names(self, project: str) -> list[str]:
        """The name of every version of a project, oldest first."""
        query = select(VERSIONS.c.name).where(*_of(project)).order_by(VERSIONS.c.number, VERSIONS.c.name)
        return list(self._database.read(lambda connection: connection.execute(query).scalars().all()))

    def versions(self, project: str) -> list[VersionInfo]:
        """Every version of a project, oldest first."""
        query = select(VERSIONS).where(*_of(project)).order_by(VERSIONS.c.number, VERSIONS.c.name)
        return [self._info(row) for row in self._database.read(lambda connection: connection.execute(query).all())]

    def version(self, project: str, version: str) -> VersionInfo:
        """One version.

        Raises:
            UnknownVersion: the project has no such version.
        """
        return self._info(self._database.read(lambda connection: _known(connection, project, version)))

    def current(self, project: str) -> VersionInfo | None:
        """The version that is to be served, or None: nothing was promoted yet, or all of it rolled back."""
        return self._one(lambda connection: _served(connection, project))

    def waiting(self, project: str, classes: Collection[str]) -> VersionInfo | None:
        """The newest version of a project that could be promoted and draws one of these classes, None if none could."""
        infos = (info for info in reversed(self.versions(project)) if info.state in (CANDIDATE, RETIRED))
        return next((info for info in infos if info.draws(classes)), None)

    def served(self) -> dict[str, str]:
        """The version that is to be served to each project that has one; one query, however many there are."""
        query = select(VERSIONS.c.project, VERSIONS.c.name).where(VERSIONS.c.state == SERVED)
        return {row.project: row.name for row in self._database.read(lambda c: c.execute(query).all())}

    def newest_served(self, most: int) -> list[VersionInfo]:
        """The versions that are to be served to whatever project, those published last first, at most so many."""
        query = select(VERSIONS).where(VERSIONS.c.state == SERVED).order_by(VERSIONS.c.published.desc()).limit(most)
        return [self._info(row) for row in self._database.read(lambda connection: connection.execute(query).all())]

    def wanted(self, project: str) -> list[VersionInfo]:
        """The version that is to be served and those that were served before it, most recent first; none for the
        starter."""

        def work(connection: Connection) -> list[Row[Any]]:
            current = _served(connection, project)
            return [] if current is None else [current, *_before(connection, project, current.name)]

        return [self._info(row) for row in self._database.read(work)]

    def rollback_target(self, project: str) -> str | None:
        """The version that `rollback` would serve: its name, STARTER for the starter, or None if it would refuse."""

        def work(connection: Connection) -> str | None:
            current = _served(connection, project)
            return None if current is None else _return_to(connection, project, current.name)

        return self._database.read(work)

    def reserve(self, project: str, backbone: str | None = None) -> str:
        """The name for a version that is about to be trained; its number is spent unless it is given back."""
        short = f"-{_short(backbone)}" if backbone else ""
        _checked(project)

        def work(connection: Connection) -> str:
            number = _lock(connection, project) + 1
            _set_last(connection, project, number)
            return f"p{project}-r{number:03d}{short}"

        return self._database.change(work)

    def give_back(self, project: str, version: str) -> None:
        """Take back a name that nothing came of, so that no gap stays: a project's first version is r001.

        A number that was given after it, or has been published, stays spent.
        """
        number = version_number(project, version)

        def work(connection: Connection) -> None:
            last = _lock(connection, project)
            query = select(func.max(VERSIONS.c.number)).where(VERSIONS.c.project == project)
            if number is not None and number == last and number > (connection.execute(query).scalar() or 0):
                _set_last(connection, project, last - 1)

        self._database.change(work)

    def publish(self, project: str, checkpoint: Path, fence: Fence = no_fence) -> VersionInfo:
        """Put a finished checkpoint into the store and make it a version under the name on its card, a candidate.

        Args:
            project: Label Studio's project id.
            checkpoint: the folder.
            fence: called with the connection of the transaction that makes the version; raises if the caller may not
                publish any more, because another worker has taken its job, and keeps others from taking it until the
                transaction ends.

        Raises:
            CheckpointError: `checkpoint` has no readable card.
            RegistryError: its name is no version of this project, or is taken, or the files cannot be put.
        """
        card = read_card(checkpoint)
        name, number = card.name, version_number(_checked(project), card.name)
        if number is None:
            raise RegistryError(f"{checkpoint} calls itself {name!r}, which is no version of project {project}")
        self._database.read(lambda connection: _must_be_free(connection, project, name))
        begun, place = time.time(), self.store.new_place(project, name)
        files = self.store.put(checkpoint, place)
        row = row_of(project, name, card, (checkpoint / CARD).read_text(encoding="utf-8"), place, files)

        def work(connection: Connection) -> Row[Any]:
            last = _lock(connection, project)
            _must_be_free(connection, project, name)
            if time.time() - begun > PUBLISH_SECONDS:
                raise RegistryError(f"publishing {name} took too long: its files may be gone by now", "try again")
            fence(connection)
            connection.execute(insert(VERSIONS).values(row))
            _set_last(connection, project, max(last, number))
            self._prune(connection, project)
            return _known(connection, project, name)

        made = self._info(self._database.change(work))
        self._collect(project, GARBAGE_SECONDS)
        return made

    def promote(self, project: str, version: str, fence: Fence = no_fence) -> VersionInfo:
        """Serve a version from now on.

        Args:
            project: Label Studio's project id.
            version: its name.
            fence: as for `publish`.

        Raises:
            UnknownVersion: the project has no such version.
        """
        self.version(project, version)  # makes no row for a project that has none

        def work(connection: Connection) -> Row[Any]:
            _lock(connection, project)
            _known(connection, project, version)  # a publication may have removed it while this waited
            fence(connection)
            before = _served(connection, project)
            if before is None or before.name != version:
                if before is not None:
                    _set_state(connection, project, before.name, RETIRED)
                    top = select(func.max(SERVED_BEFORE.c.position)).where(SERVED_BEFORE.c.project == project)
                    position = (connection.execute(top).scalar() or 0) + 1
                    pushed = {"project": project, "position": position, "version": before.name}
                    connection.execute(insert(SERVED_BEFORE).values(pushed))
                _set_state(connection, project, version, SERVED)
            return _known(connection, project, version)

        return self._info(self._database.change(work))

    def rollback(self, project: str) -> VersionInfo | None:
        """Serve what was served before the current version; None stands for the starter.

        Raises:
            UnknownVersion: nothing was served before.
        """
        _checked(project)

        def work(connection: Connection) -> Row[Any] | None:
            _lock(connection, project)
            current = _served(connection, project)
            if current is None:
                raise UnknownVersion(
                    f"project {project} has nothing to roll back to; `premask versions list` shows what there is"
                )
            target = _return_to(connection, project, current.name)
            _set_state(connection, project, current.name, RETIRED)
            mine = SERVED_BEFORE.c.project == project
            if target == STARTER:
                connection.execute(delete(SERVED_BEFORE).where(mine))
                return None
            top = select(func.max(SERVED_BEFORE.c.position)).where(mine, SERVED_BEFORE.c.version == target)
            position = connection.execute(top).scalar_one()
            connection.execute(delete(SERVED_BEFORE).where(mine, SERVED_BEFORE.c.position >= position))
            _set_state(connection, project, target, SERVED)
            return _known(connection, project, target)

        return self._one(work, changes=True)

    def duplicate(self, source: str, target: str) -> VersionInfo | None:
        """Serve a copy of the version that is served to one project to another one, which has none yet.

        Returns:
            The copy; None if the starter serves the first project, as it does the second.

        Raises:
            VersionConflict: the other project has versions.
            CheckpointError: the served version's card cannot be read.
            RegistryError: the copy failed.
        """
        if self.names(target):
            raise VersionConflict(
                f"project {target} has versions already; `premask versions promote` serves one of them"
            )
        original = self.current(source)
        if original is None:
            return None
        card = original.card
        name = self.reserve(target, card.backbone)
        with tempfile.TemporaryDirectory(dir=self.store.scratch(), prefix=INCOMING) as folder:
            copy = Path(folder) / name
            try:
                shutil.copytree(original.directory, copy, ignore=shutil.ignore_patterns(DERIVED))
            except OSError as error:  # it may be removed by a publication meanwhile
                raise RegistryError(
                    f"{original.version} cannot be copied to project {target}: {error.strerror or error}", "ask again"
                ) from error
            write_card(copy, replace(card, name=name, parent=original.version))
            self.publish(target, copy)
        return self.promote(target, name)

    def _prune(self, connection: Connection, project: str) -> None:
        """Take versions that are no longer needed out of use; their files go when this is committed."""
        current = _served(connection, project)
        needed = set() if current is None else {current.name, _return_to(connection, project, current.name)}
        newest = select(VERSIONS.c.name).where(*_of(project)).order_by(VERSIONS.c.number.desc(), VERSIONS.c.name)
        rows = connection.execute(newest).all()[self._keep :]
        for row in (row for row in rows if row.name not in needed):
            _set_state(connection, project, row.name, REMOVED)

    def sweep(self) -> None:
        """Remove files that belong to no version, in all projects; what fails is left for the next time."""
        try:
            projects = self.store.projects()
        except StoreError as error:
            logger.warning("files that belong to no version are left for later: %s", error)
            return
        for project in filter(PROJECT.fullmatch, projects):
            self._collect(project, SWEPT_SECONDS)

    def _collect(self, project: str, age: float) -> None:
        """Remove files that belong to no version: of removed ones, and what killed publishers left `age` s ago."""
        try:
            known = select(VERSIONS.c.name, VERSIONS.c.place, VERSIONS.c.state).where(VERSIONS.c.project == project)
            there = self.store.places(project)  # before the rows are read: what comes later is not looked at
            rows = self._database.read(lambda connection: connection.execute(known).all())
            for row in rows:
                if row.state == REMOVED and row.place:
                    self.store.remove(row.place)
                    self._database.change(partial(_without_files, project=project, version=row.name))
            places = {row.place for row in rows}
            for place in there:
                version, nonce = place.rpartition("/")[2][:-13], place[-13:]
                ours = NONCE.fullmatch(nonce) and version_number(project, version) is not None
                if ours and place not in places and time.time() - self.store.written(place) > age:
                    logger.info("%s, which belongs to no version, is removed", place)
                    self.store.remove(place)
        except (StoreError, DatabaseError) as error:
            logger.warning("files of removed versions are left for later: %s", error)

    def _info(self, row: Row[Any]) -> VersionInfo:
        files = {name: File(*about) for name, about in row.files.items()}
        return VersionInfo(
            row.project,
            row.name,
            row.number,
            row.state,
            row.place,
            files,
            row.published,
            row.parent,
            row.card,
            self.store,
        )

    def _one(self, work: Callable[[Connection], Row[Any] | None], changes: bool = False) -> VersionInfo | None:
        row = (self._database.change if changes else self._database.read)(work)
        return None if row is None else self._info(row)


def row_of(
    project: str, name: str, card: Card, text: str, place: str, files: Mapping[str, File], state: str = CANDIDATE
) -> dict[str, Any]:
    """The row of a version that is published now."""
    return {
        "project": project,
        "name": name,
        "number": version_number(project, name),
        "state": state,
        "place": place,
        "files": {file: [about.sha256, about.size] for file, about in files.items()},
        "bytes": sum(about.size for about in files.values()),
        "published": time.time(),
        "parent": card.parent,
        "card": text,
    }


def version_number(project: str, version: str) -> int | None:
    """The number in a version's name, None if it is no version of that project."""
    match = re.fullmatch(rf"p{re.escape(project)}-r([0-9]{{3,}})(-[0-9A-Za-z.]+)?", version)
    return int(match[1]) if match else None


def _checked(project: str) -> str:
    # Ids come from requests and end up in a path.
    if not PROJECT.fullmatch(project):
        raise UnknownVersion(f"{project!r} is no project id; expected a number such as 3")
    return project


def _of(project: str) -> tuple[Any, ...]:
    return VERSIONS.c.project == _checked(project), VERSIONS.c.state != REMOVED


def _known(connection: Connection, project: str, version: str) -> Row[Any]:
    query = select(VERSIONS).where(*_of(project), VERSIONS.c.name == version)
    if (row := connection.execute(query).one_or_none()) is not None:
        return row
    names = connection.execute(select(VERSIONS.c.name).where(*_of(project)).order_by(VERSIONS.c.number)).scalars()
    raise UnknownVersion(f"project {project} has no version {version!r}; it has: {', '.join(names) or 'none'}")


def _must_be_free(connection: Connection, project: str, name: str) -> None:
    taken = select(VERSIONS.c.state).where(VERSIONS.c.project == project, VERSIONS.c.name == name)
    if (state := connection.execute(taken).scalar()) is not None:
        was = "was published before and removed" if state == REMOVED else "is published already"
        raise RegistryError(f"{name} {was} and versions never change; reserve a new name")


def _served(connection: Connection, project: str) -> Row[Any] | None:
    query = select(VERSIONS).where(VERSIONS.c.project == _checked(project), VERSIONS.c.state == SERVED)
    return connection.execute(query).one_or_none()


def _before(connection: Connection, project: str, current: str) -> list[Row[Any]]:
    """What was served before the current version and is still there, most recent first, each once."""
    joined = (SERVED_BEFORE.c.project == VERSIONS.c.project) & (SERVED_BEFORE.c.version == VERSIONS.c.name)
    query = select(VERSIONS).join(SERVED_BEFORE, joined).where(*_of(project), VERSIONS.c.name != current)
    rows: dict[str, Row[Any]] = {}
    for row in connection.execute(query.order_by(SERVED_BEFORE.c.position.desc())):
        rows.setdefault(row.name, row)
    return list(rows.values())


def _return_to(connection: Connection, project: str, current: str) -> str:
    """What rolling back serves."""
    before = _before(connection, project, current)
    return before[0].name if before else STARTER


def _lock(connection: Connection, project: str) -> int:
    """Keep other writers of the project out until the transaction ends; returns the last number that was given."""
    new = insert_into(connection, NUMBERS).values(project=project, last=0)
    connection.execute(new.on_conflict_do_nothing())
    mine = select(NUMBERS.c.last).where(NUMBERS.c.project == project).with_for_update()
    return int(connection.execute(mine).scalar_one())


def _set_last(connection: Connection, project: str, number: int) -> None:
    connection.execute(update(NUMBERS).where(NUMBERS.c.project == project).values(last=number))


def _set_state(connection: Connection, project: str, version: str, state: str) -> None:
    one = update(VERSIONS).where(VERSIONS.c.project == project, VERSIONS.c.name == version)
    connection.execute(one.values(state=state))


def _without_files(connection: Connection, project: str, version: str) -> None:
    one = update(VERSIONS).where(VERSIONS.c.project == project, VERSIONS.c.name == version)
    connection.execute(one.values(place=""))


def _short(backbone: str) -> str:
    return SHORT.get(backbone) or re.sub(r"[^0-9A-Za-z.]", "", backbone.rpartition("_")[2]) or "custom"
