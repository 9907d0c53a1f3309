"""The contract with label-studio-ml 2.x, run where that package is installed: its own server, our model class."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.assembly import Core
from tests.backend.fakes import CONFIG, OTHER_CONFIG, predict_body, publish, setup_body, start_training

ROOT = Path(__file__).parents[2]
MODEL_PY = 'from backend.label_studio.sdk_adapter import PremaskModel\n\n__all__ = ["PremaskModel"]\n'


@pytest.fixture(scope="session")
def label_studio_ml(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package; its first import writes a cache into MODEL_DIR, and warns of its own use of pydantic."""
    before = os.environ.get("MODEL_DIR")
    os.environ["MODEL_DIR"] = str(tmp_path_factory.mktemp("label-studio-ml"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            package = pytest.importorskip("label_studio_ml")
            pytest.importorskip("label_studio_ml.api")
    finally:
        os.environ.pop("MODEL_DIR") if before is None else os.environ.update(MODEL_DIR=before)
    if not hasattr(package.api.LabelStudioMLBase, "use_label_config"):
        pytest.skip(f"label-studio-ml is installed in version {package.__version__}, not 2.x")
    return package


@pytest.fixture
def ml_client(label_studio_ml: Any, serving: Any, predictor: Any, jobs: Any) -> Iterator[FlaskClient]:
    """label-studio-ml's server in front of the core that `client`, our own server, has as well."""
    from backend.label_studio.sdk_adapter import PremaskModel

    core = Core(parts=None, serving=serving, predictor=predictor, jobs=jobs)  # type: ignore[arg-type]

    class Model(PremaskModel):
        core = staticmethod(lambda: core)

    yield label_studio_ml.api.init_app(model_class=Model).test_client()
    label_studio_ml.api.MODEL_CLASS = label_studio_ml.api.LabelStudioMLBase


def test_both_servers_give_the_same_answers(client: FlaskClient, ml_client: FlaskClient) -> None:
    """Masks, version and scores, in the order of the tasks, and an empty list for an image that cannot be read."""
    body = predict_body(["1", "gone.png", "2"])
    answer = ml_client.post("/predict", json=body)
    assert answer.status_code == 200
    assert answer.json == client.post("/predict", json=body).json
    entries = answer.json["results"]
    assert [bool(entry) for entry in entries] == [True, False, True]
    assert entries[0]["model_version"] == "oct-lite0"
    assert entries[0]["result"][0]["value"]["format"] == "rle"


def test_both_servers_name_the_version_that_is_served(
    client: FlaskClient, ml_client: FlaskClient, registry: Any, tmp_path: Path
) -> None:
    """Also after another one was promoted, and "untrained" where no model knows the classes."""
    for body in (setup_body(), setup_body(config=OTHER_CONFIG)):
        assert ml_client.post("/setup", json=body).json == client.post("/setup", json=body).json
    version = publish(registry, tmp_path)
    registry.promote("3", version)
    assert ml_client.post("/setup", json=setup_body()).json == {"model_version": version}
    assert ml_client.post("/setup", json=setup_body(project=4)).json == {"model_version": "oct-lite0"}


def test_start_training_queues_one_job_and_other_events_none(ml_client: FlaskClient, store: Any) -> None:
    annotated = start_training() | {"action": "ANNOTATION_CREATED", "task": {"id": 1}, "annotation": {"id": 2}}
    answer = ml_client.post("/webhook", json=annotated)
    assert answer.status_code == 201
    assert answer.json["result"] == {"status": "ignored", "action": "ANNOTATION_CREATED"}
    assert not store.find("3")
    first, second = (ml_client.post("/webhook", json=start_training()).json["result"] for _ in range(2))
    assert [job.id for job in store.find("3")] == [first["job"]] == [second["job"]]
    assert (first["joined"], second["joined"]) == (False, True)


@pytest.mark.parametrize(
    ("tasks", "project", "config", "entries"),
    [
        ({"id": 1}, "1.1000000000", "<View></View>", 1),
        ([{"id": 1, "data": {"image": "1"}}], "../../etc.1", CONFIG, 1),
        ([{"id": 1}, {"id": 2}], "3.1", CONFIG, 2),
    ],
)
def test_what_cannot_be_answered_gets_empty_entries_and_a_reason_in_the_log(
    ml_client: FlaskClient, caplog: pytest.LogCaptureFixture, tasks: Any, project: str, config: str, entries: int
) -> None:
    answer = ml_client.post("/predict", json={"tasks": tasks, "project": project, "label_config": config})
    assert (answer.status_code, answer.json) == (200, {"results": [[]] * entries})
    assert "no masks: " in caplog.text


def test_threads_that_come_first_together_share_one_core(
    label_studio_ml: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.label_studio import sdk_adapter

    monkeypatch.setenv("PREMASK_DATA_DIR", str(tmp_path / "data"))
    sdk_adapter._assembled.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        cores = list(pool.map(lambda _: sdk_adapter.core_from_environ(), range(4)))
    sdk_adapter._assembled.cache_clear()
    assert len({id(core) for core in cores}) == 1


def test_the_folder_that_label_studio_ml_creates_starts(label_studio_ml: Any, tmp_path: Path) -> None:
    """`label-studio-ml create premask --script model.py`, then the `_wsgi.py` that `start` runs."""
    script, folder = tmp_path / "model.py", tmp_path / "premask"
    script.write_text(MODEL_PY)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environ = os.environ | {"PYTHONPATH": path, "PREMASK_DATA_DIR": str(tmp_path / "data"), "MODEL_DIR": str(tmp_path)}

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environ, check=True, stdout=subprocess.PIPE, text=True).stdout

    run("-m", "label_studio_ml.server", "create", folder.name, "--script", str(script))
    ask = f"from _wsgi import app; print(app.test_client().post('/setup', json={setup_body()!r}).text)"
    out = run("-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {ask}")
    assert json.loads(out.strip().splitlines()[-1]) == {"model_version": "oct-lite0"}
