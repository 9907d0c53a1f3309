"""Messages to a webhook: few tries, no wait for the job, and only to addresses that may be connected to."""

import threading
import time
from collections.abc import Iterator

import pytest
from flask import Flask, request

from backend.database.jobs import Job, JobStore
from backend.jobs.running import Runner
from backend.notify.webhook import MAX_WAITING, Webhook, job_text
from tests.backend.fake_label_studio import serving
from tests.backend.fakes import eventually


class Channel:
    """Takes messages, and answers with the statuses it was given, then with 200."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.statuses: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.url = ""

    def app(self) -> Flask:
        app = Flask("channel")

        @app.post("/hook/s3cret")
        def hook():
            assert self.gate.wait(20)
            self.texts.append(request.get_json()["text"])
            status = self.statuses.pop(0) if self.statuses else 200
            return "ok", status, {"Location": "http://169.254.169.254/"} if status == 302 else {}

        return app


@pytest.fixture
def channel() -> Iterator[Channel]:
    found = Channel()
    with serving(found.app()) as url:
        found.url = f"{url}/hook/s3cret"
        yield found


def send(url, *texts, pauses=None):
    webhook = Webhook(url, pause=(pauses if pauses is not None else []).append)
    for text in texts:
        webhook.send(text)
    webhook.close(20)


def test_a_message_is_sent_in_slacks_form(channel):
    send(channel.url, "hello")
    assert channel.texts == ["hello"]


def test_it_is_tried_again_while_the_other_side_is_away(channel):
    channel.statuses[:] = [503, 429]
    pauses: list[float] = []
    send(channel.url, "hello", pauses=pauses)
    assert channel.texts == ["hello"] * 3
    assert pauses == [2.0, 10.0]


@pytest.mark.parametrize("status", [400, 404, 302])
def test_a_refusal_and_a_redirect_end_it_and_no_log_shows_the_address(channel, caplog, status):
    channel.statuses[:] = [status]
    send(channel.url, "hello")
    assert channel.texts == ["hello"]
    assert f"HTTP {status}" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("url", ["http://169.254.169.254/hook", "http://100.100.100.200/hook", "http://[fe80::1]/hook"])
def test_addresses_of_machines_that_nobody_runs_are_refused(url, caplog):
    send(url, "hello")
    assert "may not be connected to" in caplog.text


def test_sending_never_waits_and_a_full_queue_drops(channel, caplog):
    channel.gate.clear()
    webhook = Webhook(channel.url)
    for number in range(MAX_WAITING + 5):
        webhook.send(str(number))
    assert "was dropped" in caplog.text
    channel.gate.set()
    webhook.close(20)
    assert channel.texts[:2] == ["0", "1"]


def test_the_runner_tells_of_jobs_that_end_or_fail_and_of_no_other(store: JobStore, leases, tmp_path):
    told = []

    class Work:
        def do(self, attempt):
            if attempt.job.project == "2":
                raise OSError(28, "No space left on device")
            return "r001 stays a candidate"

    runner = Runner(store, leases, {"training": Work()}, tmp_path, lambda job: told.append((job.project, job.state)))
    for project in ("1", "2"):
        job, _ = store.submit("training", project)
        runner.run(job.id, "host/1:1")
    cancelled, _ = store.submit("training", "3")
    store.cancel(cancelled.id)
    runner.run(cancelled.id, "host/1:1")
    assert told == [("1", "done"), ("2", "failed")]


def test_a_message_names_project_result_and_page(store: JobStore):
    job, _ = store.submit("prediction", "3")
    assert job_text(job, "Leaves", None).startswith("Pre-annotation for Leaves is done")


def test_the_worker_tells_the_configured_webhook(channel, tmp_path):
    from backend.settings import Settings
    from backend.wiring import assemble, notifier

    environ = {"PREMASK_DATA_DIR": str(tmp_path), "PREMASK_NOTIFY_URL": channel.url}
    settings = Settings.from_environ({**environ, "PREMASK_PUBLIC_URL": "https://masks.example"})
    parts = assemble(settings)
    job, _ = parts.store.submit("training", "3")
    begun = time.monotonic()
    notifier(settings, parts)(job)
    assert time.monotonic() - begun < 20
    eventually(lambda: channel.texts)
    assert channel.texts[0].endswith("https://masks.example/dashboard/projects/3")
    assert channel.url not in repr(settings)


def test_a_class_or_a_title_calls_no_channel_and_hides_no_address():
    job = Job("1", "training", "3", "done", 0, 0, message="weak: <!channel> and @everyone & <http://a.example|Pit>")
    text = job_text(job, "<@U1>", "http://premask.example/dashboard/projects/3")
    assert not {"<", ">"} & set(text)
    assert "@everyone" not in text
    assert "everyone & " in text
    assert text.endswith(" http://premask.example/dashboard/projects/3")
