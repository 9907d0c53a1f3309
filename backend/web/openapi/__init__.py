"""The HTTP interface as an OpenAPI 3.1 document: routes in routes.yaml, what they carry in schemas.yaml.

A test compares it with the application's routes and checks every answer of the property tests against it.
"""

from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import yaml

DESCRIPTION = """\
What Label Studio asks an annotation backend, and what people and scripts ask about jobs and model versions.

Errors are JSON, `{"error": "what was wrong and what to do", "status": 400}`. Every answer carries `X-Request-ID`, which
the log lines of its request show; send one of your own, up to 64 letters, digits, `_`, `.` or `-`, and it is kept.
With `PREMASK_BASIC_AUTH_USER` and `PREMASK_BASIC_AUTH_PASSWORD` everything but `/` and `/health` asks for the password.
"""
# Answers that come from before a route: added to those that an operation names itself.
ALWAYS = {"400": "Refused", "413": "TooLarge", "500": "Failed"}
GUARDED = {"401": "NoPassword"}
CHANGING = {"403": "OtherSite"}


@cache
def document() -> dict[str, Any]:
    """The description, complete; made once, so it is not to be changed."""
    paths = {
        path: {
            method: value if method == "parameters" else _complete(method, value)
            for method, value in operations.items()
        }
        for path, operations in _read("routes.yaml").items()
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "premask", "version": version("premask"), "description": DESCRIPTION},
        "security": [{"password": []}],
        "tags": [
            {"name": "label-studio", "description": "What Label Studio asks its backend."},
            {"name": "jobs", "description": "Trainings, and predictions for many tasks."},
            {"name": "review", "description": "Accepted tasks that are worth a second look."},
            {"name": "versions", "description": "Model versions of each project."},
            {"name": "operations", "description": "For those who watch over the server."},
            {"name": "dashboard", "description": "Pages for people; their forms carry the page's `csrf_token`."},
        ],
        "paths": paths,
        "components": _read("schemas.yaml"),
    }


def _complete(method: str, operation: dict[str, Any]) -> dict[str, Any]:
    """An operation with the answers that come from before its route."""
    names = ALWAYS | (CHANGING if method == "post" else {}) | ({} if operation.get("security") == [] else GUARDED)
    answers = {status: {"$ref": f"#/components/responses/{name}"} for status, name in names.items()}
    return operation | {"responses": answers | operation["responses"]}


def _read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(files(__name__).joinpath(name).read_text(encoding="utf-8"))
    return content
