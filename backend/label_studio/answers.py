"""The shapes of Label Studio's answers, as far as this backend uses them; what else they hold is kept as it is.

An answer of another shape comes from another server, a proxy or a release that nobody has tried. It is an error that
names the call, what was expected and what came, never a KeyError somewhere later.
"""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from backend.errors import LabelStudioError
from models.errors import brief

_more = with_config(ConfigDict(extra="allow"))


@_more
class _Numbered(TypedDict):
    id: int


@_more
class _Task(_Numbered):
    data: dict[str, Any]


@_more
class _Tasks(TypedDict):
    tasks: list[_Task]
    total: int


@_more
class _Titled(_Numbered):
    title: str | None


@_more
class _Project(_Titled):
    label_config: str | None


@_more
class _Addressed(_Numbered):
    url: str


@_more
class _Backend(_Addressed):
    title: str | None


@_more
class _Prediction(TypedDict):
    task: int
    model_version: str | None


@_more
class _Upload(_Numbered):
    file: str


@_more
class _Uploaded(TypedDict):
    file_upload_ids: list[int]


@_more
class _Created(TypedDict):
    created: int


@_more
class _Counted(TypedDict):
    task_count: int


def _rows(answer: Any) -> Any:
    """The rows of an answer, whether or not the endpoint pages it."""
    return answer["results"] if isinstance(answer, dict) and "results" in answer else answer


def _shape(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _listed(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[list[kind], BeforeValidator(_rows)])


OBJECT, OBJECTS = _shape(dict[str, Any]), _listed(dict[str, Any])
PROJECT, PROJECTS = _shape(_Project), _listed(_Titled)
TASKS, TASK = _shape(_Tasks), _shape(_Task)
BACKEND, BACKENDS = _shape(_Backend), _listed(_Backend)
WEBHOOKS, UPLOADS = _listed(_Addressed), _listed(_Upload)
PREDICTION, PREDICTIONS = _shape(_Prediction), _listed(_Prediction)
CREATED, COUNTED, UPLOADED = _shape(_Created), _shape(_Counted), _shape(_Uploaded)


def checked(answer: Any, kind: TypeAdapter[Any], what: str) -> Any:
    """An answer that has a shape.

    Args:
        answer: JSON.
        kind: the shape, one of the above.
        what: the call, for people: "GET http://host/api/projects/3/".

    Raises:
        LabelStudioError: it has another; the text says where, what was expected and what came.
    """
    try:
        return kind.validate_python(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise LabelStudioError(
            f"{what} answered in a form that is not Label Studio's: {where}: {first['msg']}, got "
            f"{brief(first['input'])}",
            remedy="is this Label Studio's address, and a release that docs/compatibility.md names?",
        ) from None
