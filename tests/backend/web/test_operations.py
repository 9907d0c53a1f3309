"""Health, readiness, metrics and request ids."""

import gc
import logging
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from backend.diagnosis import checks
from backend.diagnosis.checks import BROKEN, DOUBTFUL, FINE, Check
from backend.errors import JobError
from backend.system.logs import REQUEST_ID, Lines
from backend.versions.serving import Serving
from tests.backend.fakes import eventually, predict_body, publish, setup_body, start_training


def samples(client) -> dict[tuple[str, ...], float]:
    """(name, label values ...) -> value of every sample at /metrics."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_count_requests_stages_answers_jobs_and_versions(client, monkeypatch):
    # Label Studio is asked to store an answer once; the second time it has had time enough and asks again.
    monkeypatch.setattr("backend.prediction.leases.STORING_SECONDS", 0.0)
    monkeypatch.setattr("backend.prediction.leases.STORING_SECONDS_EACH", 0.0)
    before = samples(client)
    client.post("/setup", json=setup_body())
    for _ in range(2):
        client.post("/predict", json=predict_body(["1", "2", "broken.png"]), buffered=True)
    client.post("/predict", data=b"{", buffered=True)
    client.get("/wp-admin.php", buffered=True)
    client.get("/wp-login.php", buffered=True)
    client.post("/webhook", json=start_training())
    after = samples(client)

    def grown(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert grown("premask_requests_total", "/predict", "200") == 2
    assert grown("premask_requests_total", "/predict", "400") == 1
    assert grown("premask_requests_total", "unknown", "404") == 2
    assert grown("premask_request_seconds_count", "/predict") == 3
    assert grown("premask_stage_seconds_count", "predict") == 1
    assert grown("premask_stage_seconds_count", "encode") == 2
    assert (grown("premask_answers_total", "miss"), grown("premask_answers_total", "hit")) == (4, 2)
    assert after["premask_model_info", "3", "oct-lite0"] == 1
    assert after["premask_queue_depth",] == 1
    assert after["premask_jobs", "training", "queued"] == 1
    assert after["premask_tasks_waiting",] == 0
    assert after["process_resident_memory_bytes",] > 1e6
    assert ("premask_build_info", "0.1.0") in after


def test_metrics_tell_how_many_jobs_and_tasks_wait_for_workers(client, jobs):
    jobs.leases.request("3", ["1", "2"])
    jobs.submit("3", "prediction")
    jobs.leases.request("4", ["1"])
    jobs.submit("4", "prediction")
    jobs.leases.acquire_due("4", "a worker", 1, 60)
    now = samples(client)
    assert (now["premask_queue_depth",], now["premask_tasks_waiting",]) == (2, 2)


@pytest.mark.parametrize(
    ("path", "request_", "why"),
    [
        ("/webhook", {"json": {"action": "START_TRAINING"}}, "400 in 0 ms: /webhook: 'project' should be"),
        ("/setup", {"data": b"\x1f\x8b", "headers": {"Content-Encoding": "gzip"}}, "400 in 0 ms: /setup: send"),
        ("/nowhere", {}, "404 in 0 ms: The requested URL was not found"),
    ],
)
def test_the_log_says_why_a_request_was_refused(client, caplog, path, request_, why):
    """Label Studio shows nobody what it was answered."""
    client.post(path, buffered=True, **request_)
    assert why in re.sub(r"in \d+ ms", "in 0 ms", caplog.text)


def test_metrics_tell_what_is_being_answered_and_what_was_refused(client, loader):
    gc.collect()  # closes what earlier tests left open
    before = samples(client)
    loader.predict_gates["oct-lite0"] = gate = threading.Event()
    held = [client.post("/predict", json=predict_body([str(n)]), buffered=False) for n in (1, 2)]
    client.post("/predict", json=predict_body(["3"]), buffered=True)
    during = samples(client)
    gate.set()
    for answer in held:
        answer.close()
    after = samples(client)
    flight, refused = ("premask_requests_in_flight", "/predict"), ("premask_requests_total", "/predict", "503")
    assert [seen.get(flight, 0) - before.get(flight, 0) for seen in (during, after)] == [2, 0]
    assert during[refused] - before.get(refused, 0) == 1


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [("GET", {}, 200), ("HEAD", {}, 200), ("GET", {"Range": "bytes=0-9"}, 206), ("GET", {"If-None-Match": "*"}, 304)],
)
def test_files_are_counted_like_every_other_answer(client, method, headers, status):
    """Also the one that is never read to its end."""
    gc.collect()
    path, route = "/dashboard/static/dashboard.css", "/dashboard/static/<path:filename>"
    flight, answered = ("premask_requests_in_flight", route), ("premask_requests_total", route, str(status))
    before = samples(client)
    for _ in range(3):
        assert client.open(path, method=method, headers=headers, buffered=True).status_code == status
    client.open(path, method=method, headers=headers, buffered=False).close()
    after = samples(client)
    assert after[flight] - before.get(flight, 0) == 0
    assert after[answered] - before.get(answered, 0) == 4


def test_an_answer_carries_the_request_id_that_came_if_it_is_sane(client):
    assert client.get("/health", headers={"X-Request-ID": "proxy-7.a_b"}).headers["X-Request-ID"] == "proxy-7.a_b"
    made = {
        client.get("/health", headers={"X-Request-ID": given}).headers["X-Request-ID"] for given in ("", "ä", "a b")
    }
    made.add(client.get("/health", headers={"X-Request-ID": "x" * 65}).headers["X-Request-ID"])
    assert len(made) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in made)


def test_lines_of_a_streamed_answer_name_its_request(client):
    """They are logged on another thread, after the view has returned."""
    seen = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((Lines().format(record), REQUEST_ID.get()))

    logger, note = logging.getLogger("backend"), Note()
    logger.addHandler(note)
    try:
        headers = {"X-Request-ID": "abc-1"}
        client.post("/predict", json=predict_body(["broken.png"]), headers=headers, buffered=True)
    finally:
        logger.removeHandler(note)
    assert any("broken.png cannot be read" in line and "[abc-1]" in line for line, _ in seen)
    assert {request for _, request in seen} == {"abc-1"}


def test_no_token_reaches_the_log_whichever_way_it_comes(make_client, caplog, serving, monkeypatch):
    client = make_client()
    token = "00112233445566778899aabbccddeeff00112233"

    def fail(*_: object) -> None:
        raise RuntimeError(f"Token {token} at http://lead:pa55word@host/?token=abcdef123")

    monkeypatch.setattr(serving, "served_version", fail)
    with caplog.at_level(logging.DEBUG):
        client.get(f"/api/jobs?token={token}", buffered=True)
        client.get(f"/{token}", buffered=True)
        client.get("/health", headers={"Authorization": f"Token {token}"}, buffered=True)
        client.post("/setup", json=setup_body(token=token), buffered=True)
    shown = "\n".join(Lines().format(record) for record in caplog.records)
    assert "RuntimeError" in shown
    for secret in (token, "pa55word", "abcdef123"):
        assert secret not in shown


def test_ready_names_what_is_broken_and_the_remedy(make_client):
    fine = Check("data folder", FINE, "there")
    assert make_client(ready=lambda: [fine]).get("/ready").json == {
        "ready": True,
        "checks": [{"name": "data folder", "state": "ok", "found": "there", "remedy": ""}],
    }
    doubtful = Check("model", DOUBTFUL, "p3-r001 cannot be loaded")
    assert make_client(ready=lambda: [fine, doubtful]).get("/ready").status_code == 200
    answer = make_client(ready=lambda: [fine, Check("queue", BROKEN, "gone", "start PostgreSQL")]).get("/ready")
    assert (answer.status_code, answer.json["checks"][1]["remedy"]) == (503, "start PostgreSQL")


def test_a_data_folder_that_takes_no_files_is_broken(tmp_path):
    assert checks.data_folder(tmp_path).state in (FINE, DOUBTFUL)
    gone = checks.data_folder(tmp_path / "gone")
    assert (gone.state, "PREMASK_DATA_DIR" in gone.remedy) == (BROKEN, True)


@pytest.mark.parametrize(("free", "state"), [(100 << 30, FINE), (1 << 30, DOUBTFUL), (100 << 20, BROKEN)])
def test_a_full_disk_is_told_before_it_hurts(tmp_path, monkeypatch, free, state):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=0, used=0, free=free))
    assert checks.data_folder(tmp_path).state == state


def test_an_expected_failure_is_a_finding_with_its_remedy():
    def look() -> str:
        raise JobError("the queue cannot be reached", "start PostgreSQL")

    assert checks.check("queue", look) == Check("queue", BROKEN, "the queue cannot be reached", "start PostgreSQL")


def test_the_model_is_loaded_or_will_be_or_cannot_be(serving, starter, registry, loader, inference, tmp_path):
    assert "oct-lite0, not in memory" in checks.model(serving, starter).found
    serving.resolve("3", ["Lumen"]).model()
    assert checks.model(serving, starter).found == "in memory: oct-lite0"
    registry.promote("4", version := publish(registry, tmp_path, "4"))
    (registry.current("4").directory / "damaged").touch()
    serving.resolve("4", ["Lumen"]).model()
    damaged = checks.model(serving, starter)
    assert (damaged.state, version in damaged.found) == (DOUBTFUL, True)
    (starter / "damaged").touch()
    alone = Serving(registry, starter, loader, inference)
    alone.resolve("3", ["Lumen"]).model()
    nothing = checks.model(alone, starter)  # it would answer nothing, and a load balancer would go on asking it
    assert (nothing.state, "in memory: none" in nothing.found) == (BROKEN, True)
    assert "none yet" in checks.model(Serving(registry, None, loader, inference), None).found


def test_the_server_is_not_ready_while_models_are_loaded_at_the_start(serving, starter, loader):
    loader.gates["oct-lite0"] = threading.Event()
    serving.warm_up([np.zeros((4, 4, 3), np.uint8)])
    warming = checks.model(serving, starter)
    assert (warming.state, "being loaded" in warming.found) == (BROKEN, True)
    loader.gates["oct-lite0"].set()
    eventually(lambda: checks.model(serving, starter) == Check("model", FINE, "in memory: oct-lite0"))


def test_the_queue_says_how_many_wait(jobs):
    jobs.submit("3")
    assert checks.queue(jobs) == "reachable, 1 jobs wait"


def test_metrics_go_on_without_jobs_while_their_records_cannot_be_read(client, store, monkeypatch, caplog):
    def away(*_, **__):
        raise JobError("records cannot be used")

    monkeypatch.setattr(store, "counts", away)
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "premask_requests_total" in answer.text
    assert "premask_queue_depth" not in answer.text
    assert "records cannot be used" in caplog.text
