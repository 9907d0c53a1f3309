"""Bodies of requests as JSON."""

import json
from typing import Any

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from backend.errors import BadRequest
from models.errors import brief


def json_body(without: dict[str, Any] | None = None) -> Any:
    """The body as JSON; its content type is not looked at.

    Args:
        without: returned for an empty body; None refuses it.

    Raises:
        BadRequest: it is something else.
        RequestEntityTooLarge: it is larger than a body may be.
    """
    if (coding := request.headers.get("Content-Encoding", "identity")) != "identity":
        raise BadRequest(f"{request.path}: send the body as it is, without Content-Encoding; got {brief(coding)}")
    data = request.get_data(cache=False)
    if request.content_length is None and len(data) == request.max_content_length:
        raise RequestEntityTooLarge  # a body that did not say its size is cut off there without a word
    if not data and without is not None:
        return without
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
