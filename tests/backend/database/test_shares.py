"""Workers' shares of prediction jobs: who does what, and that a job ends once."""

import threading

import pytest

from backend.database.leases import share_holder
from backend.database.shares import FAILED, LEFT, OUTCOMES, Shares
from tests.backend.conftest import BOTH_STORAGES

pytestmark = BOTH_STORAGES
A, B, C = "host/1:1", "host/2:1", "other/3:1"
NOTHING = dict.fromkeys(OUTCOMES, 0)


class Clock:
    """Unix time that tests set."""

    def __init__(self):
        self.now = 1.9e9

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def shares(records, leases):
    return Shares(records, leases, Clock())


@pytest.fixture
def job_of(store, leases):
    """A prediction job of a project with so many requested tasks."""

    def make(project, tasks=100):
        leases.request(project, [str(number) for number in range(1, tasks + 1)])
        return store.submit("prediction", project)[0]

    return make


def leave(shares, job, worker, state=LEFT, reason="", killed=False):
    return shares.leave(job, worker, state, reason, killed=killed)


def test_free_workers_spread_over_the_jobs_and_then_help_the_oldest(shares, job_of):
    first, second = job_of("1"), job_of("2")
    assert [shares.take(worker).id for worker in (A, B, C)] == [first.id, second.id, first.id]


def test_a_single_worker_goes_round_all_jobs(shares, job_of):
    jobs = [job_of(str(number)) for number in range(3)]
    seen = []
    for _ in range(6):
        job = shares.take(A)
        seen.append(job.id)
        assert shares.awaited(A, job.id)
        leave(shares, job, A)
    assert seen == [job.id for job in jobs] * 2


def test_a_worker_stays_unless_another_job_has_far_fewer(shares, job_of):
    large = job_of("1")
    for worker in (A, B, C):
        shares.take(worker)
    assert not shares.awaited(A, large.id)
    job_of("2")
    assert shares.awaited(A, large.id)
    leave(shares, large, A)
    shares.take(A)
    assert not shares.awaited(B, large.id)  # 2 and 1


def test_nobody_helps_a_job_whose_tasks_are_all_leased(shares, job_of, leases):
    job = job_of("1", 3)
    shares.take(A)
    leases.acquire_due("1", share_holder(job.id, A), 32, 60)
    assert shares.take(B) is None
    assert shares.settle(job) is None


def test_progress_is_the_sum_over_workers_and_over_their_processes(shares, job_of, store, leases):
    job = job_of("1", 10)
    for worker, tasks in ((A, ["1", "2"]), (B, ["3"])):
        shares.take(worker)
        leases.acquire_due("1", share_holder(job.id, worker), len(tasks), 60)
        assert shares.finish(job.id, worker, "1", [*tasks, "9"], "predicted") == len(tasks)  # 9 is another's
        assert shares.report(job, worker, "busy", drawn=1, pace=2.0)
    now = store.get(job.id)
    assert (now.figures, now.report) == ({"done": 5, "total": 10, "workers": 2}, NOTHING | {"predicted": 3})
    assert (now.progress, now.eta) == (0.5, 5.0)
    leave(shares, job, A)
    shares.take(A)
    leases.acquire_due("1", share_holder(job.id, A), 2, 60)
    shares.report(job, A, "busy", drawn=2)
    shares.finish(job.id, A, "1", ["4"], "predicted")
    shares.finish(job.id, A, "1", ["5"], "gone", [{"task": 5, "reason": "why"}])
    shares.report(job, B, "busy", drawn=1)
    now = store.get(job.id)
    assert now.report == NOTHING | {"predicted": 4, "gone": 1, "problems": [{"task": 5, "reason": "why"}]}
    assert now.figures["done"] == 6  # and one that B has predicted


def test_what_a_killed_worker_struck_off_is_counted_though_it_told_nothing(shares, job_of, store, leases):
    """It is killed, and taken for dead, between two of its transactions."""
    job = job_of("1", 4)
    shares.take(A)
    leases.acquire_due("1", share_holder(job.id, A), 3, 60)
    shares.finish(job.id, A, "1", ["1", "2"], "predicted")
    leave(shares, job, A, reason="its worker died", killed=True)
    assert shares.finish(job.id, A, "1", ["3"], "predicted") == 0  # of one that was not dead: the task is due again
    shares.take(B)
    leases.acquire_due("1", share_holder(job.id, B), 9, 60)
    shares.finish(job.id, B, "1", ["3", "4"], "present")
    ended = leave(shares, job, B)
    assert ended.message == "2 predicted, 2 had a prediction of this version already"


def test_the_last_worker_ends_the_job_and_only_it(shares, job_of, store, leases):
    job = job_of("1", 2)
    shares.take(A)
    shares.take(B)
    leases.acquire_due("1", share_holder(job.id, B), 32, 60)
    assert leave(shares, job, A) is None
    assert store.get(job.id).state == "predicting"
    leases.finish("1", ["1", "2"], share_holder(job.id, B))
    ended = leave(shares, job, B)
    assert (ended.state, ended.message) == ("done", "no prediction was requested")
    assert leave(shares, job, B) is None
    assert shares.settle(job) is None
    assert not shares.report(job, B, "late", drawn=9)


def test_of_workers_that_leave_at_the_same_moment_one_ends_the_job(shares, job_of, leases):
    job = job_of("1", 8)
    workers = [f"host/{number}:1" for number in range(8)]
    for number, worker in enumerate(workers, 1):
        shares.take(worker)
        leases.acquire_due("1", share_holder(job.id, worker), 1, 60)
        leases.finish("1", [str(number)], share_holder(job.id, worker))
    ended = []
    barrier = threading.Barrier(8)

    def go(worker):
        barrier.wait()
        ended.append(leave(shares, job, worker))

    threads = [threading.Thread(target=go, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.state for one in ended if one is not None] == ["done"]


def test_the_chunk_of_a_dead_worker_comes_back_and_what_it_was_storing_is_waited_for(shares, job_of, store, leases):
    job = job_of("1", 4)
    shares.take(A)
    holder = share_holder(job.id, A)
    leases.acquire_due("1", holder, 4, 600)
    leases.commit("1", ["4"], holder, 90, version="v1")
    assert leave(shares, job, A, reason="its worker died", killed=True) is None
    assert (store.get(job.id).state, store.get(job.id).restarts) == ("queued", 1)
    shares.take(B)
    assert leases.acquire_due("1", share_holder(job.id, B), 9, 60) == ["1", "2", "3"]
    leases.finish("1", ["1", "2", "3"], share_holder(job.id, B))
    assert leave(shares, job, B) is None  # Label Studio may still be storing the fourth
    assert shares.settle(job) is None


def test_a_job_fails_with_the_last_of_its_workers(shares, job_of, store):
    job = job_of("1")
    shares.take(A)
    shares.take(B)
    assert leave(shares, job, A, FAILED, "no memory on this machine") is None
    assert shares.take(A) is None
    ended = leave(shares, job, B, FAILED, "no model knows the classes")
    assert (ended.state, ended.reason) == ("failed", "no model knows the classes")


def test_a_worker_that_failed_tries_again_when_all_others_are_gone(shares, job_of):
    """Or the job would wait for ever."""
    job = job_of("1")
    shares.take(A)
    shares.take(B)
    leave(shares, job, A, FAILED, "no memory")
    leave(shares, job, B)
    assert shares.take(A).id == job.id


def test_deaths_without_a_prediction_in_between_are_counted_over_all_workers(shares, job_of, store, leases):
    job = job_of("1")
    for worker in (A, B, C):
        shares.take(worker)
        leave(shares, job, worker, reason="killed", killed=True)
    shares.take(A)
    shares.finish(job.id, A, "1", leases.acquire_due("1", share_holder(job.id, A), 1, 60), "predicted")
    assert store.get(job.id).restarts == 0
    for worker in (A, B, C):
        shares.take(worker)
        assert leave(shares, job, worker, reason="killed", killed=True) is None
    shares.take(A)
    ended = leave(shares, job, A, reason="killed", killed=True)
    assert ended.state == "failed"
    assert ended.reason.startswith("killed; that makes 4 times")


def test_what_was_not_stored_fails_the_job_in_the_end_and_is_due_again(shares, job_of, leases):
    job = job_of("1", 2)
    shares.take(A)
    holder = share_holder(job.id, A)
    leases.acquire_due("1", holder, 2, 60)
    problem = {"task": 2, "reason": "Label Studio did not store its prediction: HTTP 500"}
    shares.refuse(job.id, A, "1", ["2"], [problem])
    shares.finish(job.id, A, "1", ["1"], "predicted")
    ended = leave(shares, job, A)
    assert ended.state == "failed"
    assert ended.reason.startswith("Label Studio did not store 1 predictions, of tasks 2: HTTP 500; 1 are stored")
    assert ended.report == NOTHING | {"predicted": 1, "refused": 1, "problems": [problem]}
    assert leases.acquire_due("1", "next", 9, 60) == ["2"]


def test_a_cancelled_job_has_no_shares_left_and_nothing_to_do(shares, job_of, store, leases):
    job = job_of("1")
    shares.take(A)
    leases.acquire_due("1", share_holder(job.id, A), 32, 60)
    store.cancel(job.id)
    assert not shares.holds(job.id, A)
    assert not shares.report(job, A, "late", drawn=1)
    leases.abandon("1", job.id)
    assert leave(shares, job, A) is None
    assert leases.remaining("1", "any") == (0, None)
    assert shares.take(A) is None
    shares.forget()
    assert shares.working() == []


def test_what_one_worker_of_an_earlier_release_was_predicting_is_due_at_once(shares, job_of, leases):
    job = job_of("1", 3)
    leases.acquire_due("1", job.id, 2, 600)
    shares.take(A)
    assert leases.acquire_due("1", share_holder(job.id, A), 9, 60) == ["1", "2", "3"]
