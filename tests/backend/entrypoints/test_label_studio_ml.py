"""The contract with label-studio-ml 2.x: its own server where that is installed, or else a small one like it."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.database.engine import Database
from backend.database.notes import Notes
from backend.database.reviews import Reviews
from backend.jobs.automatic import AutomaticTraining
from backend.label_studio.connections import Connections
from backend.label_studio.protocol import parse_predict
from backend.prediction.responder import Responder
from backend.wiring import Core, Parts
from tests.backend import fake_label_studio_ml
from tests.backend.conftest import no_label_studio
from tests.backend.fakes import CONFIG, OTHER_CONFIG, predict_body, publish, setup_body, start_training

ROOT = Path(__file__).parents[3]
MODEL_PY = 'from backend.entrypoints.label_studio_ml import PremaskModel\n\n__all__ = ["PremaskModel"]\n'
INSTALLED = importlib.util.find_spec("label_studio_ml") is not None


@pytest.fixture(scope="session")
def label_studio_ml(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package; its first import writes a cache into MODEL_DIR, and warns of its own use of pydantic."""
    if not INSTALLED:
        fake_label_studio_ml.install()
    before = os.environ.get("MODEL_DIR")
    os.environ["MODEL_DIR"] = str(tmp_path_factory.mktemp("label-studio-ml"))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("label_studio_ml.api")
    finally:
        os.environ.pop("MODEL_DIR") if before is None else os.environ.update(MODEL_DIR=before)


@pytest.fixture
def automatic(records: Database) -> AutomaticTraining:
    return AutomaticTraining(records, after=1)


@pytest.fixture
def core(  # one line for each part of ours that the server in `client` has as well
    registry: Any,
    store: Any,
    leases: Any,
    automatic: AutomaticTraining,
    open_queues: Any,
    credentials: Any,
    records: Database,
    serving: Any,
    predictor: Any,
    jobs: Any,
    prompts: Any,
    responder: Any,
) -> Core:
    connections = Connections(credentials, ())
    reviews = Reviews(records)
    parts = Parts(registry, store, leases, automatic, reviews, open_queues(), credentials, connections, records)
    return Core(parts, serving, predictor, prompts, jobs, responder)


@pytest.fixture
def serve(label_studio_ml: Any) -> Iterator[Callable[[Core], FlaskClient]]:
    """label-studio-ml's server in front of a core of ours."""
    from backend.entrypoints.label_studio_ml import PremaskModel

    before = getattr(label_studio_ml, "MODEL_CLASS", None)
    yield lambda core: label_studio_ml.init_app(
        model_class=type("Model", (PremaskModel,), {"core": staticmethod(lambda: core)})
    ).test_client()
    label_studio_ml.MODEL_CLASS = before


@pytest.fixture
def ml_client(serve: Callable[[Core], FlaskClient], core: Core) -> FlaskClient:
    return serve(core)


def test_both_servers_give_the_same_cache(client: FlaskClient, ml_client: FlaskClient) -> None:
    """Masks, version and scores, in the order of the tasks, and an empty list for an image that cannot be read."""
    images = ["1", "gone.png", "2"]
    answers = [
        ml_client.post("/predict", json=predict_body(images)),
        client.post("/predict", json=predict_body(images, first=11)),
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    entries, ours = (answer.json["results"] for answer in answers)
    for region in (region for entry in (*entries, *ours) if entry for region in entry["result"]):
        assert region.pop("id")  # each task's own
    assert entries == ours
    assert [bool(entry) for entry in entries] == [True, False, True]
    assert entries[0]["model_version"] == "oct-lite0"
    assert entries[0]["result"][0]["value"]["format"] == "rle"


def test_tasks_without_an_id_and_requests_without_a_project_get_masks(ml_client: FlaskClient, store: Any) -> None:
    """As in the test that label-studio-ml writes into a new folder."""
    body = {"tasks": [{"data": {"image": "1"}}, {"data": {"image": "2"}}], "label_config": CONFIG}
    for asked in (body, body | {"project": "3.1"}):
        answer = ml_client.post("/predict", json=asked)
        assert answer.status_code == 200
        assert all(entry["result"] for entry in answer.json["results"])
    assert not store.find()


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


def test_what_is_not_reached_by_the_deadline_is_left_to_a_job(
    serve: Callable[[Core], FlaskClient], core: Core, loader: Any, store: Any, leases: Any
) -> None:
    """The pipeline is stuck in the second batch of two."""
    hurried = Responder(core.predictor, leases, core.jobs, no_label_studio, deadline=0.5, blank_every=0.05)
    ml_client = serve(replace(core, responder=hurried))
    core.predictor.predict(parse_predict(predict_body(["1", "2"])))
    loader.pipelines["oct-lite0"].gate = gate = threading.Event()
    answer = ml_client.post("/predict", json=predict_body(["1", "2", "3", "4", "5"]))
    gate.set()
    assert [bool(entry) for entry in answer.json["results"]] == [True, True, False, False, False]
    (job,) = store.find("3", kind="prediction")
    assert leases.acquire_due("3", job.id, 9, 60) == ["3", "4", "5"]


def test_a_smart_tool_is_answered_each_time_it_is_used(ml_client: FlaskClient, monkeypatch: Any) -> None:
    """label-studio-ml takes the prompt out of the parameters and hands it over by itself."""
    prompts = []

    def entries(self: Any, request: Any) -> Any:
        prompts.append(request.context)
        return [{"result": [], "score": 0.5, "model_version": "oct-lite0"}]

    monkeypatch.setattr("backend.prediction.prompts.Prompts.entries", entries)
    body = predict_body(["1"])
    body["params"]["context"] = {"result": [{"type": "keypointlabels"}]}
    for _ in range(2):
        assert ml_client.post("/predict", json=body).json["results"][0]["score"] == 0.5
    assert prompts == [body["params"]["context"]] * 2


def test_start_training_queues_one_job_and_annotations_are_noted(
    ml_client: FlaskClient, store: Any, records: Database
) -> None:
    for action, status in (("ANNOTATION_CREATED", "noted"), ("ANNOTATION_DELETED", "noted")):
        annotated = start_training() | {"action": action, "task": {"id": 1}, "prediction": {"id": 2}}
        answer = ml_client.post("/webhook", json=annotated)
        assert answer.status_code == 201
        assert answer.json["result"] == {"status": status, "action": action}
    assert not store.find("3")
    assert list(Notes(records).noted()) == ["3"]
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
    from backend.entrypoints import label_studio_ml as sdk_adapter

    monkeypatch.setenv("PREMASK_DATA_DIR", str(tmp_path / "data"))
    sdk_adapter._assembled.cache_clear()
    with ThreadPoolExecutor(4) as pool:
        cores = list(pool.map(lambda _: sdk_adapter.core_from_environ(), range(4)))
    sdk_adapter._assembled.cache_clear()
    assert len({id(core) for core in cores}) == 1


def test_the_folder_that_label_studio_ml_creates_starts(label_studio_ml: Any, tmp_path: Path) -> None:
    """`label-studio-ml create premask --script model.py`, then the `_wsgi.py` that `start` runs."""
    if not INSTALLED:
        pytest.skip("needs label-studio-ml 2.x, which no registry carries: see docs/label-studio-ml.md")
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
