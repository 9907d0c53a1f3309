"""Answers to what goes wrong: one table of statuses, for JSON and for pages alike."""

import json
import logging
from collections.abc import Callable

from flask import Blueprint, Flask, Response, g, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from backend.errors import (
    BackendError,
    BadRequest,
    ConfigError,
    JobConflict,
    JobError,
    LabelStudioError,
    RegistryError,
    UnknownJob,
    UnknownTask,
    UnknownVersion,
    VersionConflict,
)
from backend.system.logs import REQUEST_ID

logger = logging.getLogger(__name__)

# The first row that an error belongs to counts; an error of no row is answered with 500.
STATUS: dict[type[BackendError], int] = {
    BadRequest: 400,
    ConfigError: 422,
    UnknownJob: 404,
    UnknownTask: 404,
    JobConflict: 409,
    UnknownVersion: 404,
    VersionConflict: 409,
    LabelStudioError: 502,
    # What is there cannot be read or written now: a full disk, a database that is away, a queue that is full.
    JobError: 503,
    RegistryError: 503,
}


def status_of(error: BackendError) -> int:
    """The HTTP status that an error is answered with."""
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)


def error_json(status: int, text: str) -> str:
    """An error as scripts and Label Studio get it."""
    return json.dumps({"error": text, "status": status})


def answer_errors(owner: Flask | Blueprint, write: Callable[[int, str], str], content_type: str) -> None:
    """Answer every error of an application's or a blueprint's routes, and keep its words as `g.refusal` for the log.

    Label Studio shows nobody what it was answered.

    Args:
        owner: the application or blueprint.
        write: makes the body of a status and a text.
        content_type: of these bodies.
    """

    @owner.errorhandler(BackendError)
    def expected(error: BackendError) -> Response:
        return answer(status_of(error), str(error))

    @owner.errorhandler(HTTPException)
    def refused(error: HTTPException) -> ResponseReturnValue:
        response = error.get_response()  # with the headers of its status: Allow, WWW-Authenticate, Retry-After ...
        response.content_type = content_type
        text = said(error)
        response.set_data(write(error.code or 500, text))
        g.refusal = text
        return response

    @owner.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        logger.exception("%s %s failed", request.method, request.path)
        return answer(500, f"the backend failed; its log says more about request {REQUEST_ID.get()}")

    def answer(status: int, text: str) -> Response:
        g.refusal = text
        return Response(write(status, text), status, content_type=content_type)


def said(error: HTTPException) -> str:
    """What an error of HTTP tells the caller."""
    if isinstance(error, RequestEntityTooLarge):
        most = (request.max_content_length or 0) / (1 << 20)
        sent = "" if request.content_length is None else f", got {request.content_length / (1 << 20):.0f} MB"
        return f"{request.path}: a body may have {most:g} MB{sent}; send less, or raise PREMASK_MAX_REQUEST_MB"
    return error.description or error.name
