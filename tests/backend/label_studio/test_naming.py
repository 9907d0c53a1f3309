"""The name that Label Studio shows of the backend follows the served version."""

import logging
from collections.abc import Iterator

import pytest
from flask import Flask

from backend.label_studio.client import LabelStudio
from backend.label_studio.connect import connect, login_fields
from backend.label_studio.naming import AGAIN_SECONDS, BEHIND_SECONDS, SETTLED_SECONDS, Naming
from backend.label_studio.protocol import UNTRAINED
from backend.system.login import Login
from backend.web.security import secure
from tests.backend.fake_label_studio import FakeLabelStudio, serving
from tests.backend.label_studio.configs import BRUSH

LOGIN = Login("lead", "secret", "token")


class Backend:
    """A backend with a password, which serves `version`."""

    def __init__(self) -> None:
        self.version = "oct-lite0"
        self.url = ""
        self.answers = True

    @property
    def app(self) -> Flask:
        app = Flask("backend")
        secure(app, Login(LOGIN.user, LOGIN.password))
        app.add_url_rule("/health", view_func=lambda: {"status": "UP"})
        app.add_url_rule("/setup", "setup", self.setup, methods=["POST"])
        return app

    def setup(self) -> dict[str, str] | tuple[str, int]:
        return {"model_version": self.version} if self.answers else ("busy", 503)


@pytest.fixture
def backend() -> Iterator[Backend]:
    one = Backend()
    with serving(one.app) as one.url:
        yield one


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio() as server:
        yield server


@pytest.fixture
def client(label_studio: FakeLabelStudio) -> LabelStudio:
    return LabelStudio(label_studio.url, label_studio.legacy_token)


def look(naming: Naming, at: float) -> None:
    naming.look(at)
    naming.look(at + SETTLED_SECONDS)


def test_the_name_follows_promotions_and_rollbacks_and_so_does_what_annotators_start_from(
    label_studio: FakeLabelStudio, client: LabelStudio, backend: Backend
) -> None:
    project = label_studio.add_project(BRUSH)
    shown = label_studio.backends[connect(client, project, backend.url, login=LOGIN).backend_id]
    naming = Naming(lambda: {(str(project), backend.version)}, lambda project: client, LOGIN, "oct-lite0")
    for at, backend.version in enumerate((f"p{project}-r001-lite0", f"p{project}-r002-lite0", "oct-lite0")):
        look(naming, at * 100)
        assert shown["title"] == shown["model_version"] == backend.version
        assert label_studio.projects[project]["model_version"] == backend.version
        assert shown["state"] == "CO", shown
    label_studio.requests.clear()
    look(naming, 1000)
    assert label_studio.requests == []


def test_a_name_that_somebody_gave_and_a_choice_that_somebody_made_stay(
    label_studio: FakeLabelStudio, client: LabelStudio, backend: Backend
) -> None:
    project = label_studio.add_project(BRUSH)
    shown = label_studio.backends[connect(client, project, backend.url, login=LOGIN).backend_id]
    label_studio.projects[project]["model_version"] = "another model"
    naming = Naming(lambda: {(str(project), backend.version)}, lambda project: client, LOGIN, "oct-lite0")
    backend.version = f"p{project}-r001-lite0"
    look(naming, 0)
    assert (shown["title"], label_studio.projects[project]["model_version"]) == (backend.version, "another model")
    shown["title"], backend.version = "our model", f"p{project}-r002-lite0"
    look(naming, 100)
    assert (shown["title"], shown["model_version"]) == ("our model", backend.version)


def test_a_backend_registered_by_hand_is_named_and_other_backends_are_not(
    label_studio: FakeLabelStudio, client: LabelStudio, backend: Backend
) -> None:
    project = label_studio.add_project(BRUSH)
    ours = client.create_ml_backend(project, backend.url, "Premask", **login_fields(LOGIN))["id"]
    label_studio.backends[99] = {"id": 99, "project": project, "url": "http://127.0.0.1:1", "title": "premask"}
    look(Naming(lambda: {(str(project), backend.version)}, lambda project: client, LOGIN), 0)
    assert (label_studio.backends[ours]["title"], label_studio.backends[99]["title"]) == ("oct-lite0", "premask")


def test_label_studio_is_asked_again_after_it_was_away_and_nobody_is_told_twice(
    label_studio: FakeLabelStudio, client: LabelStudio, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    project = label_studio.add_project(BRUSH)
    shown = label_studio.backends[connect(client, project, backend.url, login=LOGIN).backend_id]
    away = LabelStudio("http://127.0.0.1:1", label_studio.legacy_token)
    reached = [away]
    backend.version = f"p{project}-r001-lite0"
    naming = Naming(lambda: {(str(project), backend.version)}, lambda project: reached[0], LOGIN, "oct-lite0")
    with caplog.at_level(logging.WARNING):
        look(naming, 0)
        look(naming, AGAIN_SECONDS)
    assert len(caplog.records) == 1
    assert f"project {project}: Label Studio cannot show scores of {backend.version} yet" in caplog.text
    reached[0] = client
    naming.look(AGAIN_SECONDS + SETTLED_SECONDS + 1)
    assert shown["title"] == "oct-lite0"  # not before its time
    naming.look(2 * AGAIN_SECONDS + SETTLED_SECONDS)
    assert shown["title"] == backend.version


def test_a_backend_that_label_studio_did_not_hear_from_is_named_when_it_is_heard(
    label_studio: FakeLabelStudio, client: LabelStudio, backend: Backend
) -> None:
    project = label_studio.add_project(BRUSH)
    shown = label_studio.backends[connect(client, project, backend.url, login=LOGIN).backend_id]
    naming = Naming(lambda: {(str(project), backend.version)}, lambda project: client, LOGIN, "oct-lite0")
    backend.version, backend.answers = f"p{project}-r001-lite0", False
    look(naming, 0)
    assert shown["title"] == "oct-lite0"
    backend.answers = True
    naming.look(2 * SETTLED_SECONDS)
    assert shown["title"] == backend.version


def test_a_backend_of_ours_that_answers_with_another_version_is_given_up_after_a_while(
    label_studio: FakeLabelStudio, client: LabelStudio, backend: Backend
) -> None:
    project = label_studio.add_project(BRUSH)
    connect(client, project, backend.url, login=LOGIN)
    naming = Naming(lambda: {(str(project), f"p{project}-r001-lite0")}, lambda project: client, LOGIN, "oct-lite0")
    for second in range(2 * int(BEHIND_SECONDS)):
        naming.look(float(second))
    asked = [request for request in label_studio.requests if request[:2] == ("GET", f"/api/ml/?project={project}")]
    assert 5 < len(asked) < 20


def test_a_project_that_has_two_versions_while_its_config_changes_waits(
    label_studio: FakeLabelStudio, client: LabelStudio, backend: Backend
) -> None:
    project = label_studio.add_project(BRUSH)
    served = {(str(project), "oct-lite0"), (str(project), f"p{project}-r001")}
    look(Naming(lambda: served, lambda project: client, LOGIN), 0)
    assert label_studio.requests == []


@pytest.mark.parametrize(
    "broken", [KeyError("results"), ValueError("Invalid IPv6 URL"), TypeError("no list")], ids=repr
)
def test_one_project_that_cannot_be_named_keeps_no_other_from_its_name(
    label_studio: FakeLabelStudio,
    client: LabelStudio,
    backend: Backend,
    caplog: pytest.LogCaptureFixture,
    broken: Exception,
) -> None:
    project = label_studio.add_project(BRUSH)
    shown = label_studio.backends[connect(client, project, backend.url, login=LOGIN).backend_id]
    backend.version = f"p{project}-r001-lite0"

    def reach(wanted: str) -> LabelStudio:
        if wanted != str(project):
            raise broken
        return client

    served = {(name, backend.version) for name in ("0", str(project), "99")}
    naming = Naming(lambda: served, reach, LOGIN, "oct-lite0")
    for at in range(30):
        naming.look(at)
    assert shown["title"] == backend.version
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2  # one each, not 60


def test_a_backend_that_serves_no_version_any_more_loses_its_name(
    label_studio: FakeLabelStudio, client: LabelStudio, backend: Backend
) -> None:
    """All are rolled back, and no starter knows the classes: Label Studio must not go on naming the first one."""
    project = label_studio.add_project(BRUSH)
    backend.version = f"p{project}-r001-lite0"
    shown = label_studio.backends[connect(client, project, backend.url, login=LOGIN).backend_id]
    served = {(str(project), backend.version)}
    naming = Naming(lambda: served, lambda project: client, LOGIN, said=lambda project: "3 tasks accepted since r001")
    look(naming, 0)
    naming.look(1000.0)
    assert (shown["title"], shown["description"][:7]) == (backend.version, "3 tasks")
    backend.version = UNTRAINED
    served.clear()
    look(naming, 2000.0)
    assert (shown["title"], label_studio.projects[project]["model_version"]) == ("premask", "premask")
    assert shown["description"].startswith("Versions, figures and progress: ")
    label_studio.requests.clear()
    look(naming, 3000.0)
    assert label_studio.requests == []
