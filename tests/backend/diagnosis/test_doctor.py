"""`premask doctor` names what is broken, and the remedy."""

import json
import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flask import Flask
from PIL import Image

from backend.cli.doctor import doctor
from backend.label_studio import inspection
from backend.label_studio.client import LabelStudio
from backend.label_studio.connect import connect
from backend.settings import Settings
from backend.wiring import assemble
from models.checkpoint import Card, check_weights
from models.errors import CheckpointError
from tests.backend.fake_label_studio import PERSONAL_TOKEN, FakeLabelStudio, serving
from tests.backend.fakes import CONFIG, publish, write_checkpoint

Run = Callable[..., tuple[int, dict[str, dict[str, Any]]]]


@pytest.fixture
def label_studio() -> Iterator[FakeLabelStudio]:
    with FakeLabelStudio() as running:
        yield running


@pytest.fixture
def run(tmp_path: Path, starter: Path) -> Run:
    """Runs `premask doctor`; gives its exit code and the checks by name."""

    def invoke(*arguments: str, **environ: str) -> tuple[int, dict[str, dict[str, Any]]]:
        outcome = tmp_path / "doctor.json"
        env = {"PREMASK_DATA_DIR": str(tmp_path / "data"), "PREMASK_STARTER": str(starter), **environ}
        done = CliRunner().invoke(doctor, [*arguments, "--json", str(outcome)], env=env, catch_exceptions=False)
        report = json.loads(outcome.read_text())
        for one in report["checks"]:
            assert one["found"] in done.output
            assert one["remedy"] in done.output
        assert (done.exit_code == 1) == (report["broken"] > 0)
        return done.exit_code, {one["name"]: one for one in report["checks"]}

    return invoke


def at(server: FakeLabelStudio, key: str | None = None) -> dict[str, str]:
    return {"LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": key or server.legacy_token}


def test_alone_nothing_is_broken_and_label_studio_is_asked_for(run: Run) -> None:
    code, found = run()
    assert code == 0
    assert {found[name]["state"] for name in ("settings", "data folder", "database", "queue", "device")} == {"ok"}
    assert found["starter weights"]["state"] == "ok"
    assert (found["Label Studio"]["state"], "LABEL_STUDIO_URL" in found["Label Studio"]["remedy"]) == ("warning", True)


def test_settings_that_cannot_be_used_are_all_listed(run: Run) -> None:
    code, found = run(PREMASK_PORT="no", PREMASK_DEVICE="tpu")
    assert (code, set(found)) == (1, {"settings"})


@pytest.mark.parametrize(
    ("url", "says"),
    [("", "file is not a database"), ("postgresql://u:s3cret@127.0.0.1:1/premask", "refused")],
)
def test_a_database_that_cannot_be_used_is_named_with_the_remedy(run: Run, tmp_path: Path, url: str, says: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "premask.sqlite").write_text("no database at all, but long enough to be looked at" * 100)
    code, found = run(PREMASK_DATABASE_URL=url)
    assert (code, set(found)) == (1, {"settings", "data folder", "database"})
    assert found["database"]["state"] == "broken"
    assert says in found["database"]["found"]
    assert found["database"]["remedy"]
    assert "s3cret" not in str(found)


def test_a_clock_that_differs_from_the_databases_is_doubtful(
    run: Run, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.database.engine.Database.skew", lambda database: -9.0)
    code, found = run(PREMASK_DATABASE_URL=postgresql_url)
    assert (code, found["database"]["state"]) == (0, "warning")
    assert "whose clock is 9 s behind this machine's" in found["database"]["found"]


def test_a_project_in_order_is_told_down_to_an_image(run: Run, label_studio: FakeLabelStudio, client: Any) -> None:
    project = label_studio.add_project(CONFIG)
    picture = BytesIO()
    Image.new("RGB", (7, 5)).save(picture, "PNG")
    label_studio.add_upload(project, "a.png", picture.getvalue())
    label_studio.local_files_root = "/data"
    before = len(label_studio.backends), len(label_studio.webhooks)
    with serving(client.application) as url:
        connect(LabelStudio(label_studio.url, label_studio.legacy_token), project, url)
        code, found = run("--project", str(project), **at(label_studio, PERSONAL_TOKEN))
    assert code == 0
    assert found["Label Studio"]["found"].startswith("1.23.2 at ")
    assert found["Label Studio's key"]["found"] == "personal access token of admin@example.com"
    assert found["backends on private addresses"]["found"] == "taken"
    assert found["webhooks to private addresses"]["found"] == "sent"
    assert found["local files"]["found"] == "served from below /data, never from it itself"
    assert found["backend in Label Studio"]["found"] == f"'oct-lite0' at {url} serves oct-lite0"
    assert found["webhook in Label Studio"]["state"] == "ok"
    assert found["an image of a task"]["found"].endswith("7 x 5 pixels")
    assert (len(label_studio.backends), len(label_studio.webhooks)) == (before[0] + 1, before[1] + 1)


def test_both_switches_that_block_private_addresses_are_seen_from_outside(
    run: Run, label_studio: FakeLabelStudio
) -> None:
    label_studio.block_local_backends = label_studio.block_local_webhooks = True
    code, found = run(**at(label_studio))
    assert code == 0
    assert "ML_BLOCK_LOCAL_IP=false" in found["backends on private addresses"]["remedy"]
    assert "SSRF_PROTECTION_ENABLED=false" in found["webhooks to private addresses"]["remedy"]
    assert "not served" in found["local files"]["found"]


def test_what_a_release_does_not_have_is_not_broken(run: Run, label_studio: FakeLabelStudio) -> None:
    """1.13 to 1.16 have one kind of token, and no call that tells which are taken."""
    label_studio.lacks = ("/api/jwt/settings", "/api/storages/localfiles/validate", "/api/version/")
    label_studio.local_files_root = "/data"
    project = label_studio.add_project(CONFIG)
    _, found = run("--project", str(project), **at(label_studio))
    assert found["legacy tokens"] == {"name": "legacy tokens", "state": "ok", "found": "on", "remedy": ""}
    assert found["local files"]["state"] == "ok"
    assert found["Label Studio"]["found"].startswith("unknown at ")


@pytest.mark.parametrize(("model", "state"), [("PremaskModel", "ok"), ("YOLO", "warning")])
def test_label_studio_ml_at_the_port_is_told_by_its_model(run: Run, model: str, state: str) -> None:
    """As docs/label-studio-ml.md has it run, on the port that `premask serve` would take."""
    app = Flask("label_studio_ml")
    app.add_url_rule("/health", view_func=lambda: {"status": "UP", "model_class": model})
    with serving(app) as url:
        _, found = run(PREMASK_PORT=url.rpartition(":")[2])
    assert found["server"]["state"] == state
    assert f"label-studio-ml answers at {url} with the model {model}" in found["server"]["found"]


def test_a_label_studio_that_is_down_is_told_once(run: Run) -> None:
    code, found = run("--project", "3", LABEL_STUDIO_URL="http://127.0.0.1:1", LABEL_STUDIO_API_KEY="key")
    assert code == 1
    assert "Connection refused" in found["Label Studio"]["found"]
    assert "Label Studio's key" not in found


def test_a_refused_key_is_told_by_its_kind(run: Run, label_studio: FakeLabelStudio) -> None:
    code, found = run(**at(label_studio, "wrong"))
    assert code == 1
    assert "legacy token" in found["Label Studio"]["found"] + found.get("Label Studio's key", {}).get("found", "")


def test_a_project_without_backend_tasks_or_webhook_is_told_what_to_do(run: Run, label_studio: FakeLabelStudio) -> None:
    project = label_studio.add_project(CONFIG)
    code, found = run("--project", str(project), **at(label_studio))
    assert code == 1
    assert found["backend in Label Studio"]["remedy"] == f"run `premask connect --project {project}`"
    assert found["an image of a task"]["remedy"] == "import some"
    assert found["webhook in Label Studio"]["state"] == "warning"
    label_studio.backends[9] = {"id": 9, "project": project, "url": "http://127.0.0.1:1", "title": "premask"}
    label_studio.add_task(project, {"image": "/data/upload/1/gone.png"})
    _, found = run("--project", str(project), **at(label_studio))
    assert found["backend in Label Studio"]["state"] == found["an image of a task"]["state"] == "broken"


def test_damaged_weights_are_found_without_loading_them(run: Run, tiny_model: Path, tmp_path: Path) -> None:
    registry = assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path / "data")})).registry
    registry.promote("3", publish(registry, tmp_path))
    assert run(PREMASK_STARTER=str(tiny_model))[1]["versions of project 3"]["found"].endswith("checksums right")
    card = check_weights(tiny_model)
    weights = tiny_model / next(iter(card.weights))
    whole = weights.read_bytes()
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    try:
        code, found = run(PREMASK_STARTER=str(tiny_model))
        assert (code, found["starter weights"]["state"]) == (1, "broken")
        assert "restore it" in found["starter weights"]["remedy"]
        weights.unlink()
        with pytest.raises(CheckpointError, match="is missing"):
            check_weights(tiny_model)
    finally:
        weights.write_bytes(whole)
    assert isinstance(check_weights(tiny_model), Card)


def test_versions_in_a_bucket_are_looked_at_without_fetching_them(run: Run, s3_server: Any, tmp_path: Path) -> None:
    """Their files' sizes and the card, by default; each checksum when it is asked for."""
    environ = {
        "PREMASK_MODELS_URL": s3_server.bucket(f"b{os.urandom(6).hex()}"),
        "PREMASK_MODELS_ENDPOINT": s3_server.endpoint,
    }
    parts = assemble(Settings.from_environ(environ | {"PREMASK_DATA_DIR": str(tmp_path / "data")}))
    info = parts.registry.promote("3", publish(parts.registry, tmp_path))
    code, found = run(**environ)
    assert (code, found["versions of project 3"]["found"]) == (
        0,
        f"{info.version} is served, 2 files in the store, sizes right",
    )
    assert not list((tmp_path / "data" / "models-cache").glob("project-3/*"))
    assert run("--fetch", **environ)[1]["versions of project 3"]["found"].endswith("checksums right")
    assert list((tmp_path / "data" / "models-cache").glob("project-3/*/card.json"))
    weights = f"{parts.registry.store.name}/{info.place}/classifier.safetensors"
    s3_server.client().pipe_file(weights, b"half of")
    code, found = run(**environ)
    assert (code, found["versions of project 3"]["state"]) == (1, "broken")
    assert "classifier.safetensors" in found["versions of project 3"]["found"]


def test_a_gpu_that_is_wanted_and_not_there_is_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    code, found = run(PREMASK_DEVICE="cuda")
    assert (code, "PREMASK_DEVICE=cpu" in found["device"]["remedy"]) == (1, True)


def test_an_open_door_and_a_taken_port_are_told(run: Run, client: Any) -> None:
    with serving(client.application) as url:
        port = url.rpartition(":")[2]
        assert run(PREMASK_PORT=port)[1]["server"]["found"] == f"answers at {url}"
        _, found = run(PREMASK_PORT=port, PREMASK_HOST="0.0.0.0")
    assert found["password"]["state"] == "warning"


def test_looking_changes_nothing_even_where_a_label_studio_is_laxer(label_studio: FakeLabelStudio) -> None:
    client = LabelStudio(label_studio.url, label_studio.legacy_token)
    assert not inspection.refuses_private_backends(client)
    assert not inspection.refuses_private_webhooks(client)
    assert label_studio.backends == label_studio.webhooks == {}


def test_a_project_no_model_knows_is_told_so_in_the_words_of_connect(run: Run, label_studio: FakeLabelStudio) -> None:
    project = label_studio.add_project(CONFIG.replace("Lumen", "Rust").replace("Fibrous cap", "Blight"))
    for _ in range(3):
        label_studio.add_annotation(label_studio.add_task(project, {"image": "a.png"}), [])
    _, found = run("--project", str(project), **at(label_studio))
    told = found["model of the project"]
    assert (told["state"], told["remedy"]) == ("warning", "accept some more")
    assert told["found"] == "No model knows these classes yet: 3 of 4 needed tasks accepted"


def test_a_version_that_waits_to_be_promoted_is_not_trained_for_again(
    run: Run, label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    project = str(label_studio.add_project(CONFIG.replace("Lumen", "Rust").replace("Fibrous cap", "Blight")))
    for _ in range(5):
        label_studio.add_annotation(label_studio.add_task(int(project), {"image": "a.png"}), [])
    parts = assemble(Settings.from_environ({"PREMASK_DATA_DIR": str(tmp_path / "data")}))
    name = parts.registry.reserve(project)
    parts.registry.publish(project, write_checkpoint(tmp_path / name, name, classes=("Rust",)))
    _, found = run("--project", project, **at(label_studio))
    told = found["model of the project"]
    assert told["found"] == f"No version is served: {name} waits to be promoted; 5 tasks accepted"
    assert f"`premask versions promote --project {project} {name}`" in told["remedy"]
