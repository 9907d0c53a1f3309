"""Errors of `models`.

ModelError
├── DataError          a data folder, image or mask cannot be used
└── CheckpointError    a checkpoint is missing, damaged or of another shape
"""


class ModelError(Exception):
    """Base of every error that `models` raises on purpose; its text says what to do next."""


class DataError(ModelError):
    """A data folder, image or mask cannot be used; the text names the file."""


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged or does not fit the network that its card describes."""
