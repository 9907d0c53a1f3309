"""Errors of `models`.

ModelError
├── DataError          a data folder, image or mask cannot be used
└── CheckpointError    a checkpoint is missing, damaged or of another shape
"""


class ModelError(Exception):
    """Base of every error that `models` raises on purpose; its text says what to do next.

    Attributes:
        cause: what went wrong; with what to do about it where no remedy is given apart.
        remedy: what to do about it, "" where `cause` says so.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause, self.remedy = cause, remedy


class DataError(ModelError):
    """A data folder, image or mask cannot be used; the text names the file."""


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged or does not fit the network that its card describes."""
