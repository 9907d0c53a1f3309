import json
import sys
import threading

import pytest
from click.testing import CliRunner

from backend.cli.jobs import jobs as jobs_command
from backend.cli.jobs import predict_project, run_prediction
from backend.database.engine import Database
from backend.database.jobs import JobStore
from backend.database.leases import ALL, UNLABELLED, Leases, share_holder
from backend.database.shares import Shares
from backend.errors import JobConflict, JobError, LabelStudioError
from backend.jobs.prediction import PredictionWork
from backend.jobs.running import Runner
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG, eventually
from tests.backend.jobs.conftest import png
from tests.backend.jobs.edit import edit_job

FAKE_PREDICTION = (sys.executable, "-m", "tests.backend.jobs.fake_prediction")
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
def environ(tmp_path, starter, label_studio):
    return {
        "PREMASK_DATA_DIR": str(tmp_path / "data"),
        "PREMASK_STARTER": str(starter),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.legacy_token,
    }


@pytest.fixture
def run(environ, monkeypatch):
    monkeypatch.setattr("backend.system.logs.configure_logging", lambda *_: None)  # pytest's own stays

    def invoke(command, *arguments):
        return CliRunner().invoke(command, [str(one) for one in arguments], env=environ, catch_exceptions=False)

    return invoke


@pytest.fixture
def records_of_the_command(tmp_path):
    (tmp_path / "data").mkdir()
    return Database.sqlite(tmp_path / "data" / "premask.sqlite")


@pytest.fixture
def predict(environ, store, leases, jobs, project, tmp_path, monkeypatch):
    """Runs a prediction job of the project with a command for its process."""
    for name, value in (environ | {"PREMASK_DATA_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)

    def run(tasks, command=FAKE_PREDICTION):
        runner = Runner(store, leases, {"prediction": PredictionWork(command)}, tmp_path / "work")
        return run_prediction(jobs, runner, str(project), tasks)

    return run


def test_every_task_is_predicted_and_a_second_run_passes_them_over(predict, label_studio):
    done = predict(ALL)
    assert (done.state, done.message, done.report["predicted"]) == ("done", "3 predicted", 3)
    label_studio.add_annotation(next(iter(label_studio.tasks)), [])
    assert predict(UNLABELLED).message == "2 had a prediction of this version already"
    assert len(label_studio.predictions) == 3


def test_a_prediction_goes_on_when_its_process_is_killed(predict, label_studio, tmp_path):
    then = f"os.execv({sys.executable!r}, {[*FAKE_PREDICTION]!r} + sys.argv[2:])"
    job = predict(ALL, (sys.executable, "-c", DYING_ONCE + then, str(tmp_path / "died")))
    assert (job.state, job.message) == ("done", "3 predicted")
    assert len(label_studio.predictions) == 3


@pytest.fixture
def follow(run, records_of_the_command, project, tmp_path):
    """Runs `predict-project` while a worker has the project's job, which ends so; gives its text and JSON."""
    store = JobStore(records_of_the_command)
    leases = Leases(records_of_the_command)
    leases.request(str(project), ["1"])
    job, _ = store.submit("prediction", str(project))
    Shares(records_of_the_command, leases).take("elsewhere/1:1", job.id)
    leases.acquire_due(str(project), share_holder(job.id, "elsewhere/1:1"), 1, 600)

    def until(**end):
        def work():
            eventually(lambda: Shares(records_of_the_command, leases).working(job.id)[1:], 200)
            edit_job(store, job.id, **end)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            return run(predict_project, "--project", project, "--json", tmp_path / "out.json").output
        finally:
            worker.join()

    return until


def test_predict_project_follows_a_job_of_a_worker(follow, project, tmp_path):
    assert follow(state="done", message="4 predicted", report={"predicted": 4}).strip().endswith("4 predicted")
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["project"], report["state"], report["predicted"]) == (str(project), "done", 4)


def test_a_failed_job_is_a_sentence(follow, tmp_path):
    with pytest.raises(JobError, match="no luck"):
        follow(state="failed", reason="no luck")
    assert json.loads((tmp_path / "out.json").read_text())["state"] == "failed"


def test_a_wrong_project_is_named_before_any_job_begins(run):
    with pytest.raises(LabelStudioError, match="/api/projects/99/: not found"):
        run(predict_project, "--project", 99)


def test_jobs_are_listed_shown_and_cancelled(run, records_of_the_command, tmp_path):
    store = JobStore(records_of_the_command)
    assert "there are no jobs" in run(jobs_command, "list").output
    job, _ = store.submit("training", "3")
    store.log(job.id, "hello")
    outcome = tmp_path / "out.json"
    assert job.id in run(jobs_command, "list", "--project", 3, "--json", outcome).output
    assert json.loads(outcome.read_text())["jobs"][0]["state"] == "queued"
    assert json.loads(run(jobs_command, "show", job.id).output)["log"][0].endswith("hello")
    assert f"job {job.id} is cancelled" in run(jobs_command, "cancel", job.id).output
    with pytest.raises(JobConflict):
        run(jobs_command, "cancel", job.id)


def test_a_list_in_a_pipe_is_a_line_for_each_job_with_its_whole_id_and_reason(run, records_of_the_command):
    store = JobStore(records_of_the_command)
    job, _ = store.submit("training", "3")
    store.claim(job.id, "elsewhere/1:1")
    reason = "training failed: " + "the disk of the machine is full, " * 9
    edit_job(store, job.id, state="failed", reason=reason)
    (line,) = [line for line in run(jobs_command, "list").output.splitlines() if job.id in line]
    assert reason.strip() in line
