"""Each test is a story of who comes first; the ledger's clock stands still unless the test moves it."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.database.leases import ALL, Ledger
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
def ledger(records, clock):
    return Ledger(records, clock)


def test_what_is_wanted_is_taken_once_in_order_and_struck_off_when_settled(ledger):
    ledger.want(P, ["10", "9", ALL, "11"])
    assert ledger.due() == [P]
    assert ledger.take_due(P, "job", 2, 60) == ["9", "10"]
    assert ledger.take_due(P, "other", 9, 60) == ["11", ALL]
    ledger.settle(P, ["9", "10", "11"], "job")
    assert ledger.left(P, "job") == (0, None)
    assert ledger.left(P, "other") == (2, 0.0)
    assert ledger.due() == []


def test_a_job_that_begins_again_gets_back_what_it_had_at_once(ledger):
    ledger.want(P, ["1", "2"])
    ledger.take_due(P, "job", 1, 600)
    assert ledger.take_due(P, "job", 9, 600) == ["1", "2"]


def test_what_may_be_on_its_way_into_label_studio_is_waited_for(ledger, clock):
    """A job was killed in the middle of an import."""
    ledger.want(P, ["1"])
    ledger.take_due(P, "job", 9, 600)
    assert ledger.confirm(P, ["1"], "job", 90, version="v1") == {"1"}
    assert ledger.take_due(P, "job", 9, 600) == []
    assert ledger.left(P, "job") == (1, 90.0)
    clock.now += 91
    assert ledger.left(P, "job") == (1, 0.0)
    assert ledger.take_due(P, "job", 9, 600) == ["1"]


def test_of_three_people_who_open_a_task_one_gets_it(ledger, clock):
    held = [ledger.hold(P, ["1"], holder, 70, version="v1", firm=True) for holder in "abc"]
    assert held == [{"1"}, set(), set()]
    assert ledger.confirm(P, ["1"], "a", 70, version="v1") == {"1"}
    ledger.delivered(P, ["1"], "a", 5)
    assert ledger.hold(P, ["1"], "d", 70, version="v1", firm=True) == set()
    clock.now += 6
    assert ledger.due() == []
    assert ledger.hold(P, ["1"], "d", 70, version="v1", firm=True) == {"1"}


def test_a_prediction_of_another_version_is_another_prediction(ledger):
    """Somebody promotes a version and presses Retrieve while the answer of the one before is still being stored."""
    ledger.hold(P, ["1"], "old", 70, version="v1", firm=True)
    assert ledger.hold(P, ["1"], "new", 70, version="v2", firm=False) == {"1"}
    assert ledger.confirm(P, ["1"], "old", 70, version="v1") == set()


def test_an_annotator_takes_a_task_over_from_a_large_request_and_from_a_job(ledger):
    ledger.hold(P, ["1", "2"], "large", 70, version="v1", firm=False)
    assert ledger.hold(P, ["1"], "annotator", 70, version="v1", firm=True) == {"1"}
    assert ledger.confirm(P, ["1", "2"], "large", 70, version="v1") == {"2"}
    ledger.want(P, ["3"])
    ledger.take_due(P, "job", 9, 600)
    ledger.hold(P, ["3"], "annotator", 70, version="v1", firm=True)
    assert ledger.confirm(P, ["3"], "job", 90, version="v1") == set()


def test_a_second_press_leaves_alone_what_the_first_has_given(ledger):
    ledger.hold(P, ["1", "2", "3"], "first", 70, version="v1", firm=False)
    ledger.confirm(P, ["1"], "first", 70, version="v1")
    assert ledger.hold(P, ["1", "2", "3"], "second", 70, version="v1", firm=False) == {"2", "3"}
    assert ledger.confirm(P, ["2"], "first", 70, version="v1") == set()


def test_what_a_request_did_not_reach_is_due_and_what_it_gave_is_not(ledger, clock):
    ledger.hold(P, ["1", "2"], "request", 70, version="v1", firm=False)
    ledger.confirm(P, ["1"], "request", 70, version="v1")
    assert ledger.release(P, ["2"], "request") == 1
    ledger.delivered(P, ["1"], "request", 10)
    assert ledger.take_due(P, "job", 9, 60) == ["2"]
    clock.now += 20
    assert ledger.take_due(P, "job", 9, 60) == ["2"]


def test_everything_of_a_request_that_died_becomes_due(ledger, clock):
    ledger.hold(P, ["1", "2"], "request", 70, version="v1", firm=False)
    ledger.confirm(P, ["1"], "request", 70, version="v1")
    assert ledger.due() == []
    clock.now += 71
    assert ledger.due() == [P]
    assert ledger.take_due(P, "job", 9, 60) == ["1", "2"]


def test_giving_up_leaves_what_a_request_holds(ledger):
    ledger.want(P, ["1", "2", "3"])
    ledger.take_due(P, "job", 1, 60)
    ledger.hold(P, ["3"], "request", 70, version="v1", firm=False)
    ledger.give_up(P, "job")
    assert ledger.take_due(P, "job", 9, 60) == []
    assert ledger.confirm(P, ["3"], "request", 70, version="v1") == {"3"}


def test_a_clock_that_is_set_back_keeps_nobody_waiting(ledger, clock):
    ledger.hold(P, ["1"], "request", 70, version="v1", firm=True)
    clock.now -= 7200
    assert ledger.due() == [P]


def test_projects_do_not_mix(ledger):
    ledger.want("3", ["1"])
    assert ledger.take_due("31", "job", 9, 60) == []
    assert ledger.due() == ["3"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.tuples(st.sampled_from("abj"), st.sampled_from("hcdrw"), st.sampled_from("12")), max_size=25))
def test_two_never_store_the_same_task_at_once_and_none_is_forgotten(ledger, clock, moves):
    """Whatever requests a and b and job j do in whatever order: who stores a task is alone until it lets go."""
    project = str(next(PROJECTS))
    storing, wanted = {}, set()
    for holder, move, task in moves:
        if move == "h" and holder == "j":
            ledger.take_due(project, "j", 1, 60)
        elif move == "h":
            wanted |= ledger.hold(project, [task], holder, 70, version="v1", firm=holder == "a")
        elif move == "w":
            ledger.want(project, [task])
            wanted.add(task)
        elif move == "c" and ledger.confirm(project, [task], holder, 70, version="v1"):
            assert storing.setdefault(task, holder) == holder
        elif move == "d" and storing.get(task) == holder:
            ledger.settle(project, [task], holder)
            del storing[task]
            wanted.discard(task)
        elif move == "r" and ledger.release(project, [task], holder):
            storing.pop(task, None)
    clock.now += 100
    assert set(ledger.take_due(project, "other", 9, 60)) == wanted
