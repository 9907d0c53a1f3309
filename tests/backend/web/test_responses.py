"""One table says which status an error gets, as JSON and as a page."""

import pytest
from flask import Blueprint, Flask
from werkzeug.exceptions import ServiceUnavailable

from backend.errors import (
    BackendError,
    BadRequest,
    ConfigError,
    ImageError,
    JobConflict,
    JobError,
    LabelStudioError,
    RegistryError,
    UnknownJob,
    UnknownVersion,
    VersionConflict,
)
from backend.web.responses import STATUS, answer_errors, error_json

STATUSES = [
    (BadRequest, 400),
    (ConfigError, 422),
    (UnknownJob, 404),
    (JobConflict, 409),
    (JobError, 503),
    (UnknownVersion, 404),
    (VersionConflict, 409),
    (RegistryError, 503),
    (LabelStudioError, 502),
    (ImageError, 500),
]


def failing(error: Exception):
    """A client of an application whose route and whose page raise an error."""

    def fail():
        raise error

    app, pages = Flask(__name__), Blueprint("pages", __name__)
    answer_errors(app, error_json, "application/json")
    answer_errors(pages, lambda status, text: f"<p>{status} {text}</p>", "text/html; charset=utf-8")
    app.get("/route")(fail)
    pages.get("/page")(fail)
    app.register_blueprint(pages)
    return app.test_client()


@pytest.mark.parametrize(("kind", "status"), STATUSES)
def test_an_error_has_one_status_as_json_and_as_a_page(kind: type[BackendError], status: int):
    client = failing(kind("it broke; mend it"))
    route, page = client.get("/route"), client.get("/page")
    assert (route.status_code, route.json) == (status, {"error": "it broke; mend it", "status": status})
    assert (page.status_code, page.mimetype, page.text) == (status, "text/html", f"<p>{status} it broke; mend it</p>")


def test_a_row_for_a_kind_comes_after_those_for_its_kinds():
    """The first row that fits counts, so a base class listed first would hide its subclasses."""
    kinds = list(STATUS)
    assert all(not issubclass(later, earlier) for i, earlier in enumerate(kinds) for later in kinds[i + 1 :])


def test_the_headers_of_a_status_are_kept():
    client = failing(ServiceUnavailable("busy", retry_after=5))
    for path in ("/route", "/page"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Retry-After"], "busy" in answer.text) == (503, "5", True)


def test_an_unexpected_error_shows_nothing_of_itself():
    client = failing(ZeroDivisionError("inner workings"))
    for path in ("/route", "/page"):
        answer = client.get(path)
        assert answer.status_code == 500
        assert "inner workings" not in answer.text
