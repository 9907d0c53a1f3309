"""Nothing but the open routes answers without the password, and browsers are told what to heed."""

import base64
import hmac
import re
from collections.abc import Iterator
from io import BytesIO

import pytest
from flask import Blueprint, Flask, render_template_string
from flask.testing import FlaskClient

from backend.entrypoints.wsgi import login_of
from backend.settings import Settings
from backend.system.login import Login
from backend.web import security
from backend.web.security import SESSION_COOKIE, protect_forms, secure
from tests.backend.fakes import setup_body, start_training

LOGIN = Login("lead", "pass:wörd", "h00k")
EVENT = {"action": "ANNOTATION_CREATED", "project": {"id": 3}}


@pytest.fixture
def guarded(make_client) -> FlaskClient:
    return make_client(login=LOGIN)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def test_every_route_but_the_open_ones_asks_for_the_password(guarded):
    rules = [rule for rule in guarded.application.url_map.iter_rules() if rule.rule not in security.OPEN]
    assert len(rules) > 8
    for rule in rules:
        for method in rule.methods - {"OPTIONS"}:
            answer = guarded.open(re.sub("<[^>]*>", "1", rule.rule), method=method)
            assert answer.status_code == 401, rule
            assert answer.headers["WWW-Authenticate"].startswith("Basic realm=premask")
    assert guarded.get("/nowhere").status_code == 401
    for path in ("/", "/health"):
        assert guarded.get(path).status_code == 200


VIEWED = Login("lead", "pass:wörd", "h00k", "guest", "look-0nly", "X-Role", ("127.0.0.1", "10.0.0.0/8"))


def test_a_viewer_sees_everything_and_changes_nothing(make_client, registry):
    client = make_client(login=VIEWED)
    guest = basic("guest", "look-0nly")
    for path in ("/dashboard", "/versions", "/api/jobs", "/api/versions"):
        assert client.get(path, headers=guest).status_code == 200
    rules = [rule for rule in client.application.url_map.iter_rules() if "POST" in rule.methods]
    assert len(rules) > 10
    for rule in rules:
        answer = client.post(re.sub("<[^>]*>", "1", rule.rule), headers=guest)
        assert answer.status_code == 403, rule
        assert "only a lead may change" in answer.text
    assert client.get("/versions", headers=basic("guest", "pass:wörd")).status_code == 401


def test_a_viewers_page_has_no_buttons(make_client, credentials):
    client = make_client(login=VIEWED)
    credentials.remember("5", "http://ls.example", "t0ken")
    assert "/projects/5/train" in client.get("/dashboard/projects/5", headers=basic("lead", "pass:wörd")).text
    page = client.get("/dashboard/projects/5", headers=basic("guest", "look-0nly")).text
    assert "<form" not in page
    assert "a lead may change it" in page


@pytest.mark.parametrize(
    ("said", "address", "status"),
    [
        ("lead", "127.0.0.1", 201),
        ("Lead", "10.1.2.3", 201),
        ("viewer", "10.1.2.3", 403),
        ("admin", "10.1.2.3", 401),
        ("lead", "192.168.1.5", 401),  # everybody can send a header
        ("", "127.0.0.1", 401),
    ],
)
def test_a_proxy_says_who_is_a_lead(make_client, said, address, status):
    client = make_client(login=VIEWED)
    where = {"REMOTE_ADDR": address}
    answer = client.post("/webhook", json=start_training(), headers={"X-Role": said}, environ_base=where)
    assert answer.status_code == status


def test_browsers_are_led_to_the_pages_and_others_told_that_it_lives(make_client):
    client = make_client(login=VIEWED)
    page = client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.status_code, page.location) == (302, "/dashboard")
    assert client.get("/").json["status"] == "UP"
    assert client.get("/", headers={"Accept": "*/*"}).json["status"] == "UP"
    icon = client.get("/favicon.ico", buffered=True)
    assert (icon.status_code, icon.mimetype) == (200, "image/svg+xml")


def test_the_password_opens_every_route(guarded):
    assert guarded.get("/versions", headers=basic("lead", "pass:wörd")).status_code == 200
    assert guarded.post("/setup", json=setup_body(), headers=basic("lead", "pass:wörd")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        basic("lead", "wrong"),
        basic("other", "pass:wörd"),
        basic("", ""),
        basic("lead", "pass"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic \xff\xfe"},
        {"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode()},
        {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
        {"Authorization": "Bearer pass:wörd".encode().decode("latin-1")},
        {"Authorization": "Token h00k"},
        {"X-Premask-Token": "h00k"},
    ],
)
def test_anything_else_does_not(guarded, headers):
    assert guarded.get("/versions", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "login", [("lead", "wrong"), ("other", "pass:wörd"), ("other", "wrong"), ("lead", "pass:wörd")]
)
def test_how_long_it_takes_tells_nothing_about_user_or_password(guarded, monkeypatch, login):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(security, "compare_digest", compare)
    guarded.get("/versions", headers=basic(*login))
    user, password = (text.encode() for text in login)
    assert compared == [(user, b"lead"), (password, "pass:wörd".encode())]


@pytest.mark.parametrize("path", ["/predict", "/setup", "/webhook", "/api/versions/promote", "/api/projects/3/predict"])
def test_a_body_that_does_not_say_its_size_is_cut_off_at_the_limit(client, path):
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    body = BytesIO(b" " * (2 << 20))
    answer = client.post(path, input_stream=body, environ_overrides=chunked, content_type="application/json")
    assert answer.status_code == 413
    assert body.tell() <= (1 << 20) + (64 << 10)


def test_ten_thousand_brackets_are_no_json(client):
    for body in (b"[" * 10_000, b'{"a":' * 10_000, b'{"project": ' + b"9" * 10_000 + b"}"):
        assert client.post("/train", data=body).status_code == 400


def test_the_webhooks_token_opens_the_webhook_alone(guarded):
    """Label Studio's webhooks about annotations carry no password; Start Training does."""
    assert guarded.post("/webhook", json=EVENT).status_code == 401
    assert guarded.post("/webhook?token=wrong", json=EVENT).status_code == 401
    assert guarded.post("/webhook?token=h00k", json=EVENT).status_code == 200
    assert guarded.post("/webhook", json=EVENT, headers={"X-Premask-Token": "h00k"}).status_code == 200
    assert guarded.post("/webhook", json=start_training(), headers=basic("lead", "pass:wörd")).status_code == 201
    assert guarded.post("/train?token=h00k", json={"project": "3"}).status_code == 401


def test_without_a_token_the_webhook_needs_the_password(make_client):
    client = make_client(login=Login("lead", "s3cret"))
    assert client.post("/webhook?token=", json=EVENT).status_code == 401
    assert client.post("/webhook", json=EVENT, headers=basic("lead", "s3cret")).status_code == 200


def test_a_login_shows_no_secret():
    assert "wörd" not in repr(LOGIN)
    assert "h00k" not in repr(LOGIN)


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/versions"])
def test_every_answer_tells_browsers_what_to_heed(client, path):
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 201),  # Label Studio, scripts
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 201),
        ({"Origin": "http://localhost"}, 201),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost"}, 403),
    ],
)
def test_other_sites_pages_start_no_training(client, headers, status):
    answer = client.post("/train", data='{"project": "3"}', content_type="text/plain", headers=headers)
    assert answer.status_code == status


def server_with_forms(key: bytes | None = None) -> Flask:
    pages = Blueprint("pages", __name__)
    protect_forms(pages, key)

    @pages.get("/form")
    def form() -> str:
        return render_template_string("{{ csrf_token() }}")

    @pages.post("/press")
    def press() -> str:
        return "pressed"

    app = Flask(__name__)
    secure(app, None)
    app.register_blueprint(pages)
    return app


@pytest.fixture
def pages() -> Iterator[FlaskClient]:
    with server_with_forms().test_client() as client:
        yield client


def test_a_form_may_be_posted_to_any_server_that_signs_with_the_same_key():
    page = server_with_forms(b"k" * 32).test_client()
    token = page.get("/form").text
    session = page.get_cookie(SESSION_COOKIE).value
    for key, status in ((b"k" * 32, 200), (b"j" * 32, 403), (None, 403)):
        other = server_with_forms(key).test_client()
        other.set_cookie(SESSION_COOKIE, session)
        assert other.post("/press", data={"csrf_token": token}).status_code == status


def test_a_form_of_our_own_page_is_taken(pages):
    answer = pages.get("/form")
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=Strict" in answer.headers["Set-Cookie"]
    for token in (answer.text, pages.get("/form").text):  # two tabs
        assert pages.post("/press", data={"csrf_token": token}).text == "pressed"


def test_a_form_without_its_token_or_with_another_browsers_is_refused(pages):
    token = pages.get("/form").text
    for data in ({}, {"csrf_token": ""}, {"csrf_token": token + "x"}, {"csrf_token": "é"}):
        answer = pages.post("/press", data=data)
        assert (answer.status_code, "reload it" in answer.text) == (403, True)
    stranger = pages.application.test_client()
    assert stranger.post("/press", data={"csrf_token": token}).status_code == 403
    stranger.set_cookie(SESSION_COOKIE, "planted")
    assert stranger.post("/press", data={"csrf_token": token}).status_code == 403


def test_an_open_door_is_warned_of_unless_only_this_machine_reaches_it(tmp_path, caplog):
    open_door = {"PREMASK_DATA_DIR": str(tmp_path)}
    assert login_of(Settings.from_environ(open_door)) is None
    assert caplog.text == ""
    assert login_of(Settings.from_environ(open_door | {"PREMASK_HOST": "0.0.0.0"})) is None
    assert "everybody who reaches 0.0.0.0:9090 may see and change everything" in caplog.text
    locked = open_door | {"PREMASK_BASIC_AUTH_USER": "lead", "PREMASK_BASIC_AUTH_PASSWORD": "s3cret-s3cret"}
    assert login_of(Settings.from_environ(locked)) == Login("lead", "s3cret-s3cret", None)
