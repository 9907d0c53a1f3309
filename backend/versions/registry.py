"""Model versions of every project: publish, current, promote, roll back.

    root/project-3/p3-r001-lite0/   a checkpoint: card.json and weights, never changed once it is there
    root/project-3/p3-r002-lite0/
    root/project-3/served.json      {"current": ..., "history": [...], "last_number": 2}

A version is served from the moment served.json names it, and served.json is replaced in one step, so readers need no
lock. Writers, in any process, hold the project's file lock; a folder they left half-written or half-removed has a
name that no version has, is read by no one, and is removed by the next writer.

Publishing also removes old versions: beyond the newest few, only the served one and the one that rolling back returns
to are kept.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from backend.errors import RegistryError, UnknownVersion, VersionConflict
from backend.system.files import sync_folder, sync_tree, write_json
from models.checkpoint import CARD, Card, read_card, write_card
from models.documents import read_json
from models.errors import CheckpointError

PROJECT = re.compile("[0-9A-Za-z]{1,32}")
INCOMING = ".incoming-"
REMOVED = ".removed-"
STATE = "served.json"
STARTER = "starter"  # what rolling back before the first promotion returns to; no version has this name
LOCK_SECONDS = 120
# Short names of backbones, as in p3-r007-lite0; any other loses what precedes its last underscore.
SHORT = {"tf_efficientnet_lite0": "lite0", "legacy_xception": "xception", "convnext_base": "convnext"}


@dataclass(frozen=True)
class VersionInfo:
    """One published version.

    Attributes:
        project: Label Studio's project id.
        version: its name, the same in `/setup`, in predictions and here.
        directory: the checkpoint.
        number: counts up from 1 and is never given twice.
        state: served, retired (was served before) or candidate (never served).
    """

    project: str
    version: str
    directory: Path
    number: int
    state: str

    @property
    def card(self) -> Card:
        """The card that training wrote.

        Raises:
            CheckpointError: the card is missing or damaged.
        """
        return read_card(self.directory)


@dataclass
class _State:
    """served.json. `history` is what rolling back returns to, newest last; None stands for the starter."""

    current: str | None = None
    history: list[str | None] = field(default_factory=list)
    ever_served: list[str] = field(default_factory=list)
    last_number: int = 0


_STATE = TypeAdapter(_State)


class Registry:
    """The versions below a folder, safe to use from several threads and processes at once.

    Args:
        root: the folder.
        keep: how many of a project's newest versions outlive a publication.
    """

    def __init__(self, root: Path, keep: int = 10) -> None:
        self.root = root
        self._keep = keep

    def projects(self) -> list[str]:
        """Every project that has a version; other folders beside theirs, such as copies, are passed over."""
        names = sorted(folder.name.removeprefix("project-") for folder in self.root.glob("project-*"))
        return [name for name in names if PROJECT.fullmatch(name) and self._directories(name)]

    def names(self, project: str) -> list[str]:
        """The name of every complete version of a project, oldest first, whatever became of served.json."""
        return [directory.name for directory in self._directories(project)]

    def versions(self, project: str) -> list[VersionInfo]:
        """Every complete version of a project, oldest first."""
        state = self._state(project)
        return [self._info(project, directory.name, state) for directory in self._directories(project)]

    def version(self, project: str, version: str) -> VersionInfo:
        """One version.

        Raises:
            UnknownVersion: the project has no such version.
        """
        for info in self.versions(project):
            if info.version == version:
                return info
        known = ", ".join(info.version for info in self.versions(project)) or "none"
        raise UnknownVersion(f"project {project} has no version {version!r}; it has: {known}")

    def current(self, project: str) -> VersionInfo | None:
        """The version that is to be served, or None: nothing was promoted yet, or all of it rolled back."""
        state = self._state(project)
        return None if state.current is None else self._info(project, state.current, state)

    def stamp(self, project: str) -> object:
        """Something that differs when another version is to be served; cheap, as nothing is read."""
        try:
            state = os.stat(f"{self.root}/project-{project}/{STATE}")  # a Path takes longer than the look itself
        except OSError:
            return None
        return state.st_mtime_ns, state.st_ino, state.st_size

    def previous(self, project: str) -> list[VersionInfo]:
        """Versions that were served before the current one, most recent first."""
        state = self._state(project)
        names = dict.fromkeys(name for name in reversed(state.history) if name is not None and name != state.current)
        return [self._info(project, name, state) for name in names]

    def rollback_target(self, project: str) -> str | None:
        """The version that `rollback` would serve: its name, STARTER for the starter, or None if it would refuse."""
        state = self._state(project)
        index = self._return_to(project, state)
        return None if index is None else state.history[index] or STARTER

    def reserve(self, project: str, backbone: str | None = None) -> str:
        """The name for a version that is about to be trained; its number is spent unless it is given back."""
        with self._writing(project) as state:
            state.last_number += 1
            short = f"-{_short(backbone)}" if backbone else ""
            return f"p{project}-r{state.last_number:03d}{short}"

    def give_back(self, project: str, version: str) -> None:
        """Take back a name that nothing came of, so that no gap stays: a project's first version is r001.

        A number that was given after it, or has been published, stays spent.
        """
        number = version_number(project, version)
        with self._writing(project) as state:
            published = [version_number(project, directory.name) or 0 for directory in self._directories(project)]
            if number is not None and number == state.last_number and number > max(published, default=0):
                state.last_number -= 1

    def publish(self, project: str, checkpoint: Path, fence: Callable[[], None] = lambda: None) -> VersionInfo:
        """Copy a finished checkpoint into the registry under the name on its card, as a candidate.

        Args:
            project: Label Studio's project id.
            checkpoint: the folder.
            fence: called under the project's lock, in the moment before the version appears; raises if the caller may
                not publish any more, because another worker has taken its job meanwhile.

        Raises:
            CheckpointError: `checkpoint` has no readable card.
            RegistryError: its name is no version of this project, or is taken, or the copy failed.
        """
        name = read_card(checkpoint).name
        number = version_number(project, name)
        if number is None:
            raise RegistryError(f"{checkpoint} calls itself {name!r}, which is no version of project {project}")
        with self._writing(project) as state:
            target = self._folder(project) / name
            if target.exists():
                raise RegistryError(f"{name} is published already and versions never change; reserve a new name")
            incoming = target.with_name(f"{INCOMING}{name}")
            try:
                shutil.copytree(checkpoint, incoming)
                sync_tree(incoming)
                fence()
                incoming.rename(target)
                sync_folder(target.parent)
            except OSError as error:
                raise RegistryError(
                    f"{name} cannot be published to {target.parent}: {error.strerror or error}",
                    "make room or give this user the right, then ask again",
                ) from error
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
            state.last_number = max(state.last_number, number)
            self._prune(project, state)
            return self._info(project, name, state)

    def promote(self, project: str, version: str, fence: Callable[[], None] = lambda: None) -> VersionInfo:
        """Serve a version from now on.

        Args:
            project: Label Studio's project id.
            version: its name.
            fence: as for `publish`.

        Raises:
            UnknownVersion: the project has no such version.
        """
        self.version(project, version)  # makes no folder for a project that has none
        with self._writing(project) as state:
            self.version(project, version)  # a publication may have removed it while this waited for the lock
            fence()
            if state.current != version:
                state.history.append(state.current)
                state.current = version
                state.ever_served += [version] if version not in state.ever_served else []
            return self._info(project, version, state)

    def rollback(self, project: str) -> VersionInfo | None:
        """Serve what was served before the current version; None stands for the starter.

        Raises:
            UnknownVersion: nothing was served before.
        """
        with self._writing(project) as state:
            index = self._return_to(project, state)
            if index is None:
                raise UnknownVersion(
                    f"project {project} has nothing to roll back to; `premask versions list` shows what there is"
                )
            state.current = state.history[index]
            del state.history[index:]
            return None if state.current is None else self._info(project, state.current, state)

    def duplicate(self, source: str, target: str) -> VersionInfo | None:
        """Serve a copy of the version that is served to one project to another one, which has none yet.

        Returns:
            The copy; None if the starter serves the first project, as it does the second.

        Raises:
            VersionConflict: the other project has versions.
            CheckpointError: the served version's card cannot be read.
            RegistryError: the copy failed.
        """
        if self.versions(target):
            raise VersionConflict(
                f"project {target} has versions already; `premask versions promote` serves one of them"
            )
        original = self.current(source)
        if original is None:
            return None
        card = original.card
        name = self.reserve(target, card.backbone)
        with tempfile.TemporaryDirectory(dir=self.root, prefix=INCOMING) as folder:
            copy = Path(folder) / name
            try:
                shutil.copytree(original.directory, copy)
            except OSError as error:  # it may be removed by a publication meanwhile
                raise RegistryError(
                    f"{original.version} cannot be copied to project {target}: {error.strerror or error}", "ask again"
                ) from error
            write_card(copy, replace(card, name=name, parent=original.version))
            self.publish(target, copy)
        return self.promote(target, name)

    def _return_to(self, project: str, state: _State) -> int | None:
        """Where in the history the version stands that rolling back serves; None if nothing was served before."""
        usable = {directory.name for directory in self._directories(project)} - {state.current}
        found = (i for i, name in reversed(list(enumerate(state.history))) if name is None or name in usable)
        return next(found, None)

    def _prune(self, project: str, state: _State) -> None:
        """Remove the versions that are no longer needed."""
        index = self._return_to(project, state)
        needed = {state.current, None if index is None else state.history[index]}
        for directory in self._directories(project)[: -self._keep]:
            if directory.name not in needed:
                removed = directory.with_name(f"{REMOVED}{directory.name}")
                directory.rename(removed)  # gone in one step for those who read meanwhile
                shutil.rmtree(removed, ignore_errors=True)  # the next writer tries again

    def _folder(self, project: str) -> Path:
        # Ids come from requests and end up in a path.
        if not PROJECT.fullmatch(project):
            raise UnknownVersion(f"{project!r} is no project id; expected a number such as 3")
        return self.root / f"project-{project}"

    def _directories(self, project: str) -> list[Path]:
        candidates = [path.parent for path in self._folder(project).glob(f"p{project}-r*/{CARD}")]
        numbered = [(version_number(project, directory.name), directory) for directory in candidates]
        return [
            directory
            for number, directory in sorted((n, d) for n, d in numbered if n is not None)
            if _name_in(directory) in (None, directory.name)
        ]

    def _info(self, project: str, version: str, state: _State) -> VersionInfo:
        served = "served" if version == state.current else "retired" if version in state.ever_served else "candidate"
        return VersionInfo(
            project, version, self._folder(project) / version, version_number(project, version) or 0, served
        )

    def _state(self, project: str) -> _State:
        path = self._folder(project) / STATE
        try:
            state = read_json(path, _STATE)
            for name in (state.current, *state.history, *state.ever_served):
                if name is not None and version_number(project, name) is None:  # it becomes part of a path
                    raise ValueError(f"{name[:80]!r} is no version of project {project}")
        except FileNotFoundError:
            return _State()
        except (OSError, ValueError) as error:
            raise RegistryError(f"{path} is damaged ({error})", "delete it and promote a version") from error
        return state

    @contextmanager
    def _writing(self, project: str) -> Iterator[_State]:
        """The project's state under its lock; written back when the block ends without an error."""
        folder = self._folder(project)
        with _locked(folder):
            # Publishing holds this lock, so what is still incoming or half-removed belongs to a process that died.
            for leftover in (*folder.glob(f"{INCOMING}*"), *folder.glob(f"{REMOVED}*")):
                shutil.rmtree(leftover)
            state = self._state(project)
            before = asdict(state)
            # A lost served.json must not make a number be given twice.
            published = [version_number(project, directory.name) or 0 for directory in self._directories(project)]
            state.last_number = max(state.last_number, *published, 0)
            yield state
            if asdict(state) != before:
                write_json(folder / STATE, asdict(state))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=LOCK_SECONDS):
            yield
    except Timeout:
        raise RegistryError(f"{folder} has been locked for {LOCK_SECONDS} s by another process; try again") from None
    except OSError as error:
        raise RegistryError(
            f"{folder} cannot be written to: {error.strerror}; make room or give this user the right, then ask again"
        ) from error


def version_number(project: str, version: str) -> int | None:
    """The number in a version's name, None if it is no version of that project."""
    match = re.fullmatch(rf"p{re.escape(project)}-r([0-9]{{3,}})(-[0-9A-Za-z.]+)?", version)
    return int(match[1]) if match else None


def _name_in(directory: Path) -> str | None:
    """The name on a checkpoint's card, None if that cannot be read. A copy beside a version has the version's name."""
    try:
        return _name_on(directory / CARD, (directory / CARD).stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(4096)
def _name_on(card: Path, modified: int) -> str | None:
    try:
        return read_card(card.parent).name
    except CheckpointError:
        return None


def _short(backbone: str) -> str:
    return SHORT.get(backbone) or re.sub(r"[^0-9A-Za-z.]", "", backbone.rpartition("_")[2]) or "custom"
