"""JSON files of a known shape: what was written by another release, by hand or half is told before it is used."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

MAX_BYTES = 64 << 20

Kind = TypeVar("Kind")
Figure = (
    Annotated[float, Field(allow_inf_nan=False)] | None
)  # a measured number, None where there was nothing to measure


class Part(BaseModel):
    """An object of which some keys are known; what else it holds is kept as it is."""

    model_config = ConfigDict(extra="allow")


def read_json(path: Path, kind: TypeAdapter[Kind]) -> Kind:
    """The contents of a file.

    Args:
        path: the file.
        kind: its shape.

    Raises:
        OSError: the file cannot be read; FileNotFoundError if there is none.
        ValueError: it holds something else; the text says where and what is expected.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"it has {size} bytes, more than the {MAX_BYTES} that such a file can have")
    return parse_json(path.read_bytes(), kind)


def parse_json(content: bytes | str, kind: TypeAdapter[Kind]) -> Kind:
    """The contents of a file that was read already; raises ValueError as `read_json` does."""
    try:
        return kind.validate_json(content)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """Where a document is not of its shape, and what is expected there."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
