"""Bodies of requests as JSON."""

import json
from typing import Any

from flask import request

from backend.errors import BadRequest


def json_body() -> Any:
    """The body as JSON, whatever its content type says.

    Raises:
        BadRequest: it is something else.
    """
    data = request.get_data(cache=False)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # the latter for a body of ten thousand brackets
        raise BadRequest(f"{request.path}: the body should be JSON, got {len(data)} bytes that are not") from None


def json_object() -> dict[str, Any]:
    """The body as a JSON object that says so in its content type.

    A form on somebody else's page cannot send this content type, so no visitor's browser can be made to.

    Raises:
        BadRequest: it is something else.
    """
    if not request.is_json:
        raise BadRequest(f"{request.path}: send a JSON object with Content-Type: application/json")
    body = json_body()
    if not isinstance(body, dict):
        raise BadRequest(f"{request.path}: the body should be a JSON object, got a {type(body).__name__}")
    return body
