"""Errors of `models`, and the base that they share with the errors of `backend`.

PremaskError
└── ModelError
    ├── DataError          a data folder, image or mask cannot be used
    └── CheckpointError    a checkpoint is missing, damaged or of another shape
"""


class PremaskError(Exception):
    """Base of every error that premask raises on purpose; its text says what to do next.

    Attributes:
        cause: what went wrong; with what to do about it where no remedy is given apart.
        remedy: what to do about it, "" where `cause` says so.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause, self.remedy = cause, remedy


class ModelError(PremaskError):
    """Base of every error that `models` raises on purpose."""


class DataError(ModelError):
    """A data folder, image or mask cannot be used; the text names the file."""


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged or does not fit the network that its card describes."""
