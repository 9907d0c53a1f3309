"""Where the files of versions are: a folder, or a bucket, or any other address that fsspec knows.

    store/premask-store-id                                the store's identity; the database knows it too
    store/project-3/p3-r001-lite0.5f3a9c21e07d/card.json  what was put once, at a place of its own, and never changes
    cache/project-3/p3-r001-lite0.5f3a9c21e07d/card.json  this machine's copy, where the store is no folder

Files are put before a row of the database names their place, so what was put half belongs to no version. The cache
holds what was asked for last, up to a limit; each use compares checksums, and what differs is fetched again.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import secrets
import shutil
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from backend.errors import StoreError
from backend.system.files import sync_folder, sync_tree
from models.checkpoint import CARD

logger = logging.getLogger(__name__)

IDENTITY = "premask-store-id"
DERIVED = "runtime"  # in a version's folder: what a machine makes of the weights for itself
INCOMING = ".incoming-"
NONCE = re.compile(r"\.[0-9a-f]{12}")  # ends the place of a version
LOCK_SECONDS = 600.0  # that one process waits for another that fetches the same version
STALE_SECONDS = 86_400.0  # after which what a process fetched half is removed
RESTORE = "restore it from a copy, or promote another version"
GIGABYTE = 1 << 30
S3 = ("s3", "s3a")
S3_OPTIONS = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 4}}}


@dataclass(frozen=True)
class File:
    """A file of a version: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size: int


class Fetched:
    """A version's files on this machine, which stay there as long as this object does.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path = path
        if lock is not None:
            weakref.finalize(self, os.close, lock)  # which unlocks it


class Store:
    """The files of versions. Safe to use from several threads, and by several processes at once.

    Args:
        url: a folder, or an address such as s3://bucket/prefix.
        cache: folder for this machine's copies; a store that is a folder needs none.
        cache_bytes: size of the copies beyond which those unused for longest are removed. Copies in use stay.
        endpoint: address of an S3 that is not Amazon's.

    Attributes:
        name: for people.
        folder: the store, if it is a folder.

    Raises:
        StoreError: nothing that is installed knows such an address.
    """

    def __init__(
        self, url: str | Path, cache: Path | None = None, cache_bytes: int = 10 * GIGABYTE, endpoint: str | None = None
    ) -> None:
        self.name = str(url)
        self._cache, self._cache_bytes = cache, cache_bytes
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if (scheme := scheme_of(str(url))) in S3:
            options |= S3_OPTIONS | ({} if endpoint is None else {"endpoint_url": endpoint})
        elif scheme == "file":
            options["auto_mkdir"] = True
        try:
            self._fs, root = fsspec.url_to_fs(str(url), **options)
        except (ImportError, ValueError) as error:
            package = "premask[s3]" if scheme in S3 else "the package that it names"
            raise StoreError(f"{url} cannot be opened: {error}", f"install {package}") from error
        self._root = root.rstrip("/")
        self.folder = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None
        if self.folder is None and cache is None:
            raise ValueError(f"{url} is no folder, so it needs a cache")

    def identity(self) -> str | None:
        """The store's identity, None if it has none yet."""
        return self._small(IDENTITY)

    def identify(self, identity: str) -> None:
        """Give the store an identity, unless it has one."""
        with self._saying("cannot be written to"):
            self._make_root()
            with suppress(FileExistsError):
                self._fs.pipe_file(self._at(IDENTITY), identity.encode(), mode="create")

    def check(self) -> None:
        """Write something, read it and remove it.

        Raises:
            StoreError: one of these failed.
        """
        nonce = secrets.token_hex(6)
        name = f"premask-check-{nonce}"
        self.note(name, nonce)
        if (read := self._small(name)) != nonce:
            raise StoreError(f"{self.name}: what was written there reads as {str(read)[:80]!r}", self._remedy())
        self.unnote(name)

    def note(self, name: str, text: str) -> None:
        """Write a short text."""
        with self._saying("cannot be written to"):
            if self.folder is not None:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._fs.pipe_file(self._at(name), text.encode())

    def unnote(self, name: str) -> None:
        """Remove a short text."""
        with self._saying("cannot be written to"), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def rename(self, name: str, to: str) -> None:
        """Give a short text another name."""
        with self._saying("cannot be written to"):
            self._fs.mv(self._at(name), self._at(to))

    def noted(self, name: str) -> str | None:
        """A short text that was written, None if there is none."""
        return self._small(name)

    def notes(self, folder: str) -> list[str]:
        """The names of short texts in a folder of theirs."""
        return [f"{folder}/{name}" for name in self._names_in(folder)]

    def new_place(self, project: str, version: str) -> str:
        """A place for a version's files, which no other has."""
        return f"project-{project}/{version}.{secrets.token_hex(6)}"

    def put(self, folder: Path, place: str) -> dict[str, File]:
        """Copy a folder's files to a new place; they are complete when this returns.

        Raises:
            StoreError: they cannot be copied.
        """
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        names = [name for name in names if not name.startswith(f"{DERIVED}/")]
        with self._saying(f"cannot take {folder.name}"):
            files = {name: _described(folder / name) for name in names}
            self._make_root()
            self._fs.put([str(folder / name) for name in names], [self._at(place, name) for name in names])
            if self.folder is not None:
                sync_tree(self.folder / place)
                sync_folder((self.folder / place).parent)
            there = {name: size for name, size, _ in self._listed(place)}
        if there != {name: file.size for name, file in files.items()}:
            raise StoreError(f"{self.name}: {place} is not what was written there", "try again")
        return files

    def remove(self, place: str) -> None:
        """Remove what is at a place, if anything is."""
        with self._saying("cannot be written to"), suppress(FileNotFoundError):
            if self.folder is not None:
                shutil.rmtree(self.folder / place)
            else:
                self._fs.rm(self._at(place), recursive=True)

    def places(self, project: str) -> list[str]:
        """Everything that lies at a project's places, and whatever else is beside them."""
        return [f"project-{project}/{name}" for name in self._names_in(f"project-{project}")]

    def projects(self) -> list[str]:
        """The projects that have a folder, and whatever else is called so."""
        return [name.removeprefix("project-") for name in self._names_in("") if name.startswith("project-")]

    def listed(self, place: str) -> dict[str, int]:
        """The files at a place, with their sizes in bytes."""
        with self._saying("cannot be read"):
            return {name: size for name, size, _ in self._listed(place)}

    def written(self, place: str) -> float:
        """Unix time of the last change at a place, by the store's clock; 0 if nothing is there."""
        with self._saying("cannot be read"):
            return max((when for _, _, when in self._listed(place)), default=0.0)

    def read(self, place: str, name: str, file: File | None = None) -> bytes:
        """One file at a place.

        Args:
            place: of the version.
            name: of the file.
            file: what it must be; None takes it as it is.

        Raises:
            StoreError: it is missing, or is another.
        """
        with self._saying(f"{place}/{name} cannot be read"):
            try:
                found: bytes = self._fs.cat_file(self._at(place, name))
            except FileNotFoundError as error:
                if self.identity() is None:
                    missing = f"the store of versions {self.name} is not there: it has no {IDENTITY}"
                    raise StoreError(missing, "mount it, or restore it from a copy") from error
                raise StoreError(f"{self._at(place, name)} is missing", RESTORE) from error
        if file is not None and hashlib.sha256(found).hexdigest() != file.sha256:
            raise self._damaged(place, name)
        return found

    def local(self, place: str) -> Path:
        """Where a version's files are on this machine once they are fetched."""
        return (self.folder or self._cached) / place

    def scratch(self) -> Path:
        """A folder on this machine for what is made before it is put."""
        folder = self.folder or self._cached
        with self._saying("cannot be written to"):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def fetch(self, place: str, files: Mapping[str, File]) -> Fetched:
        """The files of a version on this machine, looked at: of a folder the card, whose checksums the weights' reader
        compares; of copies every file.

        Raises:
            StoreError: they cannot be fetched, or are not what was published.
        """
        if self.folder is not None:
            self.read(place, CARD, files.get(CARD))
            return Fetched(self.folder / place)
        entry = self._cached / place
        lock_file = entry.with_name(f"{entry.name}.lock")
        with self._saying(f"{place} cannot be fetched"):
            while True:
                lock = _locked(lock_file, fcntl.LOCK_SH, LOCK_SECONDS)
                held = Fetched(entry, lock)
                if _whole(entry, files):
                    os.utime(lock_file)  # the time of the last use
                    return held
                del held
                lock = _locked(lock_file, fcntl.LOCK_EX, LOCK_SECONDS)
                try:
                    if not _whole(entry, files):  # another process may have fetched it meanwhile
                        self._download(place, files, entry)
                finally:
                    os.close(lock)
                self._evict(entry)

    def _download(self, place: str, files: Mapping[str, File], entry: Path) -> None:
        partial = self._cached / f"{INCOMING}{secrets.token_hex(6)}"
        try:
            self._fs.get([self._at(place, name) for name in files], [str(partial / name) for name in files])
            for name, file in files.items():
                if _described(partial / name) != file:
                    raise self._damaged(place, name)
            shutil.rmtree(entry, ignore_errors=True)
            partial.rename(entry)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _evict(self, fresh: Path) -> None:
        """Remove the copies unused for longest until the others fit; `fresh` and those in use stay."""
        for partial in self._cached.glob(f"{INCOMING}*"):
            if time.time() - partial.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)
        entries = [lock.with_name(lock.name.removesuffix(".lock")) for lock in self._cached.glob("project-*/*.lock")]
        sizes = {entry: _size(entry) for entry in entries}
        total = sum(sizes.values())
        for entry in sorted(entries, key=_used):
            if total <= self._cache_bytes:
                return
            lock_file = entry.with_name(f"{entry.name}.lock")
            if entry == fresh or (lock := _lock_now(lock_file, fcntl.LOCK_EX)) is None:
                continue
            try:
                shutil.rmtree(entry, ignore_errors=True)
                lock_file.unlink(missing_ok=True)
                total -= sizes[entry]
            finally:
                os.close(lock)
        if total > self._cache_bytes:
            logger.warning(
                "%s: copies of versions in use take %.1f GiB, more than PREMASK_MODELS_CACHE_GB",
                self._cache,
                total / GIGABYTE,
            )

    @property
    def _cached(self) -> Path:
        assert self._cache is not None
        return self._cache

    def _at(self, *names: str) -> str:
        return "/".join((self._root, *names))

    def _make_root(self) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def _small(self, name: str) -> str | None:
        with self._saying("cannot be read"):
            try:
                return str(self._fs.cat_file(self._at(name)).decode("utf-8", "replace")).strip()
            except FileNotFoundError:
                self._look()
                return None

    def _look(self) -> None:
        """Tell a store that is empty from one that is not there."""
        bucket = self._root.split("/", 1)[0]
        if scheme_of(self.name) in S3 and not self._fs.exists(bucket):
            raise FileNotFoundError(f"there is no bucket {bucket}")

    def _names_in(self, folder: str) -> list[str]:
        with self._saying("cannot be read"):
            try:
                found = self._fs.ls(self._at(folder).rstrip("/"), detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found})

    def _listed(self, place: str) -> Sequence[tuple[str, int, float]]:
        """Name, size and time of the last change of each file at a place."""
        at = self._at(place)
        return [
            (path.removeprefix(f"{at}/"), int(about["size"]), _modified(about))
            for path, about in self._fs.find(at, detail=True).items()
        ]

    def _damaged(self, place: str, name: str) -> StoreError:
        return StoreError(f"{self._at(place, name)} is damaged: its checksum is not the published one", RESTORE)

    def _remedy(self) -> str:
        if self.folder is not None:
            return f"make room, or run `chown -R {os.getuid()} {self.folder}`"
        return "check PREMASK_MODELS_URL, PREMASK_MODELS_ENDPOINT, the store's keys and that this machine reaches it"

    @contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        """Any failure of a file system, each of which has errors of its own, in a sentence."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            says = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            says = says or type(error).__name__
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            remedy = f"make room for {self.folder or self._cached}" if full else self._remedy()
            raise StoreError(f"the store of versions {self.name}: {what}: {says}", remedy) from error


def scheme_of(url: str) -> str:
    """The scheme of a store's address; a path's is file."""
    return urlsplit(url).scheme.lower() if "://" in url else "file"


def _described(path: Path) -> File:
    with path.open("rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


def _whole(entry: Path, files: Mapping[str, File]) -> bool:
    try:
        return all(_described(entry / name) == file for name, file in files.items())
    except OSError:
        return False


def _size(folder: Path) -> int:
    sizes = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            sizes += path.stat().st_size
    return sizes


def _used(entry: Path) -> float:
    try:
        return entry.with_name(f"{entry.name}.lock").stat().st_mtime
    except OSError:
        return 0.0


def _modified(about: Mapping[str, Any]) -> float:
    """When a file was written, as file systems say it under different names."""
    for key in ("LastModified", "mtime", "created", "last_modified", "updated"):
        when = about.get(key)
        if isinstance(when, datetime):
            return when.timestamp()
        if isinstance(when, int | float):
            return float(when)
    return time.time()  # unknown: never old


def _lock_now(path: Path, kind: int) -> int | None:
    """Lock a file; None if another holds it. Closing the descriptor unlocks it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # locked, or removed in between
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _locked(path: Path, kind: int, seconds: float) -> int:
    until = time.monotonic() + seconds
    while (lock := _lock_now(path, kind)) is None:
        if time.monotonic() > until:
            raise StoreError(f"{path} has been locked for {seconds:.0f} s by another process", "try again")
        time.sleep(0.05)
    return lock
