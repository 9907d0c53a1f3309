"""What frames and versions cost besides time, for docs/scaling.md.

.venv/bin/python -m pytest -rP tests/backend/jobs/test_costs.py
"""

import os
from collections import Counter

import pytest
import s3fs

from backend.database.engine import Database
from backend.database.leases import ALL, Leases
from backend.database.shares import Shares
from backend.jobs.prediction_run import CHUNK, PredictionRun
from backend.label_studio.client import LabelStudio
from backend.versions.store import Store
from models.starter import STARTERS
from tests.backend.fakes import CONFIG

TASKS = 200_000


def test_bytes_of_a_requested_task_in_the_database(tmp_path):
    database = Database.sqlite(path := tmp_path / "premask.sqlite")
    empty = path.stat().st_size
    Leases(database).request("3", map(str, range(10**6, 10**6 + TASKS)))
    database.close()
    each = (path.stat().st_size - empty) / TASKS
    print(f"{each:.0f} bytes a requested task, {each * 10**6 / 1e6:.0f} MB for 1,000,000: a row each")
    assert each < 200


def test_requests_to_label_studio_for_a_chunk(label_studio, predictor, serving, records, leases):
    """A chunk is read, looked at again before its import, imported, and looked up."""

    def asked(chunks: int) -> Counter[str]:
        project = label_studio.add_project(CONFIG)
        for _ in range(chunks * CHUNK):
            label_studio.add_task(project, {"image": "30"})
        leases.request(str(project), [ALL])
        before = len(label_studio.requests)
        PredictionRun(
            str(project),
            f"job {chunks}",
            LabelStudio(label_studio.url, label_studio.legacy_token),
            predictor,
            lambda classes: serving.served_version(str(project), classes),
            Shares(records, leases),
            lambda message: None,
        ).run()
        paths = [path for _, path, _ in label_studio.requests[before:] if path.startswith("/api/")]
        return Counter(path.partition("?")[0].replace(str(project), "PROJECT") for path in paths)

    few, many = asked(1), asked(3)
    each = {path: (many[path] - few[path]) / 2 for path in many}
    print(f"{sum(each.values()):.0f} requests a chunk of {CHUNK} tasks: {each}")
    assert sum(each.values()) <= 6


@pytest.mark.parametrize("model", ["light", "xception"])
def test_requests_to_s3_for_a_version(s3_server, tmp_path, monkeypatch, model):
    """Once a machine; from then on its copy is looked at. A promotion asks for nothing: it is a row."""
    asked: Counter[str] = Counter()
    real = s3fs.S3FileSystem._call_s3

    async def counting(self, method, *arguments, **options):
        asked[method] += 1
        return await real(self, method, *arguments, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counting)
    url = s3_server.bucket(f"b{os.urandom(6).hex()}")
    store = Store(url, tmp_path / "here", endpoint=s3_server.endpoint)
    asked.clear()
    files = store.put(STARTERS[model], "project-3/p3-r001.0123456789ab")
    put = dict(asked)
    elsewhere = Store(url, tmp_path / "elsewhere", endpoint=s3_server.endpoint)
    asked.clear()
    elsewhere.fetch("project-3/p3-r001.0123456789ab", files)
    fetched = dict(asked)
    asked.clear()
    elsewhere.fetch("project-3/p3-r001.0123456789ab", files)
    size = sum(file.size for file in files.values()) / 1e6
    print(f"{model}: {len(files)} files, {size:.0f} MB; {put} to put it, {fetched} for a machine to fetch it once")
    assert sum(fetched.values()) <= 2 * len(files) + 2
    assert not asked
