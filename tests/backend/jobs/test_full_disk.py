"""A disk that is full, for real: the data folder is a file system of some megabytes."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backend.diagnosis.checks import data_folder
from backend.jobs.running import Runner
from backend.jobs.training import Plan, TrainingWork
from tests.backend.fakes import predict_body, publish, setup_body, start_training


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where all of a test's files are."""
    folder = tmp_path_factory.mktemp("small")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def fill(tmp_path: Path) -> Callable[[], Path]:
    """Fills the disk to the last byte; gives the file that does."""

    def work() -> Path:
        filler = tmp_path / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert shutil.disk_usage(tmp_path).free == 0
        return filler

    return work


def test_a_full_disk_stops_no_annotator_is_told_of_and_loses_nothing(make_client, fill, registry, tmp_path, caplog):
    client = make_client(ready=lambda: [data_folder(tmp_path)])
    first, second = publish(registry, tmp_path / "a"), publish(registry, tmp_path / "b")
    registry.promote("3", first)
    job = client.post("/webhook", json=start_training(project=4)).json["job"]
    filler = fill()

    assert client.get("/health").status_code == 200
    assert client.post("/setup", json=setup_body(token="new")).json == {"model_version": first}
    assert re.search("its token cannot be kept: .*(No space left on device|disk is full)", caplog.text)
    assert client.post("/predict", json=predict_body(["1"])).json["results"][0]["model_version"] == first
    assert client.get("/metrics").status_code == 200
    for path, body in (
        ("/train", {"project": 3}),
        ("/api/versions/promote", {"project": 3, "version": second}),
        ("/api/versions/rollback", {"project": 3}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 503, path
        assert "disk" in answer.json["error"] or "make room" in answer.json["error"]
    unready = client.get("/ready")
    assert (unready.status_code, "make room" in unready.json["checks"][0]["remedy"]) == (503, True)

    filler.unlink()
    assert registry.current("3").version == first
    assert client.get(f"/job_status?job={job}").json["job_status"] == "queued"
    assert client.post("/train", json={"project": 3}).status_code == 201
    assert client.post("/api/versions/promote", json={"project": 3, "version": second}).json["current"] == second


def test_a_training_that_fills_the_disk_fails_with_the_reason_makes_room_and_leaves_what_is_served(
    store, leases, registry, starter, connections, project, label_studio, fill, tmp_path
):
    served = registry.promote(project, publish(registry, tmp_path / "a", project=project)).version
    trainer = TrainingWork(
        registry=registry,
        starter=starter,
        client=connections.client,
        images=connections.images,
        plan=Plan(),
        command=["false"],
    )
    job, _ = store.submit("training", project)
    filler = fill()
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - (512 << 10))  # room for records, not for images
    noise = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)).save(noise, "PNG")
    label_studio.files.update(dict.fromkeys(label_studio.files, noise.getvalue()))
    Runner(store, leases, {"training": trainer}, tmp_path / "work").run(job.id, "host/1:1")
    after = store.get(job.id)
    assert after.state == "failed"
    assert re.search("No space left on device: .*make room|disk is full; make room", after.reason)
    assert not (tmp_path / "work" / job.id).exists()
    assert registry.current(project).version == served
    assert shutil.disk_usage(tmp_path).free > 256 << 10
