"""Prediction jobs in processes of their own, and cancelling jobs of either kind."""

import os
import signal
import sys
import threading

import pytest

from backend.database.jobs import PREDICTION
from backend.database.leases import ALL
from backend.database.shares import RESTARTS
from backend.errors import JobConflict
from backend.jobs.worker import Worker
from backend.system.processes import identity, is_alive
from tests.backend.conftest import BOTH_STORAGES
from tests.backend.fakes import CONFIG, eventually
from tests.backend.jobs.conftest import png
from tests.backend.s3 import KEYS

PNG = png()
NOBODY = "http://127.0.0.1:1"  # nothing listens there

HOST_WORKER = f"{os.uname().nodename}/{identity(os.getpid())}"
FAKE_PREDICTION = (sys.executable, "-m", "tests.backend.jobs.fake_prediction")
# Reports that two tasks of the chunk at hand are predicted, and goes on for ever.
ENDLESS = (
    sys.executable,
    "-c",
    "import json, time; print('loaded'); "
    "print(json.dumps({'stage': 'predicting', 'drawn': 2, 'message': 'busy'}), flush=True); "
    "time.sleep(600)",
)


@pytest.fixture
def environ(label_studio, starter, tmp_path, monkeypatch):
    """Settings of the processes that are started."""
    monkeypatch.setenv("PREMASK_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("PREMASK_STARTER", str(starter))
    monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.legacy_token)


@pytest.fixture
def tasks(label_studio):
    project = label_studio.add_project(CONFIG)
    return [label_studio.add_upload(project, f"{number}.png", PNG) for number in range(5)]


@pytest.fixture
def project(label_studio, tasks):
    return str(label_studio.tasks[tasks[0]]["project"])


@pytest.fixture
def running(store, runner_that):
    """Starts a job with a command and waits until it has said how far it is."""
    threads = []

    def start(job, command):
        runner = runner_that("hang", prediction=command)
        thread = threading.Thread(target=runner.run, args=(job.id, HOST_WORKER))
        thread.start()
        threads.append((runner, thread))
        return eventually(lambda: (now := store.get(job.id)).progress >= 0.2 and now), thread

    yield start
    for runner, thread in threads:
        runner.stop()
        thread.join(20)
        assert not thread.is_alive()


def process_of(jobs, job):
    """The process of a job: a training's own, or that of the one worker that has a share of it."""
    return job.process or jobs.shares.working(job.id)[0].process


def test_a_prediction_job_predicts_in_a_process_of_its_own(
    environ, jobs, store, runner_that, label_studio, tasks, project
):
    job, _ = jobs.predict(project, ALL)
    label_studio.files[next(iter(label_studio.files))] = b"no image"
    runner_that(prediction=FAKE_PREDICTION).run(job.id, HOST_WORKER)
    after = store.get(job.id)
    assert (after.state, after.progress) == ("done", 1.0), store.log_tail(job.id)
    assert after.message == "4 predicted, 1 without an answer (the log says why)"
    assert (after.report["predicted"], after.report["unanswered"], after.figures) == (4, 1, {"done": 5, "total": 5})
    assert sorted(one["task"] for one in label_studio.predictions.values()) == tasks[1:]
    assert f"task {tasks[0]}: no masks" in "\n".join(store.log_tail(job.id))


def test_a_job_whose_reason_to_fail_is_label_studio_says_so_and_keeps_nothing_waiting(
    environ, jobs, store, leases, runner_that, label_studio, project
):
    label_studio.legacy_enabled = False
    job, _ = jobs.predict(project, ALL)
    runner_that(prediction=FAKE_PREDICTION).run(job.id, HOST_WORKER)
    assert store.get(job.id).state == "failed"
    assert "prediction failed: " in store.get(job.id).reason
    assert "legacy token" in store.get(job.id).reason
    assert leases.due() == []


def test_a_job_whose_store_is_away_goes_on_when_it_is_back(
    environ, jobs, store, leases, runner_that, project, monkeypatch
):
    monkeypatch.setattr("backend.jobs.running.AWAY_SECONDS", 0)
    job, _ = jobs.predict(project, ALL)
    with monkeypatch.context() as away:
        for name, value in (KEYS | {"PREMASK_MODELS_URL": "s3://a/b", "PREMASK_MODELS_ENDPOINT": NOBODY}).items():
            away.setenv(name, value)
        for _ in range(RESTARTS + 2):
            runner_that(prediction=FAKE_PREDICTION).run(job.id, HOST_WORKER)
    after = store.get(job.id)
    assert (after.state, after.restarts) == ("queued", 0)
    assert "the store of versions s3://a/b" in after.reason
    assert after.reason.endswith("; it goes on when that is back")
    assert leases.due() == [project]
    runner_that(prediction=FAKE_PREDICTION).run(job.id, HOST_WORKER)
    after = store.get(job.id)
    assert (after.state, after.reason, after.message) == ("done", "", "5 predicted")


@BOTH_STORAGES
def test_a_database_that_was_away_counts_as_the_death_of_no_worker(jobs, store, leases, runner_that, project):
    """Each worker's share broke off, and none could record that."""
    leases.request(project, ["1"])
    job, _ = jobs.submit(project, PREDICTION)
    workers = [f"machine-{number}/1:1" for number in range(RESTARTS + 2)]
    assert all(jobs.shares.take(worker) for worker in workers)
    for worker in workers:
        runner_that().recover(worker)
    after = store.get(job.id)
    assert (after.state, after.restarts) == ("queued", 0)
    assert "broke off" in after.reason
    assert leases.due() == [project]


def test_predictions_that_are_not_stored_fail_the_job_and_stay_requested(
    environ, jobs, store, leases, runner_that, label_studio, project, tasks, open_queues
):
    """The record says so, and a worker tries again after a while, not at once and for ever."""
    label_studio.drops = "all"
    job, _ = jobs.predict(project, ALL)
    runner_that(prediction=FAKE_PREDICTION).run(job.id, HOST_WORKER)
    after = store.get(job.id)
    assert (after.state, after.report["refused"], after.report["predicted"]) == ("failed", 5, 0)
    assert "Label Studio did not store 5 predictions" in after.reason
    assert leases.due() == [project]
    worker = Worker(store, leases, open_queues(), runner_that())
    worker.recover()
    assert [one.id for one in store.find(project)] == [job.id]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("backend.jobs.worker.AFTER_FAILURE_SECONDS", 0)
        worker.recover()
    again = store.find(project)[0]
    label_studio.drops = ""
    runner_that(prediction=FAKE_PREDICTION).run(again.id, HOST_WORKER)
    assert store.get(again.id).message == "5 predicted"
    assert leases.due() == []


def test_a_job_that_was_interrupted_and_then_done_says_nothing_of_the_interruption(
    environ, jobs, store, runner_that, tasks, project
):
    job, _ = jobs.predict(project, ALL)
    dying = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    runner_that(prediction=dying).run(job.id, HOST_WORKER)
    assert "began again" in store.get(job.id).reason
    runner_that(prediction=FAKE_PREDICTION).run(job.id, HOST_WORKER)
    after = store.get(job.id)
    assert (after.state, after.reason, after.message) == ("done", "", "5 predicted")


def test_progress_is_known_while_it_runs(jobs, store, leases, running, project):
    leases.request(project, map(str, range(5)))
    now, _ = running(jobs.submit(project, "prediction")[0], ENDLESS)
    assert (now.state, now.progress, now.message) == ("predicting", 0.4, "2 of 5 tasks: busy")
    assert any(line.endswith("loaded") for line in store.log_tail(now.id))


@pytest.mark.parametrize("kind", ["prediction", "training"])
def test_cancelling_ends_the_process_publishes_nothing_and_lets_the_next_begin(
    jobs, store, leases, registry, running, project, kind, label_studio, tasks
):
    for task in tasks:
        label_studio.add_annotation(task, [])
    leases.request(project, [str(task) for task in tasks])
    job, _ = jobs.submit(project, kind)
    now, thread = running(job, ENDLESS)
    process = process_of(jobs, now)
    assert is_alive(process)
    assert jobs.cancel(job.id).state == "cancelled"
    thread.join(20)
    assert not is_alive(process)
    after = store.get(job.id)
    assert (after.state, after.reason) == ("cancelled", "cancelled")
    assert registry.versions(project) == []
    assert leases.due() == ([] if kind == "prediction" else [project])
    assert jobs.submit(project, kind)[0].id != job.id
    with pytest.raises(JobConflict):
        jobs.cancel(job.id)


def test_a_job_that_is_cancelled_elsewhere_ends_here_in_a_moment(jobs, store, running, project):
    now, thread = running(jobs.predict(project, ALL)[0], ENDLESS)
    process = process_of(jobs, now)
    store.cancel(now.id)
    thread.join(20)
    assert not is_alive(process)


def test_a_waiting_job_is_cancelled_before_it_begins(jobs, store, runner_that, project, tmp_path):
    job, _ = jobs.predict(project, ALL)
    jobs.cancel(job.id)
    runner_that(prediction=ENDLESS).run(job.id, HOST_WORKER)
    assert store.get(job.id).state == "cancelled"
    assert not (tmp_path / "work").exists()


def test_a_prediction_job_goes_on_after_kill_9_of_its_process(jobs, store, running, project):
    now, thread = running(jobs.predict(project, ALL)[0], ENDLESS)
    os.kill(int(process_of(jobs, now).partition(":")[0]), signal.SIGKILL)
    thread.join(20)
    after = store.get(now.id)
    assert (after.state, after.restarts) == ("queued", 1)
    assert "prediction was killed by signal 9" in after.reason


def test_a_prediction_job_that_is_killed_again_and_again_without_progress_fails(
    jobs, store, leases, runner_that, project
):
    dying = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    job, _ = jobs.predict(project, ALL)
    for _ in range(4):
        runner_that(prediction=dying).run(job.id, HOST_WORKER)
    assert store.get(job.id).state == "failed"
    assert "that makes 4 times: look for a lack of memory" in store.get(job.id).reason
    assert leases.due() == []


def test_a_prediction_job_yields_to_people_and_gets_a_larger_part_than_a_training(
    jobs, running, project, label_studio, tasks
):
    for task in tasks:
        label_studio.add_annotation(task, [])
    prediction, _ = running(jobs.predict(project, ALL)[0], ENDLESS)
    training, _ = running(jobs.submit(project, "training")[0], ENDLESS)
    of = [
        os.getpriority(os.PRIO_PROCESS, int(process_of(jobs, job).partition(":")[0])) for job in (prediction, training)
    ]
    assert 0 < of[0] < of[1]


def test_two_workers_do_one_job_and_its_figures_are_their_sums(jobs, store, runner_that, project, leases):
    """Each says that it has predicted two tasks and goes on."""
    leases.request(project, map(str, range(6)))
    job, _ = jobs.submit(project, "prediction")
    threads, runners = [], []
    for worker in (HOST_WORKER, f"{os.uname().nodename}/{identity(os.getppid())}"):
        runners.append(runner_that(prediction=ENDLESS))
        threads.append(threading.Thread(target=runners[-1].help, args=(worker,)))
        threads[-1].start()
    try:
        now = eventually(lambda: (one := store.get(job.id)).figures.get("done") == 4 and one)
        assert now.message == "4 of 6 tasks by 2 workers: busy"
        assert now.figures == {"done": 4, "total": 6, "workers": 2}
        processes = [share.process for share in jobs.shares.working(job.id)]
        jobs.cancel(job.id)
        for thread in threads:
            thread.join(20)
        assert not any(is_alive(process) for process in processes)
        assert store.get(job.id).state == "cancelled"
        assert leases.due() == []
    finally:
        for runner in runners:
            runner.stop()
