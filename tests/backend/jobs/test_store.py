from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.errors import JobError
from backend.jobs import store as store_module
from backend.jobs.queue import JobQueue, sqlite_queue
from backend.jobs.store import JobStore


def test_a_second_request_joins_the_waiting_or_running_job(store):
    job, new = store.submit("training", "3")
    assert new
    assert store.submit("training", "3") == (job, False)
    store.claim(job.id, "host/1:1")
    assert store.submit("training", "3")[0].id == job.id
    store.update(job.id, state="done")
    assert store.submit("training", "3")[0].id != job.id


def test_server_and_worker_may_make_the_file_at_the_same_moment(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda _: JobStore(tmp_path / "new.sqlite"), range(8)))) == 8


def test_requests_at_the_same_moment_make_one_job(store):
    with ThreadPoolExecutor(8) as pool:
        submitted = list(pool.map(lambda _: store.submit("training", "3"), range(16)))
    assert len({job.id for job, _ in submitted}) == 1
    assert sum(new for _, new in submitted) == 1


def test_a_job_is_claimed_once(store):
    job, _ = store.submit("training", "3")
    assert store.claim(job.id, "host/1:1")
    assert not store.claim(job.id, "host/2:2")


def test_a_job_that_moved_on_is_not_released(store):
    job, _ = store.submit("training", "3")
    store.claim(job.id, "host/1:1")
    seen = store.get(job.id)
    store.update(job.id, worker="host/2:2")
    assert not store.release(seen, "queued", "died", restarts=1)
    assert store.get(job.id).state == "fetching"


def test_records_survive_being_closed(store, tmp_path):
    job, _ = store.submit("training", "3")
    store.update(job.id, metrics={"new": {"mean_iou": 0.5}}, version="p3-r001")
    again = JobStore(tmp_path / "jobs.sqlite").get(job.id)
    assert (again.metrics, again.version) == ({"new": {"mean_iou": 0.5}}, "p3-r001")


def test_jobs_are_listed_newest_first_and_by_project(store):
    ids = [store.submit("training", project)[0].id for project in "123"]
    assert [job.id for job in store.find()] == ids[::-1]
    assert [job.id for job in store.find(project="2")] == [ids[1]]
    assert store.find(states=("done",)) == []


def test_the_log_keeps_its_last_lines(store, monkeypatch):
    monkeypatch.setattr(store_module, "LOG_LINES", 30)
    job, _ = store.submit("training", "3")
    for number in range(105):
        store.log(job.id, f"line {number}")
    assert [line.split(" ", 1)[1] for line in store.log_tail(job.id, 2)] == ["line 103", "line 104"]
    assert len(store.log_tail(job.id, 1000)) == 35  # shortened at every hundredth line


def test_an_unknown_job_is_an_error_that_says_where_to_look(store):
    with pytest.raises(JobError, match="/api/jobs"):
        store.get("x")


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(JobError, match="check the disk"):
        JobStore(tmp_path / "folder")


def test_the_queue_holds_a_waiting_job_once_and_as_json(store, tmp_path):
    jobs = JobQueue(store, sqlite_queue(tmp_path / "queue.sqlite"))
    job, joined = jobs.submit("3")
    assert not joined
    jobs.submit("3")
    assert [task.args for task in jobs.huey.pending()] == [[job.id]]
    assert b'"' + job.id.encode() + b'"' in jobs.huey.storage.enqueued_items()[0]


def test_a_job_that_the_queue_lost_is_sent_again_by_the_next_request(store, tmp_path):
    jobs = JobQueue(store, sqlite_queue(tmp_path / "queue.sqlite"))
    job, _ = store.submit("training", "3")  # and then the server was killed
    jobs.submit("3")
    assert [task.args for task in jobs.huey.pending()] == [[job.id]]
