"""Order of requests and jobs at the same tasks; the clock of the leases stands still unless the test moves it."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.database.leases import ALL, Leases
from tests.backend.conftest import BOTH_STORAGES

pytestmark = BOTH_STORAGES
P = "3"
PROJECTS = itertools.count(100)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def leases(records, clock):
    return Leases(records, clock)


def test_requested_tasks_are_leased_once_in_order_and_removed_when_finished(leases):
    leases.request(P, ["10", "9", ALL, "11"])
    assert leases.due() == [P]
    assert leases.acquire_due(P, "job", 2, 60) == ["9", "10"]
    assert leases.acquire_due(P, "other", 9, 60) == ["11", ALL]
    leases.finish(P, ["9", "10", "11"], "job")
    assert leases.remaining(P, "job") == (0, None)
    assert leases.remaining(P, "other") == (2, 0.0)
    assert leases.due() == []


def test_a_job_that_begins_again_gets_back_what_it_had_at_once(leases):
    leases.request(P, ["1", "2"])
    leases.acquire_due(P, "job", 1, 600)
    assert leases.acquire_due(P, "job", 9, 600) == ["1", "2"]


def test_what_may_be_on_its_way_into_label_studio_is_waited_for(leases, clock):
    """A job was killed in the middle of an import."""
    leases.request(P, ["1"])
    leases.acquire_due(P, "job", 9, 600)
    assert leases.commit(P, ["1"], "job", 90, version="v1") == {"1"}
    assert leases.acquire_due(P, "job", 9, 600) == []
    assert leases.remaining(P, "job") == (1, 90.0)
    clock.now += 91
    assert leases.remaining(P, "job") == (1, 0.0)
    assert leases.acquire_due(P, "job", 9, 600) == ["1"]


def test_of_three_people_who_open_a_task_one_gets_it(leases, clock):
    leased = [leases.acquire(P, ["1"], holder, 70, version="v1", committed=True) for holder in "abc"]
    assert leased == [{"1"}, set(), set()]
    assert leases.commit(P, ["1"], "a", 70, version="v1") == {"1"}
    leases.delivered(P, ["1"], "a", 5)
    assert leases.acquire(P, ["1"], "d", 70, version="v1", committed=True) == set()
    clock.now += 6
    assert leases.due() == []
    assert leases.acquire(P, ["1"], "d", 70, version="v1", committed=True) == {"1"}


def test_a_prediction_of_another_version_is_another_prediction(leases):
    """Somebody promotes a version and presses Retrieve while the answer of the one before is still being stored."""
    leases.acquire(P, ["1"], "old", 70, version="v1", committed=True)
    assert leases.acquire(P, ["1"], "new", 70, version="v2", committed=False) == {"1"}
    assert leases.commit(P, ["1"], "old", 70, version="v1") == set()


def test_an_annotator_takes_a_task_over_from_a_large_request_and_from_a_job(leases):
    leases.acquire(P, ["1", "2"], "large", 70, version="v1", committed=False)
    assert leases.acquire(P, ["1"], "annotator", 70, version="v1", committed=True) == {"1"}
    assert leases.commit(P, ["1", "2"], "large", 70, version="v1") == {"2"}
    leases.request(P, ["3"])
    leases.acquire_due(P, "job", 9, 600)
    leases.acquire(P, ["3"], "annotator", 70, version="v1", committed=True)
    assert leases.commit(P, ["3"], "job", 90, version="v1") == set()


def test_a_second_press_leaves_alone_what_the_first_has_given(leases):
    leases.acquire(P, ["1", "2", "3"], "first", 70, version="v1", committed=False)
    leases.commit(P, ["1"], "first", 70, version="v1")
    assert leases.acquire(P, ["1", "2", "3"], "second", 70, version="v1", committed=False) == {"2", "3"}
    assert leases.commit(P, ["2"], "first", 70, version="v1") == set()


def test_what_a_request_did_not_reach_is_due_and_what_it_gave_is_not(leases, clock):
    leases.acquire(P, ["1", "2"], "request", 70, version="v1", committed=False)
    leases.commit(P, ["1"], "request", 70, version="v1")
    assert leases.release(P, ["2"], "request") == 1
    leases.delivered(P, ["1"], "request", 10)
    assert leases.acquire_due(P, "job", 9, 60) == ["2"]
    clock.now += 20
    assert leases.acquire_due(P, "job", 9, 60) == ["2"]


def test_everything_of_a_request_that_died_becomes_due(leases, clock):
    leases.acquire(P, ["1", "2"], "request", 70, version="v1", committed=False)
    leases.commit(P, ["1"], "request", 70, version="v1")
    assert leases.due() == []
    clock.now += 71
    assert leases.due() == [P]
    assert leases.acquire_due(P, "job", 9, 60) == ["1", "2"]


def test_an_abandoned_job_leaves_the_leases_of_requests(leases):
    leases.request(P, ["1", "2", "3"])
    leases.acquire_due(P, "job", 1, 60)
    leases.acquire(P, ["3"], "request", 70, version="v1", committed=False)
    leases.abandon(P, "job")
    assert leases.acquire_due(P, "job", 9, 60) == []
    assert leases.commit(P, ["3"], "request", 70, version="v1") == {"3"}


def test_a_clock_that_is_set_back_keeps_nobody_waiting(leases, clock):
    leases.acquire(P, ["1"], "request", 70, version="v1", committed=True)
    clock.now -= 7200
    assert leases.due() == [P]


def test_projects_do_not_mix(leases):
    leases.request("3", ["1"])
    assert leases.acquire_due("31", "job", 9, 60) == []
    assert leases.due() == ["3"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.tuples(st.sampled_from("abj"), st.sampled_from("hcdrw"), st.sampled_from("12")), max_size=25))
def test_two_never_store_the_same_task_at_once_and_none_is_forgotten(leases, clock, moves):
    """For any order of moves of requests a and b and job j: the one that stores a task is alone until it lets go."""
    project = str(next(PROJECTS))
    storing, requested = {}, set()
    for holder, move, task in moves:
        if move == "h" and holder == "j":
            leases.acquire_due(project, "j", 1, 60)
        elif move == "h":
            requested |= leases.acquire(project, [task], holder, 70, version="v1", committed=holder == "a")
        elif move == "w":
            leases.request(project, [task])
            requested.add(task)
        elif move == "c" and leases.commit(project, [task], holder, 70, version="v1"):
            assert storing.setdefault(task, holder) == holder
        elif move == "d" and storing.get(task) == holder:
            leases.finish(project, [task], holder)
            del storing[task]
            requested.discard(task)
        elif move == "r" and leases.release(project, [task], holder):
            storing.pop(task, None)
    clock.now += 100
    assert set(leases.acquire_due(project, "other", 9, 60)) == requested
