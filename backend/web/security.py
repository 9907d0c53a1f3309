"""Who may ask for what, and what browsers may do with the answers."""

from dataclasses import dataclass, field
from hmac import compare_digest

from flask import Flask, Response, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Unauthorized

from backend.web.csrf import refuse_other_sites

# Load balancers and Label Studio ask these before they know a password.
OPEN = ("/", "/health")
WEBHOOK = "/webhook"
TOKEN_HEADER = "X-Premask-Token"

HEADERS = {
    # Pages load nothing but our own styles, scripts and pictures, and nobody shows them in a frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer", with which browsers hide from us that a form is our own.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # PredictionCache hold masks of patients' images: no proxy keeps them.
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """What a caller has to know.

    Attributes:
        user: of HTTP Basic authentication.
        password: of HTTP Basic authentication.
        webhook_token: opens /webhook without them, as `?token=` or in the header X-Premask-Token: Label Studio's
            webhooks about annotations carry no password.
    """

    user: str
    password: str = field(repr=False)
    webhook_token: str | None = field(default=None, repr=False)


def secure(app: Flask, access: Access | None) -> None:
    """Check every request of an application, and send browsers the headers that keep them safe.

    Args:
        app: the application.
        access: what callers have to know; None lets everybody in.
    """

    @app.before_request
    def check() -> None:
        refuse_other_sites()
        if access is None or request.path in OPEN or _knows_password(access) or _knows_token(access):
            return
        raise Unauthorized(
            "user and password are needed (HTTP Basic authentication)",
            www_authenticate=WWWAuthenticate("basic", {"realm": "premask", "charset": "UTF-8"}),
        )

    @app.after_request
    def protect(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def _knows_password(access: Access) -> bool:
    given = request.authorization
    if given is None or given.type != "basic":
        return False
    # Both are compared, always: how long it takes tells nothing about either.
    return _same(given.username, access.user) & _same(given.password, access.password)


def _knows_token(access: Access) -> bool:
    if access.webhook_token is None or request.path != WEBHOOK:
        return False
    return _same(request.headers.get(TOKEN_HEADER) or request.args.get("token"), access.webhook_token)


def _same(given: str | None, expected: str) -> bool:
    return compare_digest((given or "").encode("utf-8", "replace"), expected.encode())
