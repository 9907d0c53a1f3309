import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from backend.errors import DatabaseError, JobError
from backend.jobs import worker as worker_module
from backend.jobs.worker import Worker
from backend.system.processes import identity, is_alive
from tests.backend.conftest import BOTH_STORAGES
from tests.backend.fakes import eventually
from tests.backend.jobs.edit import edit_job


@pytest.fixture
def worker_that(store, leases, open_queues, runner_that, monkeypatch):
    """A worker that runs on a thread until the test ends."""
    monkeypatch.setattr(worker_module, "BEAT_SECONDS", 0.1)
    running = []

    def start(how):
        worker = Worker(store, leases, open_queues(), runner_that(how))
        thread = threading.Thread(target=worker.run)
        thread.start()
        running.append((worker, thread))
        return worker

    yield start
    for worker, thread in running:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = identity(process.pid)
    process.communicate(b"\n")
    return name


@BOTH_STORAGES
def test_a_job_submitted_by_the_server_is_done_by_the_worker(store, jobs, worker_that, project, registry):
    worker_that("promote")
    job, _ = jobs.submit(project)
    assert eventually(lambda: store.get(job.id).state == "done")
    assert registry.current(project) is not None


def test_a_job_submitted_before_the_worker_starts_is_done_even_if_the_queue_lost_it(store, worker_that, project):
    job, _ = store.submit("training", project)
    worker_that("promote")
    assert eventually(lambda: store.get(job.id).state == "done")


def test_a_job_whose_worker_was_killed_begins_again_and_says_so(store, worker_that, project):
    job, _ = store.submit("training", project)
    store.claim(job.id, f"{socket.gethostname()}/{dead_process()}")
    edit_job(store, job.id, state="training")
    worker_that("promote")
    assert eventually(lambda: store.get(job.id).state == "done")
    assert store.get(job.id).restarts == 1
    assert "its worker died while training; it begins again" in "\n".join(store.log_tail(job.id))


def test_a_job_whose_worker_dies_again_fails_with_the_reason(store, worker_that, project):
    job, _ = store.submit("training", project)
    store.claim(job.id, f"{socket.gethostname()}/{dead_process()}")
    edit_job(store, job.id, state="evaluating", restarts=1)
    worker_that("promote")
    assert eventually(lambda: store.get(job.id).state == "failed")
    assert "its worker died while evaluating; that makes 2 times" in store.get(job.id).reason


def test_the_training_process_of_a_killed_worker_is_ended(store, worker_that, project):
    orphan = subprocess.Popen(["sleep", "600"], start_new_session=True)
    job, _ = store.submit("training", project)
    store.claim(job.id, f"{socket.gethostname()}/{dead_process()}")
    edit_job(store, job.id, state="training", process=identity(orphan.pid))
    worker_that("promote")
    assert orphan.wait(20) == -9


def test_a_job_of_a_worker_that_lives_is_left_alone(store, worker_that, project):
    job, _ = store.submit("training", project)
    store.claim(job.id, f"{socket.gethostname()}/{identity(os.getppid())}")
    elsewhere, _ = store.submit("training", "2")
    store.claim(elsewhere.id, "other-host/1:1")
    worker = worker_that("promote")
    worker.recover()
    time.sleep(0.3)
    assert [store.get(j.id).state for j in (job, elsewhere)] == ["fetching", "fetching"]


def test_a_job_whose_end_could_not_be_recorded_begins_again(store, worker_that, project, monkeypatch):
    """The disk was full, or PostgreSQL away, for a moment."""
    advance = store.advance
    refused: list[Any] = []

    def at_first_not(job, **changes):
        if changes.get("state") in ("publishing", "failed") and len(refused) < 3:
            refused.append(changes["state"])
            raise JobError("the disk is full")
        return advance(job, **changes)

    monkeypatch.setattr(store, "advance", at_first_not)
    job, _ = store.submit("training", project)
    worker_that("promote")
    assert eventually(lambda: store.get(job.id).state == "done")
    assert refused == ["publishing", "failed", "failed"]  # the second time without its files, which may fill the disk
    assert "it broke off while" in "\n".join(store.log_tail(job.id, 100))


def test_a_database_that_is_away_is_told_once_and_when_it_is_back(store, worker_that, monkeypatch, caplog):
    beat, away = store.beat, threading.Event()
    beats = []

    def beat_or_not(worker):
        beats.append(worker)
        if away.is_set():
            raise DatabaseError("the database cannot be used", "start it")
        beat(worker)

    monkeypatch.setattr(store, "beat", beat_or_not)
    caplog.set_level("INFO", "backend.jobs.worker")
    worker_that("promote")
    away.set()
    count = len(beats)
    eventually(lambda: len(beats) > count + 5)
    away.clear()
    eventually(lambda: "the jobs are looked after again" in caplog.text)
    (told,) = [record for record in caplog.records if "the database cannot be used; start it" in record.getMessage()]
    assert not told.exc_info


def test_a_training_is_done_though_the_database_is_away_again_and_again(store, worker_that, project, monkeypatch):
    """None of it counts as a death, of which a training survives one."""
    advance, release = store.advance, store.release
    calls: list[str] = []

    def at_times(call):
        def work(*arguments, **options):
            calls.append(call.__name__)
            if len(calls) in (3, 4, 5, 9, 10, 14):
                raise DatabaseError("the database cannot be used")
            return call(*arguments, **options)

        return work

    monkeypatch.setattr(store, "advance", at_times(advance))
    monkeypatch.setattr(store, "release", at_times(release))
    job, _ = store.submit("training", project)
    worker_that("promote")
    assert eventually(lambda: store.get(job.id).state in ("done", "failed"), 60)
    after = store.get(job.id)
    assert (after.state, after.restarts) == ("done", 0), store.log_tail(job.id, 100)
    assert len(calls) > 14


@pytest.mark.parametrize("storage", ["postgresql"], indirect=True)
def test_after_a_restart_of_postgresql_every_queue_is_asked_at_once(records, jobs):
    """Each has a connection of its own, which is gone."""
    assert jobs.waiting() == 0
    others = "select pg_terminate_backend(pid) from pg_stat_activity where pid != pg_backend_pid() and datname = "
    records.read(lambda connection: connection.exec_driver_sql(f"{others} current_database()"))
    assert jobs.waiting() == 0


def test_a_worker_of_another_machine_whose_clock_is_ahead_is_alive(store, worker_that, project):
    job, _ = store.submit("training", project)
    store.claim(job.id, "other-host/1:1")
    edit_job(store, job.id, beat=time.time() + 30)
    worker_that("promote").recover()
    assert store.get(job.id).state == "fetching"


def test_a_worker_of_a_machine_that_is_called_alike_is_alive(store, jobs, worker_that, project):
    """Its process is not found among those of this machine."""
    training, _ = store.submit("training", project)
    store.claim(training.id, f"{socket.gethostname()}-a-clone/1:1")
    jobs.leases.request(project, ["1"])
    prediction, _ = jobs.submit(project, "prediction")
    clone = f"{socket.gethostname()}-a-clone/2:2"
    assert jobs.shares.take(clone)
    worker = worker_that("promote")
    worker.recover()
    worker._runner.recover(worker.name)
    assert store.get(training.id).state == "fetching"
    assert clone in [share.worker for share in jobs.shares.working(prediction.id)]
    jobs.cancel(prediction.id)


def test_requested_tasks_without_a_lease_get_a_job(store, leases, worker_that, project):
    leases.request(project, ["1"])
    worker_that("promote")
    (job,) = eventually(lambda: store.find(project, kind="prediction"))
    wanted = "predictions were requested that no one makes"
    eventually(lambda: any(wanted in line for line in store.log_tail(job.id, 100)))


def test_a_worker_of_another_machine_that_has_been_silent_is_taken_for_dead(store, worker_that, project):
    job, _ = store.submit("training", project)
    store.claim(job.id, "other-host/1:1")
    edit_job(store, job.id, beat=time.time() - 1000)
    worker_that("promote")
    assert eventually(lambda: store.get(job.id).state == "done")


def test_a_stopped_worker_leaves_its_job_in_the_queue_and_no_process(
    store, leases, open_queues, jobs, runner_that, project
):
    job, _ = jobs.submit(project)
    worker = Worker(store, leases, open_queues(), runner_that("hang"))
    thread = threading.Thread(target=worker.run)
    thread.start()
    running = eventually(lambda: (j := store.get(job.id)).process and j)
    worker.stop()
    thread.join(30)
    assert store.get(job.id).state == "queued"
    assert not is_alive(running.process)
