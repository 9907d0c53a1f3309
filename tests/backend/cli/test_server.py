import json

import pytest
from click.testing import CliRunner

from backend.cli.server import connect, versions
from backend.errors import RegistryError
from backend.settings import Settings
from backend.wiring import assemble
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG, publish


@pytest.fixture
def run(tmp_path):
    def invoke(command, *arguments, **environ):
        env = {"PREMASK_DATA_DIR": str(tmp_path), **environ}
        return CliRunner().invoke(command, arguments, env=env, catch_exceptions=False)

    return invoke


def test_versions_are_listed_promoted_and_rolled_back(run, tmp_path):
    registry = assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)})).registry
    first, second = publish(registry, tmp_path), publish(registry, tmp_path)
    assert f"is served {first}" in run(versions, "promote", "--project", "3", first).output
    run(versions, "promote", "--project", "3", second)
    outcome = tmp_path / "out.json"
    shown = run(versions, "list", "--project", "3", "--json", str(outcome))
    assert shown.exit_code == 0
    assert first in shown.output
    assert [v["state"] for v in json.loads(outcome.read_text())["versions"]] == ["retired", "served"]
    assert json.loads(run(versions, "show", "--project", "3", second).output)["metrics"] == {"mean_iou": 0.5}
    run(versions, "rollback", "--project", "3", "--json", str(outcome))
    assert json.loads(outcome.read_text()) == {"project": "3", "current": first}
    assert "the starter" in run(versions, "rollback", "--project", "3").output
    with pytest.raises(RegistryError, match="nothing to roll back to"):
        run(versions, "rollback", "--project", "3")


def test_a_project_without_versions_says_how_to_get_one(run):
    assert "press Start Training" in run(versions, "list", "--project", "3").output


def test_versions_of_all_projects_are_listed_where_none_is_named(run, tmp_path):
    assert "no project has a version of its own" in run(versions, "list").output
    registry = assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path)})).registry
    first, other = publish(registry, tmp_path), publish(registry, tmp_path, project="5")
    outcome = tmp_path / "out.json"
    shown = run(versions, "list", "--json", str(outcome))
    assert shown.exit_code == 0
    assert [v["version"] for v in json.loads(outcome.read_text())["versions"]] == [first, other]


def test_a_missing_project_is_wrong_usage(run):
    assert run(versions, "rollback").exit_code == 2


def test_connect_takes_the_key_from_the_environment_and_registers_the_backend(run, tmp_path, client):
    from threading import Thread

    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, client.application, threaded=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with FakeLabelStudio() as label_studio:
            project = label_studio.add_project(CONFIG)
            outcome = tmp_path / "out.json"
            url = f"http://127.0.0.1:{server.server_port}"
            arguments = ["--url", label_studio.url, "--project", str(project), "--backend-url", url]
            done = run(connect, *arguments, "--json", str(outcome), LABEL_STUDIO_API_KEY=label_studio.legacy_token)
            assert done.exit_code == 0
            assert json.loads(outcome.read_text())["model_version"] == "oct-lite0"
            assert [backend["url"] for backend in label_studio.backends.values()] == [url]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
