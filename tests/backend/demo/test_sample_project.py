"""The sample project in a Label Studio, also one with the remains of an earlier run."""

import pytest
from flask import Flask

from backend.demo.sample_project import CONFIG, TITLE, move_backend, prepare
from backend.label_studio.client import LabelStudio
from backend.label_studio.connect import connect
from backend.label_studio.label_config import parse_label_config
from models.phantom import CLASSES
from tests.backend.fake_label_studio import FakeLabelStudio, serving

SEEDS = range(900_000, 900_006)


@pytest.fixture
def backend() -> Flask:
    app = Flask("backend")
    app.add_url_rule("/health", "health", lambda: {"status": "UP"})
    app.add_url_rule("/setup", "setup", lambda: {"model_version": "v1"}, methods=["POST"])
    return app


def test_the_config_offers_every_class_as_a_brush_and_as_a_choice() -> None:
    config = parse_label_config(CONFIG)
    assert config.classes == CLASSES
    assert [control.tag for control in (*config.region_controls, *config.choices_controls)] == [
        "BrushLabels",
        "Choices",
    ]
    assert [control.tag for control in config.controls if control.smart] == ["RectangleLabels"]


def test_a_second_run_doubles_nothing() -> None:
    with FakeLabelStudio() as server:
        client = LabelStudio(server.url, server.legacy_token)
        told: list[int] = []
        first = prepare(client, told.append, SEEDS)
        second = prepare(client, lambda done: None, SEEDS)
        assert (first.resumed, first.uploaded, told) == (False, 6, [0, 4, 6])
        assert (second.id, second.resumed, second.uploaded) == (first.id, True, 0)
        assert sorted(second.seeds.values()) == list(SEEDS)


def test_only_missing_frames_are_uploaded_and_tasks_of_others_are_left_alone() -> None:
    with FakeLabelStudio() as server:
        client = LabelStudio(server.url, server.legacy_token)
        project = server.add_project(CONFIG, TITLE)
        server.add_upload(project, "phantom-900001.png", b"a frame")
        server.add_upload(project, "my own.png", b"another")
        prepared = prepare(client, lambda done: None, SEEDS)
        assert (prepared.id, prepared.uploaded) == (project, 5)
        assert len(server.tasks) == 7
        assert sorted(prepared.seeds.values()) == list(SEEDS)


def test_a_backend_on_another_port_takes_the_place_of_the_earlier_one(backend: Flask) -> None:
    with FakeLabelStudio() as server, serving(backend) as before, serving(backend) as now:
        client = LabelStudio(server.url, server.legacy_token)
        project = server.add_project(CONFIG, TITLE)
        connect(client, project, before)
        move_backend(client, project, now)
        connected = connect(client, project, now)
        assert not connected.created
        assert [one["url"] for one in server.backends.values()] == [now]
        assert [one["url"] for one in server.webhooks.values()] == [f"{now}/webhook"]
