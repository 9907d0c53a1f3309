"""The errors of `backend`, as a tree; its base has a cause and a remedy.

BackendError
├── BadRequest         a request does not have the shape Label Studio sends
├── ConfigError        a labelling config cannot be used
├── ImageError         a task's image cannot be fetched or read
├── RegionError        a region of an annotation cannot be read
├── LabelStudioError   Label Studio cannot be reached or refuses
├── SettingsError      the environment does not describe a backend that can start
├── RegistryError      model versions cannot be read or published
│   ├── StoreError       the store of their files cannot be used
│   ├── UnknownVersion   there is no such version or project
│   └── VersionConflict  there are versions already where there should be none
├── ServeError         the server cannot start or has ended
├── JobError           a job cannot be queued or went wrong
│   ├── UnknownJob     there is no such job
│   ├── JobConflict    a job is too far for what is asked
│   ├── DatabaseError  the database cannot be used
│   └── JobInterrupted it is not this worker's any more, or begins again
├── CvatError          cvat-sdk is missing or too old
├── PullbackError      `premask import` cannot go on
├── ExportError        `premask export` cannot write
├── BenchError         `premask bench` cannot measure
└── DemoError          `premask demo` cannot go on
"""

from collections.abc import Mapping
from typing import Any

from models.errors import PremaskError, brief


class BackendError(PremaskError):
    """Base of every error that `backend` raises on purpose."""


class BadRequest(BackendError):
    """A request does not have the shape Label Studio sends; the text says what was expected and what came."""


class ConfigError(BackendError):
    """A labelling config cannot be used; the text says what it lacks."""


class ImageError(BackendError):
    """A task's image cannot be fetched or read; the text names the task, the address and the cause."""


class RegionError(BackendError):
    """A region of an annotation cannot be read; the text names the region and what is wrong with it."""

    def __init__(self, region: Mapping[str, Any], cause: str) -> None:
        named = f"region {brief(region.get('id'))} of type {brief(region.get('type'))}"
        super().__init__(f"{named} cannot be read: {cause}")


class LabelStudioError(BackendError):
    """Label Studio cannot be reached or refuses; the text says which call and what to change.

    Attributes:
        status: the HTTP status of the refusal, None if no answer came.
        detail: Label Studio's own words, "" if it had none.
    """

    def __init__(self, cause: str, status: int | None = None, detail: str = "", remedy: str = "") -> None:
        super().__init__(cause, remedy)
        self.status, self.detail = status, detail


class SettingsError(BackendError):
    """The environment does not describe a backend that can start; the text lists every problem."""


class RegistryError(BackendError):
    """Model versions cannot be read or published; the text names the file or version."""


class StoreError(RegistryError):
    """The store of the versions' files cannot be read or written; the text names it and what was tried."""


class UnknownVersion(RegistryError):
    """There is no such version or project."""


class VersionConflict(RegistryError):
    """There are versions already where there should be none; the text names the project."""


class UnknownTask(BackendError):
    """There is no such task where it was looked for; the text says where."""


class ServeError(BackendError):
    """The server cannot start, or has ended by itself; the text says what to change."""


class JobError(BackendError):
    """A job cannot be queued or went wrong; the text carries the reason."""


class UnknownJob(JobError):
    """There is no such job."""


class JobConflict(JobError):
    """A job is too far for what is asked of it; the text says how far."""


class DatabaseError(JobError):
    """The database cannot be reached, read or written, or is of another release; the text says which."""


class DiskFull(DatabaseError):
    """There is no room on the disk of the database's file."""


class JobInterrupted(JobError):
    """A job stops here without having failed; the text says why, and what becomes of it."""


class CvatError(BackendError):
    """cvat-sdk is missing or too old; the text names the release that is needed."""


class PullbackError(BackendError):
    """`premask import` cannot go on; the text says what to change before it is run again."""


class ExportError(BackendError):
    """`premask export` cannot write what is asked for; the text says what to change."""


class BenchError(BackendError):
    """`premask bench` cannot measure; the text says what did not answer as it should."""


class DemoError(BackendError):
    """`premask demo` cannot go on; the text says what to change before it is run again."""
