"""Keeping other sites' pages from pressing our buttons in the browser of somebody who may.

A browser adds the password it remembers to every request, whoever's page caused it. Two things tell such requests
apart: what the browser says about where they come from, checked for every route, and a token that only our own pages
hold, checked for forms (a signed double submit: one half in a cookie, the other in the form).
"""

import secrets
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, g, request
from itsdangerous import BadSignature, URLSafeSerializer
from werkzeug.exceptions import Forbidden

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
COOKIE = FIELD = "csrf_token"


def refuse_other_sites() -> None:
    """Raise Forbidden if a page of another site had the browser change something here.

    Label Studio and scripts send neither header. Browsers send Sec-Fetch-Site over https and to localhost, and Origin
    with every POST.
    """
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site") or (
        "same-origin" if origin is None or urlsplit(origin).netloc == request.host else "cross-site"
    )
    if site not in ("same-origin", "none"):
        raise Forbidden(
            f"a page of {origin or 'another site'} tried to change something here; a proxy before this server must "
            "hand on the Host header"
        )


def protect_forms(pages: Blueprint) -> None:
    """Have every form that is posted to these pages carry `csrf_token`, which their templates get as a function.

        <input type="hidden" name="csrf_token" value="{{ csrf_token() }}">

    Tokens hold until the server starts again; a page from before then is refused with 403 and has to be reloaded.
    """
    signed = URLSafeSerializer(secrets.token_bytes(32), salt="premask.csrf")

    def csrf_token() -> str:
        if "csrf_half" not in g:
            g.csrf_half = request.cookies.get(COOKIE) or secrets.token_urlsafe(16)
        return str(signed.dumps(g.csrf_half))

    @pages.context_processor
    def offer() -> dict[str, Any]:
        return {"csrf_token": csrf_token}

    @pages.before_request
    def check() -> None:
        if request.method in SAFE_METHODS:
            return
        try:
            half = signed.loads(request.form.get(FIELD, ""))
        except BadSignature:
            half = None
        cookie = request.cookies.get(COOKIE, "")
        if not isinstance(half, str) or not compare_digest(half.encode(), cookie.encode("utf-8", "replace")):
            raise Forbidden("this page is too old to press its buttons: reload it and press again")

    @pages.after_request
    def keep(response: Response) -> Response:
        if "csrf_half" in g:
            response.set_cookie(COOKIE, g.csrf_half, secure=request.is_secure, httponly=True, samesite="Strict")
        return response
