import json
import sys
import threading

import pytest
from click.testing import CliRunner

from backend.cli.jobs import jobs, predict_project
from backend.database.jobs import JobStore
from backend.database.records import SqliteRecords
from backend.entrypoints import worker as worker_module
from backend.errors import JobConflict, JobError, LabelStudioError
from backend.jobs.prediction import PredictionJob
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG, eventually
from tests.backend.jobs.conftest import png
from tests.backend.jobs.edit import edit_job

FAKE_BULK = (sys.executable, "-m", "tests.backend.jobs.fake_bulk")
DYING_ONCE = "import os, sys; p = sys.argv[1]; os.path.exists(p) or (open(p, 'w'), os.kill(os.getpid(), 9)); "


@pytest.fixture
def label_studio():
    with FakeLabelStudio() as server:
        yield server


@pytest.fixture
def project(label_studio):
    project = label_studio.add_project(CONFIG)
    for number in range(3):
        label_studio.add_upload(project, f"{number}.png", png())
    return project


@pytest.fixture
def process(monkeypatch):
    """Chooses the process that does annotation jobs."""

    def choose(*command):
        monkeypatch.setattr(worker_module, "PredictionJob", lambda _: PredictionJob(command))

    choose(*FAKE_BULK)
    return choose


@pytest.fixture
def run(tmp_path, starter, label_studio, process, monkeypatch):
    monkeypatch.setattr("backend.system.logs.configure_logging", lambda *_: None)  # pytest's own stays

    def invoke(command, *arguments):
        env = {"PREMASK_DATA_DIR": str(tmp_path / "data"), "PREMASK_STARTER": str(starter)}
        env |= {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.legacy_token}
        return CliRunner().invoke(command, [str(one) for one in arguments], env=env, catch_exceptions=False)

    return invoke


@pytest.fixture
def store(tmp_path):
    (tmp_path / "data").mkdir()
    return JobStore(SqliteRecords(tmp_path / "data" / "records.sqlite"))


def test_predict_project_predicts_every_task_and_a_second_run_passes_them_over(run, label_studio, project, tmp_path):
    outcome = tmp_path / "out.json"
    done = run(predict_project, "--project", project, "--json", outcome)
    assert done.exit_code == 0, done.output
    assert done.output.strip().endswith("3 predicted")
    report = json.loads(outcome.read_text())
    assert (report["state"], report["predicted"], report["project"]) == ("done", 3, str(project))
    label_studio.add_annotation(next(iter(label_studio.tasks)), [])
    again = run(predict_project, "--project", project, "--unlabelled")
    assert "2 had a prediction of this version already" in again.output
    assert len(label_studio.predictions) == 3


def test_predict_project_goes_on_when_its_process_is_killed(run, process, label_studio, project, tmp_path):
    process(
        sys.executable,
        "-c",
        DYING_ONCE + f"os.execv({sys.executable!r}, {[*FAKE_BULK]!r} + sys.argv[2:])",
        tmp_path / "x",
    )
    assert run(predict_project, "--project", project).exit_code == 0
    assert len(label_studio.predictions) == 3


def test_predict_project_shows_a_job_that_a_worker_is_at(run, store, project):
    job, _ = store.submit("prediction", str(project))
    store.claim(job.id, "elsewhere/1:1")
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(run(predict_project, "--project", project)))
    thread.start()
    eventually(lambda: store._records.read(f"tasks:{project}"))
    edit_job(store, job.id, state="done", message="4 predicted")
    thread.join(20)
    assert outcome[0].output.strip().endswith("4 predicted")


def test_a_failed_job_is_a_sentence_and_a_wrong_project_is_one_before_it(run, process, project):
    process(sys.executable, "-c", 'print(\'{"stage": "failed", "reason": "no luck"}\')')
    with pytest.raises(JobError, match="annotation failed: no luck"):
        run(predict_project, "--project", project)
    with pytest.raises(LabelStudioError, match="/api/projects/99/: not found"):
        run(predict_project, "--project", 99)


def test_jobs_are_listed_shown_and_cancelled(run, store, tmp_path):
    assert "there are no jobs" in run(jobs, "list").output
    job, _ = store.submit("training", "3")
    store.log(job.id, "hello")
    outcome = tmp_path / "out.json"
    assert job.id in run(jobs, "list", "--project", 3, "--json", outcome).output
    assert json.loads(outcome.read_text())["jobs"][0]["state"] == "queued"
    assert json.loads(run(jobs, "show", job.id).output)["log"][0].endswith("hello")
    assert f"job {job.id} is cancelled" in run(jobs, "cancel", job.id).output
    with pytest.raises(JobConflict):
        run(jobs, "cancel", job.id)
