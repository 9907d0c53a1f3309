"""Access: passwords and tokens, requests from other sites' pages, and what browsers may do with the answers."""

import secrets
from collections.abc import Collection
from hmac import compare_digest
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Request, Response, g, request
from flask.blueprints import BlueprintSetupState
from flask.sessions import SecureCookieSessionInterface
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized

from backend.system.login import LEAD, TOKEN_HEADER, VIEWER, Login
from backend.web.hosts import Hosts

# Load balancers and Label Studio ask these before they know a password.
OPEN = ("/", "/health", "/favicon.ico")
WEBHOOK = "/webhook"
# Name of an application's extension: whether the caller with such headers, as WSGI has them, may send a body.
ADMITS = "premask-admits"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SESSION_COOKIE = "premask_session"

HEADERS = {
    # Pages load nothing but our own styles, scripts and pictures, and no page of another site shows them in a frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer", with which browsers hide from us that a form is our own.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Answers hold masks of patients' images: no proxy keeps them.
    "Cache-Control": "no-store",
}


def secure(app: Flask, login: Login | None, allowed_hosts: Collection[str] = ()) -> None:
    """Check every request of an application, and send browsers the headers that keep them safe.

    Args:
        app: the application.
        login: asked of callers; None lets everybody in.
        allowed_hosts: names under which it answers, as in `Hosts`. With a password and no names any name will do: a
            page that passes for the server does not have the password.
    """
    hosts = Hosts(allowed_hosts) if login is None or allowed_hosts else None

    @app.before_request
    def check() -> None:
        if hosts is not None and request.path not in OPEN:
            hosts.check(request.headers.get("Host"))
        _refuse_other_sites()
        g.role = role_of(request, login)
        if request.path in OPEN:
            return
        if g.role is None:
            raise Unauthorized(
                "user and password are needed (HTTP Basic authentication)",
                www_authenticate=WWWAuthenticate("basic", {"realm": "premask", "charset": "UTF-8"}),
            )
        if g.role != LEAD and request.method not in SAFE_METHODS:
            raise Forbidden("you may look at everything here; only a lead may change something")

    app.extensions[ADMITS] = lambda environ: role_of(Request(environ), login) is not None

    @app.after_request
    def protect(response: Response) -> Response:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def protect_forms(pages: Blueprint, key: bytes | None = None) -> None:
    """Require a token of our own pages with every form that is posted to these pages.

    A browser adds the password it remembers to every request, also to one that another site's page caused; it cannot
    add the token, which templates get as a function:

        <input type="hidden" name="csrf_token" value="{{ csrf_token() }}">

    A token that another key signed is refused with 403, and the page has to be reloaded.

    Args:
        pages: whose forms they are.
        key: signs tokens and sessions: a page of one server may be posted to any other that has the same. None makes a
            new one, with which tokens hold until the server starts again.
    """
    csrf = CSRFProtect()

    @pages.record_once
    def begin(state: BlueprintSetupState) -> None:
        app = state.app
        assert isinstance(app, Flask)
        app.secret_key = key or secrets.token_bytes(32)
        app.session_interface = _Sessions()
        app.config.update(
            SESSION_COOKIE_NAME=SESSION_COOKIE,
            SESSION_COOKIE_PATH=pages.url_prefix or "/",
            SESSION_COOKIE_SAMESITE="Strict",
            WTF_CSRF_CHECK_DEFAULT=False,  # Label Studio and scripts have no token: Origin tells about them
            WTF_CSRF_TIME_LIMIT=None,
            WTF_CSRF_SSL_STRICT=False,  # Origin is checked for every route, with or without https
        )
        csrf.init_app(app)

    @pages.before_request
    def check() -> None:
        try:
            csrf.protect()
        except CSRFError:
            raise Forbidden("this page is too old to press its buttons: reload it and press again") from None


class _Sessions(SecureCookieSessionInterface):
    """Sessions whose cookie stays on https where the page came by https."""

    def get_cookie_secure(self, app: Flask) -> bool:
        return request.is_secure


def _refuse_other_sites() -> None:
    """Raise Forbidden if a page of another site had the browser change something here.

    Label Studio and scripts send neither header. Browsers send Sec-Fetch-Site over https and to localhost, and Origin
    with every POST.
    """
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site") or (
        "same-origin" if origin is None or _host_of(origin) == request.host else "cross-site"
    )
    if site not in ("same-origin", "none"):
        raise Forbidden(
            f"a page of {origin or 'another site'} tried to change something here; a proxy before this server must "
            "hand on the Host header"
        )


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def role_of(request: Request, login: Login | None) -> str | None:
    """LEAD, VIEWER, or None for a caller who is not known; the webhook's token admits to the webhook."""
    if login is None:
        return LEAD
    if login.role_header is not None and _through_proxy(request, login):
        said = (request.headers.get(login.role_header) or "").strip().lower()
        if said in (LEAD, VIEWER):
            return said
    if _knows_password(request, login.user, login.password) or _knows_token(request, login):
        return LEAD
    if login.viewer_user is not None and _knows_password(request, login.viewer_user, login.viewer_password or ""):
        return VIEWER
    return None


def _through_proxy(request: Request, login: Login) -> bool:
    """Whether the connection comes from a proxy that may say who somebody is: everybody can send a header."""
    try:
        address = ip_address(request.remote_addr or "")
    except ValueError:
        return False
    return any(address in ip_network(proxy, strict=False) for proxy in login.role_proxies)


def _knows_password(request: Request, user: str, password: str) -> bool:
    try:
        given = request.authorization
    except ValueError:  # of werkzeug, for signs that are not ASCII where base64 should be
        return False
    if given is None or given.type != "basic":
        return False
    # Both are compared, always: how long it takes tells nothing about either.
    return _same(given.username, user) & _same(given.password, password)


def _knows_token(request: Request, login: Login) -> bool:
    if login.webhook_token is None or request.path != WEBHOOK:
        return False
    return _same(request.headers.get(TOKEN_HEADER) or request.args.get("token"), login.webhook_token)


def _same(given: str | None, expected: str) -> bool:
    return compare_digest((given or "").encode("utf-8", "replace"), expected.encode())
