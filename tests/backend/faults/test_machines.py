"""Two machines: what they share is PostgreSQL and a bucket; each has folders of its own."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from backend.database.engine import Database
from backend.database.jobs import FINISHED, Job, JobStore
from backend.database.leases import Leases
from backend.jobs.queue import JobQueue, postgresql_queues
from backend.versions.opening import bind
from backend.versions.registry import Registry
from backend.versions.store import Store
from models.checkpoint import read_card
from tests.backend.conftest import close_queues
from tests.backend.fake_label_studio import FakeLabelStudio
from tests.backend.fakes import eventually
from tests.backend.jobs.conftest import POLYGONS, TRIANGLE, png
from tests.backend.s3 import KEYS

ROOT = Path(__file__).parents[3]


@pytest.mark.timeout(900)
def test_a_worker_elsewhere_does_the_jobs_of_the_server_here(postgresql_url, s3_server, starter, tmp_path):
    records = Database.postgresql(postgresql_url)
    jobs = JobQueue(JobStore(records), Leases(records), queues := postgresql_queues(records))
    url = s3_server.bucket(f"b{os.urandom(6).hex()}")
    store = Store(url, tmp_path / "cache", endpoint=s3_server.endpoint)
    bind(records, store, FileLock(tmp_path / "lock"))
    registry = Registry(records, store)
    with FakeLabelStudio() as label_studio:
        project = str(label_studio.add_project(POLYGONS))
        for number in range(5):
            label_studio.add_annotation(label_studio.add_upload(int(project), f"{number}.png", png()), [TRIANGLE])
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environ = kept | {
            **KEYS,
            "PREMASK_DATA_DIR": str(tmp_path / "elsewhere"),
            "PREMASK_DATABASE_URL": postgresql_url,
            "PREMASK_MODELS_URL": url,
            "PREMASK_MODELS_ENDPOINT": s3_server.endpoint,
            "PREMASK_STARTER": str(starter),
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.legacy_token,
            "OMP_NUM_THREADS": "1",
        }
        worker = [sys.executable, "-m", "tests.backend.faults.stack", "worker"]

        def finished(job_id: str) -> bool:
            return jobs.store.get(job_id).state in FINISHED

        with subprocess.Popen(worker, env=environ, cwd=ROOT) as process:
            try:
                training, _ = jobs.submit(project)
                prediction, _ = jobs.predict(project, "all")
                for job in (training, prediction):
                    eventually(partial(finished, job.id), 600)
                    done = jobs.store.get(job.id)
                    assert done.state == "done", (done, jobs.store.log_tail(job.id))
            finally:
                process.terminate()
        current = registry.current(project)
        assert current.version == read_card(current.directory).name == jobs.store.get(training.id).version
        assert len({one["task"] for one in label_studio.predictions.values()}) == 5
        assert len(label_studio.predictions) == 5
    close_queues(queues)
    records.close()


def finished(store: JobStore, job: str) -> Job | None:
    """The job, once it is."""
    now = store.get(job)
    return now if now.state in FINISHED else None
