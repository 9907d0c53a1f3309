"""Two workers, each with processes of its own, do the same prediction jobs; one is killed in the middle."""

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from backend.database.engine import Database
from backend.database.jobs import FINISHED, JobStore
from backend.database.leases import Leases
from backend.jobs.prediction_run import CHUNK
from backend.jobs.queue import JobQueue, sqlite_queues
from tests.backend.conftest import close_queues
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import CONFIG, eventually
from tests.backend.faults import stack
from tests.backend.jobs.conftest import png

ROOT = Path(__file__).parents[3]
LARGE, SMALL = 256, 3
SECONDS = 600.0  # on a machine that is busy with other things


@pytest.fixture
def jobs(tmp_path):
    database = Database.sqlite(tmp_path / "premask.sqlite")
    queues = sqlite_queues(tmp_path / "queue.sqlite")
    yield JobQueue(JobStore(database), Leases(database), queues)
    close_queues(queues)
    database.close()


@pytest.fixture
def start(tmp_path, starter, label_studio):
    """Starts workers that share a data folder."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environ = kept | {
        "PREMASK_DATA_DIR": str(tmp_path),
        "PREMASK_STARTER": str(starter),
        "LABEL_STUDIO_URL": label_studio.url,
        "LABEL_STUDIO_API_KEY": label_studio.legacy_token,
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.backend.faults.stack", "worker"]
    started = []

    def start(dies=None):
        """One that dies leaves the number of tasks that it struck off in a file."""
        told = {} if dies is None else {stack.DIES: str(dies)}
        started.append(subprocess.Popen(command, env=environ | told, cwd=ROOT))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait(60)


@pytest.fixture
def label_studio():
    with FakeLabelStudio() as server:
        yield server


def project_of(label_studio, count):
    project = label_studio.add_project(CONFIG)
    for number in range(count):
        label_studio.add_upload(project, f"{project}-{number}.png", png())
    return str(project)


@pytest.mark.timeout(1200)
def test_a_worker_that_is_killed_after_it_struck_tasks_off_has_counted_them(label_studio, jobs, start, tmp_path):
    """It and its process are killed in the moment before they would tell of a chunk that is stored."""
    project = project_of(label_studio, 2 * CHUNK)
    job, _ = jobs.predict(project, "all")
    dying = start(tmp_path / "struck-off")
    assert dying.wait(SECONDS) == -signal.SIGKILL
    assert (tmp_path / "struck-off").read_text() == str(CHUNK)
    assert jobs.leases.remaining(project, "other")[0] == CHUNK
    start()
    ended = eventually(lambda: (now := jobs.store.get(job.id)).state in FINISHED and now, SECONDS)
    assert (ended.state, ended.message) == ("done", f"{2 * CHUNK} predicted")
    assert Counter(one["task"] for one in label_studio.predictions.values()) == dict.fromkeys(label_studio.tasks, 1)


@pytest.mark.timeout(1200)
def test_two_workers_share_a_job_one_is_killed_and_nothing_is_lost_or_stored_twice(label_studio, jobs, start):
    """Meanwhile a small project is asked for, and does not wait for the end of the large one."""
    large, small = project_of(label_studio, LARGE), project_of(label_studio, SMALL)
    workers = [start(), start()]
    job, _ = jobs.predict(large, "all")
    eventually(lambda: len(jobs.shares.working(job.id)) == 2 and len(label_studio.predictions) >= 64, SECONDS)
    killed = next(one for one in workers if any(f"/{one.pid}:" in s.worker for s in jobs.shares.working(job.id)))
    killed.send_signal(signal.SIGKILL)
    second, _ = jobs.predict(small, "all")
    ended = eventually(lambda: (now := jobs.store.get(second.id)).state in FINISHED and now, SECONDS)
    assert (ended.state, ended.message) == ("done", f"{SMALL} predicted")
    assert jobs.store.get(job.id).state not in FINISHED
    ended = eventually(lambda: (now := jobs.store.get(job.id)).state in FINISHED and now, SECONDS)
    assert ended.state == "done", (ended, jobs.store.log_tail(job.id))
    # What the killed one had sent and not looked up yet is found there by the other.
    assert ended.report["predicted"] + ended.report["present"] == LARGE
    assert Counter(one["task"] for one in label_studio.predictions.values()) == dict.fromkeys(label_studio.tasks, 1)
    assert sum("predicted" in line for line in jobs.store.log_tail(job.id, 2000) if "predicting" not in line) == 1
