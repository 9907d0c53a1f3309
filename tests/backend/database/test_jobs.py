import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend.database.jobs import JobStore
from backend.errors import JobConflict, JobError
from backend.jobs.queue import JobQueue
from tests.backend.conftest import BOTH_STORAGES
from tests.backend.jobs.edit import edit_job

pytestmark = BOTH_STORAGES


def test_a_second_request_joins_the_waiting_or_running_job(store):
    job, new = store.submit("training", "3")
    assert new
    assert store.submit("training", "3") == (job, False)
    store.claim(job.id, "host/1:1")
    assert store.submit("training", "3")[0].id == job.id
    edit_job(store, job.id, state="done")
    assert store.submit("training", "3")[0].id != job.id


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
    edit_job(store, job.id, worker="host/2:2")
    assert not store.release(seen, "queued", "died", restarts=1)
    assert store.get(job.id).state == "fetching"


def test_records_can_be_read_by_another_process(store, records):
    job, _ = store.submit("training", "3")
    edit_job(store, job.id, metrics={"new": {"mean_iou": 0.5}}, version="p3-r001")
    again = JobStore(records).get(job.id)
    assert (again.metrics, again.version) == ({"new": {"mean_iou": 0.5}}, "p3-r001")


def test_jobs_are_listed_newest_first_and_by_project(store):
    ids = [store.submit("training", project)[0].id for project in "123"]
    assert [job.id for job in store.find()] == ids[::-1]
    assert [job.id for job in store.find(project="2")] == [ids[1]]
    assert [job.id for job in store.find(limit=2)] == ids[:0:-1]
    assert store.find(states=("done",)) == []
    assert store.find(kind="prediction") == []


def test_the_log_keeps_its_last_lines(records):
    store = JobStore(records, log_lines=30)
    job, _ = store.submit("training", "3")
    for number in range(105):
        store.log(job.id, f"line {number}")
    assert [line.split(" ", 1)[1] for line in store.log_tail(job.id, 2)] == ["line 103", "line 104"]
    assert 30 <= len(store.log_tail(job.id, 1000)) < 100


def test_what_a_job_says_is_kept_within_a_size(store, records):
    job, _ = store.submit("training", "1")
    assert store.claim(job.id, "w/1:1")
    long = {"annotators": {f"user {n}": {"Lumen": {"drawn": n}} for n in range(50_000)}}
    said = {"report": long, "figures": {"x": "A" * 10**6}, "message": "B" * 10**6, "reason": "C" * 10**6}
    assert store.advance(store.get(job.id), **said)
    kept = store.get(job.id)
    assert len(kept.report["annotators"]) + kept.report["cut_off"]["annotators"] == 50_000
    assert len(json.dumps(kept.report)) < 210_000
    assert max(len(text) for text in (kept.message, kept.reason, kept.figures["x"])) < 10_100
    assert kept.message.endswith("(1000000 characters)")


def test_an_unknown_job_is_an_error_that_says_where_to_look(store):
    with pytest.raises(JobError, match="/api/jobs"):
        store.get("x")


def test_the_queue_holds_a_waiting_job_once_and_as_json(jobs):
    job, joined = jobs.submit("3")
    assert not joined
    jobs.submit("3")
    queue = jobs.queues["training"]
    assert [task.args for task in queue.pending()] == [[job.id]]
    assert b'"' + job.id.encode() + b'"' in queue.storage.enqueued_items()[0]


def test_a_job_that_the_queue_lost_is_sent_again_by_the_next_request(store, jobs):
    job, _ = store.submit("training", "3")  # and then the server was killed
    jobs.submit("3")
    assert [task.args for task in jobs.queues["training"].pending()] == [[job.id]]


def test_a_training_and_a_prediction_job_of_a_project_do_not_join(store):
    assert store.submit("training", "3")[0].id != store.submit("prediction", "3")[0].id


@pytest.mark.parametrize("state", ["queued", "fetching", "training", "evaluating", "predicting"])
def test_a_cancelled_job_is_over_and_the_next_request_starts_another(store, state):
    job, _ = store.submit("training", "3")
    if state != "queued":
        store.claim(job.id, "host/1:1")
        edit_job(store, job.id, state=state)
    assert store.cancel(job.id).state == state
    assert not store.claim(job.id, "host/1:1")
    assert not store.advance(job, state="training")
    assert store.get(job.id).state == "cancelled"
    assert store.submit("training", "3")[1]


def test_what_is_over_or_being_published_cannot_be_cancelled(store):
    job, _ = store.submit("training", "3")
    store.claim(job.id, "host/1:1")
    edit_job(store, job.id, state="publishing", version="p3-r001")
    with pytest.raises(JobConflict, match="publishing p3-r001"):
        store.cancel(job.id)
    edit_job(store, job.id, state="done")
    with pytest.raises(JobConflict, match="is done already"):
        store.cancel(job.id)


def test_the_oldest_finished_jobs_go_with_their_logs(records):
    store = JobStore(records, kept=2)
    ids = []
    for number in range(4):
        job, _ = store.submit("training", str(number))
        store.log(job.id, "hello")
        edit_job(store, job.id, state="done")
        ids.append(job.id)
    waiting, _ = store.submit("training", "9")
    assert [job.id for job in store.find()] == [waiting.id, *ids[:1:-1]]
    assert store.log_tail(ids[0]) == []
    assert len(store.log_tail(ids[3])) == 1


def test_a_full_queue_refuses_new_jobs_and_takes_them_when_there_is_room(records, leases, open_queues, make_client):
    store = JobStore(records, max_waiting=2)
    client = make_client(jobs=JobQueue(store, leases, open_queues()))
    waiting = [client.post("/train", json={"project": project}).json["job"] for project in (3, 4)]
    refused = client.post("/train", json={"project": 5})
    assert (refused.status_code, "2 jobs wait already" in refused.json["error"]) == (503, True)
    assert client.post("/train", json={"project": 3}).json["joined"] is True
    store.claim(waiting[0], "host/1:1")
    assert client.post("/train", json={"project": 5}).status_code == 201
