"""Order of requests and jobs at the same tasks; the clock of the leases stands still unless the test moves it."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select, true

from backend.database.leases import ALL, BATCH, COUNTED, Leases
from backend.database.tables import LEASES, REQUESTED
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
def test_two_never_store_the_same_task_at_once_and_none_is_forgotten(leases, records, clock, moves):
    """For any order of moves of requests a and b and job j: the one that stores a task is alone until it lets go."""
    project = str(next(PROJECTS))
    storing: dict[str, str] = {}
    requested = set()
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
    assert numbers(records, project) == (len(requested), len(requested))
    clock.now += 100
    assert set(leases.acquire_due(project, "other", 9, 60)) == requested


def test_workers_share_a_projects_tasks_and_none_gets_one_twice(leases):
    tasks = {str(number) for number in range(200)}
    leases.request(P, tasks)

    def work(job):
        taken = []
        while chunk := leases.acquire_due(P, job, 16, 600):
            taken += leases.commit(P, chunk, job, 90, version="v1")
            leases.finish(P, chunk, job)
        return taken

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(work, "abcd"))
    # One that finds every due task locked this moment may end; the others go on.
    assert sorted(itertools.chain(*shares)) == sorted(tasks)
    assert leases.remaining(P, "a") == (0, None)


def test_of_many_that_open_a_task_at_the_same_moment_one_gets_it(leases):
    for task in range(10):

        def acquire(holder, task=str(task)):
            return leases.acquire(P, [task, f"other-{task}"], holder, 70, version="v1", committed=True)

        with ThreadPoolExecutor(6) as pool:
            assert sorted(map(len, pool.map(acquire, "abcdef"))) == [0, 0, 0, 0, 0, 2]


def test_more_tasks_than_a_statement_takes_are_requested_leased_and_abandoned(leases):
    tasks = {str(number) for number in range(2 * BATCH + 5)}
    leases.request(P, tasks)
    assert leases.acquire(P, tasks, "large", 70, version="v1", committed=False) == tasks
    assert leases.commit(P, tasks, "large", 70, version="v1") == tasks
    assert leases.release(P, tasks, "large") == len(tasks)
    leases.acquire(P, ["1"], "annotator", 70, version="v1", committed=True)
    leases.abandon(P, "job")
    assert leases.remaining(P, "job") == (0, None)
    assert leases.commit(P, ["1"], "annotator", 70, version="v1") == {"1"}


def test_the_number_of_many_tasks_is_known_at_every_moment(leases, clock):
    many = COUNTED + 500
    leases.request(P, map(str, range(many)))
    assert leases.remaining(P, "job") == (many, 0.0)
    leases.acquire(P, map(str, range(100)), "request", 70, version="v1", committed=True)
    assert leases.remaining(P, "job") == (many - 100, 0.0)
    leases.delivered(P, ["0", "1"], "request", 5)
    assert leases.release(P, ["1", "2"], "request") == 2
    clock.now += 71
    assert leases.remaining(P, "job") == (leases.waiting(), 0.0) == (many - 1, 0.0)
    leases.acquire(P, map(str, range(COUNTED)), "another", 70, version="v2", committed=True)
    assert leases.remaining(P, "job") == (500, 0.0)  # few again: each is counted


def numbers(records, project):
    """The number of a project's requested tasks: as it is kept, and counted."""

    def work(connection):
        kept = connection.execute(select(REQUESTED.c.tasks).where(REQUESTED.c.project == project)).scalar() or 0
        rows = select(LEASES).where(LEASES.c.project == project, LEASES.c.requested.is_(true()))
        return kept, len(connection.execute(rows).all())

    return records.read(work)


def test_the_number_stays_right_while_many_change_the_same_tasks(leases, records):
    """All that changes it, at once."""
    tasks = [str(number) for number in range(40)]

    def work(holder):
        for turn in range(6):
            mine = tasks[ord(holder) % 3 :: turn % 3 + 1]
            leases.request(P, mine)
            leases.acquire(P, mine, holder, 70, version=f"v{turn % 2}", committed=turn % 2 == 0)
            leases.delivered(P, mine[::2], holder, turn % 3 - 1)
            leases.release(P, mine[::3], holder)
            leases.finish(P, leases.acquire_due(P, f"job {holder}", 5, 60), f"job {holder}")
            leases.due()
        leases.abandon(P, f"job {holder}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    kept, counted = numbers(records, P)
    assert kept == counted


@contextmanager
def steps(records):
    """Counts how much the engine does: SQLite's steps, or rows that PostgreSQL reads. Neither depends on the time."""
    counted = [0]

    def step():
        counted[0] += 1

    def watch(connection):
        connection.connection.dbapi_connection.set_progress_handler(step, 10)

    def rows(connection):
        reads = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_user_tables where relname = 'leases'"
        return connection.exec_driver_sql(reads).scalar_one()

    def begin(connection):  # what this connection has read before
        counted[0] -= rows(connection)

    def commit(connection):
        counted[0] += rows(connection)

    events = {"begin": watch} if records.dsn is None else {"begin": begin, "commit": commit}
    for name, called in events.items():
        event.listen(records._engine, name, called)
    try:
        yield counted
    finally:
        for name, called in events.items():
            event.remove(records._engine, name, called)


def test_a_call_costs_what_it_asks_for_and_not_what_there_is(leases, records, clock):
    """A chunk of a job, a task that is opened, and the worker's look at all projects; half of the tasks are leased."""

    def cost(project, tasks):
        leases.request(project, map(str, range(tasks)))
        leases.acquire_due(project, "others", tasks // 2, 600)
        clock.now += 1
        with records._engine.begin() as connection:  # PostgreSQL does it by itself, sooner or later
            connection.exec_driver_sql("analyze")
        with steps(records) as counted:
            taken = leases.acquire_due(project, "job", 32, 600)
            assert len(taken) == 32
            leases.remaining(project, "job")
            leases.commit(project, taken, "job", 90, version="v1")
            leases.finish(project, taken, "job")
            leases.remaining(project, "job")
            leases.acquire(project, [str(tasks)], "request", 70, version="v1", committed=True)
            leases.commit(project, [str(tasks)], "request", 70, version="v1")
            leases.delivered(project, [str(tasks)], "request", 5)
            assert project in leases.due()
        return counted[0]

    few, many = 2 * COUNTED + 100, 10 * COUNTED
    assert 0 < cost("2", many) < 1.5 * cost("1", few)


def test_a_thousand_tasks_of_a_large_project_cost_what_those_of_a_small_one_do(leases, records):
    """Whoever presses for a whole project waits for none of those that are requested already."""

    def cost(project, tasks):
        leases.request(project, map(str, range(tasks)))
        asked = [str(number) for number in range(tasks, tasks + BATCH)]
        with steps(records) as counted:
            leases.request(project, asked)
            assert leases.acquire(project, asked, "request", 70, version="v1", committed=False) == set(asked)
            assert leases.commit(project, asked, "request", 70, version="v1") == set(asked)
            leases.finish(project, asked, "request")
        return counted[0]

    assert 0 < cost("2", 30 * BATCH) < 1.5 * cost("1", 2 * BATCH)


def test_the_tasks_of_a_thousand_projects_are_counted_by_as_many_statements_as_those_of_one(leases, records, clock):
    """Prometheus asks each server for it every few seconds."""

    def statements():
        counted = []
        event.listen(records._engine, "before_cursor_execute", listener := lambda *_: counted.append(1))
        try:
            return leases.waiting(), len(counted)
        finally:
            event.remove(records._engine, "before_cursor_execute", listener)

    leases.request("0", ["1", "2"])
    leases.acquire_due("0", "job", 1, 60)
    waiting, few = statements()
    assert waiting == 1
    for project in range(1, 20):
        leases.request(str(project), ["1", "2"])
        leases.acquire(str(project), ["1"], "request", 60, version="v1", committed=True)
    assert statements() == (20, few)
    clock.now += 61
    leases.request("large", map(str, range(COUNTED + 1)))
    assert statements()[0] == 2 * 20 + COUNTED + 1
