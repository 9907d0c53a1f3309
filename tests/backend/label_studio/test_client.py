"""Label Studio's API with either kind of key, and refusals that say what to change."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask, Response, redirect
from hypothesis import example, given
from hypothesis import strategies as st

from backend.errors import LabelStudioError
from backend.label_studio import client as client_module
from backend.label_studio import inspection
from backend.label_studio.client import LabelStudio
from backend.label_studio.connect import connect
from tests.backend.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serving
from tests.backend.label_studio.file_server import FileServer


def test_a_legacy_token_is_sent_as_it_is(server: FakeLabelStudio, client: LabelStudio) -> None:
    assert client.check()["email"] == "admin@example.com"
    assert server.requests == [("GET", "/api/current-user/whoami", f"Token {server.legacy_token}")]


def test_a_personal_token_is_swapped_once_for_an_access_token(server: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, f" {server.personal_token}\n")
    client.check()
    client.check()
    assert [path for _, path, _ in server.requests] == ["/api/token/refresh", *["/api/current-user/whoami"] * 2]
    assert {authorization for _, _, authorization in server.requests} == {"", f"Bearer {server.access_token}"}


def test_an_expired_access_token_is_renewed_and_the_call_repeated(server: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, server.personal_token)
    client.check()
    server.expire_access_tokens()
    assert client.check()["id"] == 1


def test_a_legacy_token_where_they_are_off_says_where_to_turn_them_on(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    server.legacy_enabled = False
    with pytest.raises(LabelStudioError, match=r"legacy token .*disabled.*API Tokens Settings") as caught:
        client.check()
    assert caught.value.status == 401
    assert server.legacy_token not in str(caught.value)


def test_a_revoked_personal_token_says_where_to_create_one(server: FakeLabelStudio) -> None:
    client = LabelStudio(server.url, PERSONAL_TOKEN)
    server.personal_token = "another"
    with pytest.raises(LabelStudioError, match=r"personal access token.*create one in Account & Settings") as caught:
        client.check()
    assert PERSONAL_TOKEN not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("key", ["legacy", PERSONAL_TOKEN])
@pytest.mark.parametrize("call", ["check", "presign"])
def test_no_key_follows_to_another_host(elsewhere: FileServer, status: int, key: str, call: str) -> None:
    """A server that is taken over, or a slip in its proxy, must not hand the team's key on."""
    app = Flask("label-studio")
    app.add_url_rule(
        "/<path:path>", view_func=lambda path: redirect(f"{elsewhere.url}/{path}", status), methods=["GET", "POST"]
    )
    with serving(app) as url:
        client = LabelStudio(url, key)
        if call == "presign" and key == "legacy":
            assert client.get_file("/data/upload/a.png").status_code == status  # left to the caller
        else:
            with pytest.raises(LabelStudioError, match=rf"sent on elsewhere; set LABEL_STUDIO_URL .*{elsewhere.url}"):
                client.check() if call == "check" else client.get_file("/data/upload/a.png")
    assert elsewhere.hosts == []


@pytest.mark.parametrize("location", ["http://[", "http://\xff", "//", "http://a:b:c/"])
def test_an_answer_that_leads_nowhere_is_an_error_of_label_studio(location: str) -> None:
    app = Flask("label-studio")
    app.add_url_rule("/<path:path>", view_func=lambda path: Response(status=302, headers={"Location": location}))
    with serving(app) as url, pytest.raises(LabelStudioError):
        LabelStudio(url, "key").check()


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}", b"\xff", b"<html>"])
@pytest.mark.parametrize("status", [200, 400])
def test_an_answer_that_cannot_be_read_is_an_error_of_label_studio(body: bytes, status: int) -> None:
    app = Flask("label-studio")
    app.add_url_rule("/<path:path>", view_func=lambda path: Response(body, status, content_type="application/json"))
    with serving(app) as url, pytest.raises(LabelStudioError, match=r"else than JSON|HTTP 400"):
        LabelStudio(url, "key").check()


def test_an_answer_that_is_too_large_is_not_received(
    server: FakeLabelStudio, client: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.label_studio.transport.MAX_ANSWER", 10)
    with pytest.raises(LabelStudioError, match="whoami: the answer is larger than"):
        client.check()


def test_a_request_that_a_proxy_finds_too_large_says_whose_limit_it_is(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    server.faults.append(("/whoami", 413, "refused"))
    with pytest.raises(LabelStudioError, match=r"too large for it or for a proxy.*client_max_body_size"):
        client.check()


@given(st.text(max_size=40).map(lambda text: f"http://{text}") | st.text(max_size=40))
@example("http://[")
@example("http://[::1")
@example("http://host:99999")
@example("http://host:port")
@example("http://\u2100.example")
@example("http://\ud800")
def test_an_address_that_is_none_is_refused_in_a_sentence(url: str) -> None:
    """Anybody who reaches /setup says where Label Studio is."""
    with contextlib.suppress(LabelStudioError):
        assert LabelStudio(url, "key").own_path("http://[") is None


@pytest.mark.parametrize("key", ["\u20ac", "\ud800", "a\nb"])
def test_a_key_that_cannot_be_sent_is_an_error_in_a_sentence(server: FakeLabelStudio, key: str) -> None:
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO"):
        LabelStudio(server.url, key).check()


def test_the_key_is_not_shown(client: LabelStudio, server: FakeLabelStudio) -> None:
    assert repr(client) == f"LabelStudio({server.url!r}, legacy token)"


def test_an_address_that_leads_elsewhere_names_the_right_one(elsewhere: FileServer) -> None:
    """A POST would be repeated as a GET there."""
    elsewhere.redirects["api/current-user/whoami"] = "https://real.example.com/api/current-user/whoami"
    with pytest.raises(LabelStudioError, match=r"set LABEL_STUDIO_URL .* begins with https://real\.example\.com"):
        LabelStudio(elsewhere.url, "key").check()


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "/label-studio"])
def test_an_address_without_scheme_or_host_is_refused_at_once(url: str) -> None:
    with pytest.raises(LabelStudioError, match="http://host:8080"):
        LabelStudio(url, "key")


def test_an_address_with_a_password_is_refused_at_once() -> None:
    with pytest.raises(LabelStudioError, match="user name") as caught:
        LabelStudio("http://me:secret@host", "key")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_down_is_named_with_the_cause() -> None:
    with pytest.raises(
        LabelStudioError, match=r"cannot be reached at http://127\.0\.0\.1:1: .*refused.*LABEL_STUDIO_URL"
    ):
        LabelStudio("http://127.0.0.1:1", "key").check()


def test_a_server_that_is_not_label_studio_is_recognised(elsewhere: FileServer) -> None:
    elsewhere.files["api/current-user/whoami"] = b"<html>hello</html>"
    with pytest.raises(LabelStudioError, match="is this Label Studio's address"):
        LabelStudio(elsewhere.url, "key").check()


def test_a_netrc_entry_does_not_replace_the_key(
    server: FakeLabelStudio, client: LabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert client.check()["id"] == 1


def test_a_missing_project_is_named(client: LabelStudio) -> None:
    with pytest.raises(LabelStudioError, match="/api/projects/99/: not found"):
        client.project(99)


def test_projects_are_created_listed_and_changed(server: FakeLabelStudio, client: LabelStudio) -> None:
    project = client.create_project("first", "<View/>")
    assert client.update_project(project["id"], model_version="v1")["model_version"] == "v1"
    assert [one["title"] for one in client.projects()] == ["first"]
    assert client.project(str(project["id"]))["task_number"] == 0


def test_files_are_uploaded_first_and_tasks_made_of_their_addresses(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    project = client.create_project("first", "<View/>")["id"]
    addresses = client.upload(project, {"b.png": b"two", "a.png": b"one"})
    assert server.tasks == {}
    assert [server.files[address] for address in addresses] == [b"two", b"one"]
    assert client.create_tasks(project, [{"image": address, "frame": n} for n, address in enumerate(addresses)]) == 2
    data = [row.data for row in client.task_rows(project)]
    assert data == [{"image": address, "frame": n} for n, address in enumerate(addresses)]


def test_addresses_of_uploads_have_the_path_that_label_studio_is_mounted_under() -> None:
    with FakeLabelStudio(base_path="/label-studio") as server:
        client = LabelStudio(server.url, server.legacy_token)
        project = client.create_project("first", "<View/>")["id"]
        (address,) = client.upload(project, {"a.png": b"one"})
        assert address.startswith("/label-studio/data/upload/")
        assert client.get_file(str(client.own_path(address))).content == b"one"


def test_uploads_become_tasks_whose_files_can_be_fetched(server: FakeLabelStudio, client: LabelStudio) -> None:
    project = client.create_project("first", "<View/>")["id"]
    assert client.import_files(project, {"a.png": b"one", "b.png": b"two"}) == 2
    addresses = [task["data"]["image"] for task in client.export(project, all_tasks=True)]
    files = []
    for address in addresses:
        path = client.own_path(address)
        assert path is not None
        files.append(client.get_file(path).content)
    assert files == [b"one", b"two"]


def test_an_export_has_annotated_tasks_or_all(server: FakeLabelStudio, client: LabelStudio) -> None:
    project = server.add_project("<View/>")
    first, second = (server.add_task(project, {"image": "/a"}) for _ in range(2))
    annotation = client.call("POST", f"/api/tasks/{second}/annotations/", json={"result": [], "parent_prediction": 5})
    exported = client.export(project)
    assert [task["id"] for task in exported] == [second]
    assert exported[0]["annotations"][0] == annotation
    assert [task["id"] for task in client.export(project, all_tasks=True)] == [first, second]
    assert client.task(second)["annotations"][0]["parent_prediction"] == 5


def test_predictions_are_imported_in_pieces(server: FakeLabelStudio, client: LabelStudio) -> None:
    project = server.add_project("<View/>")
    task = server.add_task(project, {"image": "/a"})
    rows = [{"task": task, "result": [], "score": 0.5, "model_version": "v1"}] * 250
    assert client.import_predictions(project, rows) == 250
    assert len(client.predictions(project)) == 250
    assert [method for method, path, _ in server.requests if path.endswith("import/predictions")] == ["POST"] * 3


@pytest.mark.parametrize(
    ("url", "address", "path"),
    [
        ("http://ls:8080", "/data/a.png", "/data/a.png"),
        ("http://ls:8080", "data/a.png", "/data/a.png"),
        ("http://ls:8080", "http://ls:8080/data/a.png?d=1", "/data/a.png?d=1"),
        ("http://ls", "http://LS:80/data/a.png", "/data/a.png"),
        ("https://ls", "https://ls:443/data/a.png", "/data/a.png"),
        ("http://ls:8080", "http://localhost:8080/data/a.png", "/data/a.png"),
        ("http://ls:8080", "http://127.0.0.1:8080/data/a.png", "/data/a.png"),
        ("http://localhost:8080", "http://[::1]:8080/data/a.png", "/data/a.png"),
        ("http://ls/x", "/x/data/a.png", "/data/a.png"),
        ("http://ls/x", "http://ls/x/data/a.png", "/data/a.png"),
        ("http://ls/x", "http://ls/xy/data/a.png", None),
        ("http://ls:8080", "http://localhost:9090/data/a.png", None),
        ("http://ls:8080", "http://ls/data/a.png", None),
        ("http://ls", "https://ls/data/a.png", None),
        ("https://ls", "http://ls:443/data/a.png", None),
        ("http://ls", "http://ls.evil.com/data/a.png", None),
        ("http://ls", "http://ls@evil.com/data/a.png", None),
        ("http://ls", "http://me@ls/data/a.png", None),
        ("http://ls", "http://ls:port/data/a.png", None),
        ("http://ls", "//evil.com/data/a.png", None),
    ],
)
def test_an_address_is_the_servers_own_only_if_scheme_host_and_port_say_so(
    url: str, address: str, path: str | None
) -> None:
    assert LabelStudio(url, "key").own_path(address) == path


def test_a_certificate_of_an_own_authority_is_explained(server: FakeLabelStudio) -> None:
    """Plain HTTP on the port of an https address fails like a wrong certificate does, in the TLS handshake."""
    with pytest.raises(LabelStudioError, match="REQUESTS_CA_BUNDLE"):
        LabelStudio(f"https://127.0.0.1:{server.port}", "key").check()


def test_tasks_are_listed_page_by_page(
    server: FakeLabelStudio, client: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "TASKS_AT_ONCE", 2)
    project = server.add_project("<View/>")
    server.add_task(server.add_project("<View/>"), {"image": "/other"})
    tasks = [server.add_task(project, {"image": f"/{n}"}) for n in range(5)]
    submitted = [server.add_annotation(tasks[1], []) for _ in range(2)]
    server.add_annotation(tasks[2], [], was_cancelled=True)
    assert [row.id for row in client.task_rows(project)] == tasks
    assert client.task_rows(project)[0].data == {"image": "/0"}
    (annotated,) = client.task_rows(project, annotated=True)
    assert (annotated.id, annotated.annotations) == (tasks[1], f"{submitted[0]},{submitted[1]}")
    assert [row.id for row in client.task_rows(project, annotated=False)] == [tasks[0], *tasks[2:]]


def test_pages_that_never_end_are_an_error() -> None:
    """A proxy that drops the query, say."""
    app = Flask("label-studio")
    page = {"tasks": [{"id": 1, "data": {}}], "total": 10**9}
    app.add_url_rule("/api/tasks", view_func=lambda: page)
    with serving(app) as url, pytest.raises(LabelStudioError, match=r"page 2 of the tasks of project 3 .* like those"):
        LabelStudio(url, "key").task_rows(3)


def test_chosen_tasks_come_with_the_versions_of_their_predictions(server: FakeLabelStudio, client: LabelStudio) -> None:
    project = server.add_project("<View/>")
    first, second = (server.add_task(project, {"image": "/a"}) for _ in range(2))
    client.import_predictions(project, [{"task": first, "result": [], "model_version": v} for v in ("v1", "v1-b")])
    rows = {row.id: row.versions for row in client.task_rows(project, [first, second, 99])}
    assert rows == {first: {"v1", "v1-b"}, second: frozenset()}
    assert client.task_rows(project, []) == []


def test_versions_are_all_known_where_the_column_is_cut_off(server: FakeLabelStudio, client: LabelStudio) -> None:
    project = server.add_project("<View/>")
    task = server.add_task(project, {"image": "/a"})
    versions = {f"p1-r{number:03d}-lite0" for number in range(60)}
    client.import_predictions(project, [{"task": task, "result": [], "model_version": v} for v in versions])
    assert client.task_rows(project, [task])[0].versions == versions


ODD = [
    None, 1, "a", [], [1], [None], [[]], {}, {"detail": "no"}, {"results": None}, {"results": {"a": 1}},
    {"tasks": None}, {"tasks": [{}], "total": 1}, {"tasks": [{"id": None, "data": {}}], "total": 1},
    {"tasks": [], "total": "many"},
    {"tasks": [], "total": 9}, [{"id": "x", "url": None, "title": []}], [{"id": [[["A" * 100_000]] * 50], "url": 3}],
    {"created": None}, {"task_count": [], "file_upload_ids": 3}, {"file_upload_ids": [7], "id": 1, "title": "t"},
]  # fmt: skip
CALLS: dict[str, Callable[[LabelStudio], object]] = {
    "check": lambda client: client.check().get("email"),
    "projects": lambda client: [project["id"] for project in client.projects()],
    "project": lambda client: str(client.project(1)["label_config"]),
    "create_project": lambda client: int(client.create_project("a", "<View/>")["id"]),
    "update_project": lambda client: client.update_project(1, title="a").get("title"),
    "import_files": lambda client: client.import_files(1, {"a.png": b"a"}),
    "upload": lambda client: client.upload(1, {"a.png": b"a"}),
    "create_tasks": lambda client: client.create_tasks(1, [{"image": "a"}]),
    "export": lambda client: [task.get("data") for task in client.export(1)],
    "task": lambda client: client.task(1)["data"],
    "annotations": lambda client: [one.get("result") for one in client.annotations(1)],
    "task_rows": lambda client: client.task_rows(1),
    "task_rows by id": lambda client: client.task_rows(1, [1, 2]),
    "next_tasks": lambda client: client.next_tasks(1, 2, 3),
    "predictions": lambda client: [(one["task"], one["model_version"]) for one in client.predictions(1)],
    "prediction": lambda client: client.prediction(1)["model_version"],
    "import_predictions": lambda client: client.import_predictions(1, [{"task": 1}]),
    "retrieve_predictions": lambda client: client.retrieve_predictions(1),
    "connect": lambda client: connect(client, 1, "http://host:9090"),
    "ml_backends": lambda client: [(one["id"], one["url"], one["title"]) for one in client.ml_backends(1)],
    "create_ml_backend": lambda client: client.create_ml_backend(1, "http://host", "a")["title"],
    "update_ml_backend": lambda client: client.update_ml_backend(1, title="a")["url"],
    "webhooks": lambda client: [(one["id"], one["url"]) for one in client.webhooks(1)],
    "update_webhook": lambda client: client.update_webhook(1, url="a").get("url"),
    "release": inspection.release,
    "takes_legacy_tokens": inspection.takes_legacy_tokens,
    "any_task": lambda client: inspection.any_task(client, "1"),
}


@pytest.fixture(scope="module")
def odd_server() -> Iterator[tuple[str, dict[str, object]]]:
    """Its address, and what it answers: change "answer"."""
    said: dict[str, object] = {}
    app = Flask("label-studio")
    methods = ["GET", "POST", "PATCH"]
    app.add_url_rule("/<path:path>", view_func=lambda path: Response(json.dumps(said["answer"])), methods=methods)
    with serving(app) as url:
        yield url, said


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_of_another_form_is_an_error_of_label_studio(
    odd_server: tuple[str, dict[str, object]], call: str
) -> None:
    """Never a KeyError, an endless loop, or nothing taken for a success."""
    url, said = odd_server
    client = LabelStudio(url, "key", (5, 5))
    refused: list[str] = []
    for answer in ODD:
        said["answer"] = answer
        try:
            CALLS[call](client)
        except LabelStudioError as error:
            refused.append(str(error))
    assert all(url in text and len(text) < 500 for text in refused)
    assert refused or call == "release"


def test_an_answer_of_another_form_is_told_with_what_was_expected_and_what_came(
    odd_server: tuple[str, dict[str, object]],
) -> None:
    url, said = odd_server
    said["answer"] = {"tasks": [{"id": 1, "data": {}}, {"id": "first", "data": {}}], "total": 2}
    with pytest.raises(LabelStudioError, match=r"/api/tasks answered .*tasks\.1\.id: .*integer.*got 'first'"):
        LabelStudio(url, "key").task_rows(1)
