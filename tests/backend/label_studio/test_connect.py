"""Registering with a project: once, for good, and with the reason when it cannot be."""

from collections.abc import Iterator

import pytest
import requests
from flask import Flask, request

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.label_studio.connect import connect, describe
from backend.system.login import Login
from backend.web.security import secure
from tests.backend.fake_label_studio import FakeLabelStudio, serving
from tests.backend.label_studio.configs import BRUSH


def test_a_backend_is_registered_once_and_annotators_start_from_it(
    server: FakeLabelStudio, client: LabelStudio, backend_url: str
) -> None:
    project = server.add_project(BRUSH)
    server.projects[project]["show_collab_predictions"] = False
    lines: list[str] = []
    first = connect(client, project, backend_url, lines.append)
    assert (first.created, first.model_version, first.project_id) == (True, "lite0", str(project))
    # Label Studio shows scores only of what is named in both places.
    assert server.projects[project]["model_version"] == server.backends[first.backend_id]["title"] == "lite0"
    assert server.projects[project]["show_collab_predictions"] is True
    assert any("admin@example.com" in line for line in lines)
    assert f"Registered as 'lite0' at {backend_url}" in lines
    assert any("SSRF_PROTECTION_ENABLED" in warning for warning in first.warnings)
    server.requests.clear()
    again = connect(client, str(project), backend_url + "/")
    assert (again.created, again.backend_id) == (False, first.backend_id)
    assert {method for method, _, _ in server.requests} == {"GET"}
    assert len(server.backends) == len(server.webhooks) == 1


@pytest.mark.parametrize("address", ["http://[", "localhost:9090", "http://host:port", "http://", "http://host:99999"])
@pytest.mark.parametrize("name", ["backend", "dashboard"])
def test_an_address_that_is_none_is_told_before_label_studio_is_asked(
    server: FakeLabelStudio, client: LabelStudio, address: str, name: str
) -> None:
    given = {"backend": address, "dashboard": None} if name == "backend" else {"backend": "http://a", name: address}
    with pytest.raises(LabelStudioError, match=rf"the {name}'s address '.*' cannot be used: .*; write it as") as caught:
        connect(client, 1, str(given["backend"]), dashboard=given["dashboard"])
    assert address in str(caught.value)
    assert server.requests == []


def test_smart_tools_show_up_also_for_a_backend_that_was_registered_by_hand(
    server: FakeLabelStudio, client: LabelStudio, backend_url: str
) -> None:
    project = server.add_project(BRUSH)
    client.create_ml_backend(project, backend_url, "by hand")
    connected = connect(client, project, backend_url)
    assert not connected.created
    assert server.backends[connected.backend_id]["is_interactive"] is True
    assert server.backends[connected.backend_id]["title"] == "lite0"


def test_a_private_address_that_label_studio_refuses_names_both_switches(
    server: FakeLabelStudio, client: LabelStudio, backend_url: str
) -> None:
    server.block_local_backends = True
    with pytest.raises(LabelStudioError, match=r"ML_BLOCK_LOCAL_IP=false.*SSRF_PROTECTION_ENABLED=false") as caught:
        connect(client, server.add_project(BRUSH), backend_url)
    assert caught.value.status == 403


def test_a_backend_that_label_studio_cannot_reach_names_the_addresses_tried(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    with pytest.raises(LabelStudioError, match=r"127\.0\.0\.1:1/health and http.*/setup.*inside Docker") as caught:
        connect(client, server.add_project(BRUSH), "http://127.0.0.1:1")
    assert caught.value.status == 400


def test_a_registered_backend_that_is_down_is_not_called_connected(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    project = server.add_project(BRUSH)
    server.backends[99] = {"id": 99, "project": project, "url": "http://127.0.0.1:1", "title": "premask"}
    with pytest.raises(LabelStudioError, match="the backend must run"):
        connect(client, project, "http://127.0.0.1:1")


def test_another_backend_before_ours_and_a_missing_webhook_are_pointed_out(
    server: FakeLabelStudio, client: LabelStudio, backend_url: str
) -> None:
    project = server.add_project(BRUSH)
    server.backends[98] = {"id": 98, "project": project, "url": "http://127.0.0.1:1", "title": "older"}
    connected = connect(client, project, backend_url)
    assert any("'older'" in warning for warning in connected.warnings)
    server.webhooks.clear()
    assert any("no webhook" in warning for warning in connect(client, project, backend_url).warnings)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (BRUSH.replace("</View>", '<TextArea name="note" toName="image"/></View>'), '<TextArea name="note">'),
        ("<View/>", "offers nothing that this backend can fill"),
    ],
)
def test_what_of_the_labelling_config_stays_empty_is_said(
    client: LabelStudio, server: FakeLabelStudio, backend_url: str, changed: str, said: str
) -> None:
    connected = connect(client, server.add_project(changed), backend_url)
    assert any(said in warning for warning in connected.warnings)


def test_a_missing_project_or_a_wrong_key_stops_before_anything_is_registered(
    server: FakeLabelStudio, client: LabelStudio
) -> None:
    with pytest.raises(LabelStudioError, match="not found"):
        connect(client, 99, "http://127.0.0.1:1")
    with pytest.raises(LabelStudioError, match="legacy token"):
        connect(LabelStudio(server.url, "wrong"), 99, "http://127.0.0.1:1")
    assert server.backends == {}


@pytest.fixture
def guarded_url() -> Iterator[str]:
    """A backend that asks for a password, and notes which actions reached its webhook."""
    app = Flask("backend")
    app.config["seen"] = seen = []
    secure(app, Login("lead", "s3cret", "h00k"))
    app.add_url_rule("/health", view_func=lambda: {"status": "UP"})
    app.add_url_rule("/setup", endpoint="setup", view_func=lambda: {"model_version": "lite0"}, methods=["POST"])

    @app.post("/webhook")
    def webhook() -> dict[str, str]:
        seen.append(request.get_json()["action"])
        return {}

    @app.get("/seen")
    def show() -> list[str]:
        return seen

    with serving(app) as url:
        yield url


def seen(url: str) -> list[str]:
    actions: list[str] = requests.get(f"{url}/seen", auth=("lead", "s3cret"), timeout=30).json()
    return actions


@pytest.mark.parametrize("token", ["h00k", None])
def test_label_studio_is_told_the_login_and_its_webhooks_too(
    server: FakeLabelStudio, client: LabelStudio, guarded_url: str, token: str | None
) -> None:
    project = server.add_project(BRUSH)
    login = Login("lead", "s3cret", token)
    connected = connect(client, project, guarded_url, login=login)
    assert connected.model_version == "lite0"
    client.call("POST", f"/api/ml/{connected.backend_id}/train", json={})
    server.add_annotation(server.add_task(project, {}), [])
    assert seen(guarded_url) == ["START_TRAINING", "ANNOTATION_CREATED"]
    server.requests.clear()
    assert not connect(client, project, guarded_url, login=login).created
    assert {method for method, _, _ in server.requests} == {"GET"}


def test_a_backend_registered_without_its_login_is_told_it_later(
    server: FakeLabelStudio, client: LabelStudio, guarded_url: str
) -> None:
    project = server.add_project(BRUSH)
    server.backends[99] = {"id": 99, "project": project, "url": guarded_url, "title": "premask"}
    with pytest.raises(LabelStudioError, match="asks for a user and a password"):
        connect(client, project, guarded_url)
    with pytest.raises(LabelStudioError, match="asks for a user and a password"):
        connect(client, project, guarded_url, login=Login("lead", "wrong"))
    connected = connect(client, project, guarded_url, login=Login("lead", "s3cret"))
    assert (connected.backend_id, connected.model_version) == (99, "lite0")


def test_connecting_without_the_login_names_what_is_missing(
    server: FakeLabelStudio, client: LabelStudio, guarded_url: str
) -> None:
    with pytest.raises(LabelStudioError, match="asks for a user and a password"):
        connect(client, server.add_project(BRUSH), guarded_url)
    assert "s3cret" not in repr(Login("lead", "s3cret", "h00k")) + repr(server.backends)


def test_a_project_no_model_knows_is_told_so_with_its_count(server: FakeLabelStudio, client: LabelStudio) -> None:
    app = Flask("backend")
    app.add_url_rule("/health", view_func=lambda: {"status": "UP"})
    app.add_url_rule("/setup", endpoint="setup", view_func=lambda: {"model_version": "untrained"}, methods=["POST"])
    project, lines = server.add_project(BRUSH), list[str]()
    for _ in range(3):
        server.add_annotation(server.add_task(project, {"image": "a.png"}), [])
    with serving(app) as url:
        connect(client, project, url, lines.append, needed=4)
    assert "No model knows these classes yet: 3 of 4 needed tasks accepted." in lines


def test_label_studio_shows_where_the_dashboard_is(
    server: FakeLabelStudio, client: LabelStudio, backend_url: str
) -> None:
    project = server.add_project(BRUSH)
    connected = connect(client, project, backend_url, dashboard="https://masks.example/")
    told = server.backends[connected.backend_id]["description"]
    assert told.endswith(f"https://masks.example/dashboard/projects/{project}")


def test_a_description_that_people_wrote_is_left_alone(
    server: FakeLabelStudio, client: LabelStudio, backend_url: str
) -> None:
    project = server.add_project(BRUSH)
    number = connect(client, project, backend_url).backend_id
    server.backends[number]["description"] = "ask Ada"
    backend = describe(client, project, server.backends[number], None, "new: /dashboard/projects/1")
    assert backend["description"] == "ask Ada"
    server.backends[number]["description"] = "old: /dashboard/projects/1"
    describe(client, project, server.backends[number], None, "new: /dashboard/projects/1")
    assert server.backends[number]["description"] == "new: /dashboard/projects/1"
