"""Two processes with folders of their own that share PostgreSQL and S3; one is killed at its worst moments."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.settings import Settings
from backend.versions.serving import Serving
from backend.wiring import Parts, assemble
from tests.backend.fakes import Loader, eventually, publish, write_checkpoint
from tests.backend.s3 import KEYS

ROOT = Path(__file__).parents[3]
CLASSES = ("Lumen", "Fibrous cap")
# Another machine: publishes a checkpoint and promotes it, and stops at a moment until it is killed.
ELSEWHERE = """
import os, sys, time
from pathlib import Path
from backend.settings import Settings
from backend.versions.store import Store
from backend.wiring import assemble

moment, checkpoint = sys.argv[1:]
registry = assemble(Settings.from_environ(os.environ)).registry

def stop(*arguments):
    print("reached", flush=True)
    time.sleep(600)

if moment == "upload":
    real = Store.put
    def half(self, folder, place):
        self.note(f"{place}/card.json", (Path(folder) / "card.json").read_text())
        stop()
    Store.put = half
name = Path(checkpoint).name
registry.publish("3", Path(checkpoint), stop if moment == "transaction" else lambda _: None)
registry.promote("3", name, stop if moment == "promotion" else lambda _: None)
print("done", time.time(), flush=True)
"""


@pytest.fixture
def machine(postgresql_url, s3_server, tmp_path) -> Callable[[str], dict[str, str]]:
    """The environment of a machine with a data folder of its own."""
    url = s3_server.bucket(f"b{os.urandom(6).hex()}")

    def environ(name: str) -> dict[str, str]:
        return KEYS | {
            "PATH": os.environ["PATH"],
            "PREMASK_DATA_DIR": str(tmp_path / name),
            "PREMASK_DATABASE_URL": postgresql_url,
            "PREMASK_MODELS_URL": url,
            "PREMASK_MODELS_ENDPOINT": s3_server.endpoint,
        }

    return environ


@pytest.fixture
def here(machine) -> Iterator[Parts]:
    parts = assemble(Settings.from_environ(machine("here")))
    yield parts
    for queue in parts.queues.values():
        queue.storage.close()
    parts.database.close()


def elsewhere(environ: dict[str, str], moment: str, checkpoint: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ELSEWHERE, moment, str(checkpoint)]
    return subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.timeout(600)
def test_a_promotion_elsewhere_is_served_here_from_a_copy(here, machine, starter, inference, tmp_path):
    loader = Loader()
    serving = Serving(here.registry, starter, loader, inference)
    stop = serving.watch()
    assert serving.resolve("3", CLASSES).model().version == "oct-lite0"
    name = here.registry.reserve("3", "tf_efficientnet_lite0")
    with elsewhere(machine("elsewhere"), "none", write_checkpoint(tmp_path / name, name)) as process:
        said, at = process.stdout.readline().split()
        eventually(lambda: serving.active("3") == [name], 60)
        seen = time.time() - float(at)
    stop()
    assert said == "done"
    print(f"loaded and served {seen:.2f} s after it was promoted")  # the row is looked at once a second
    assert here.registry.current("3").directory.is_relative_to(tmp_path / "here")
    assert not (tmp_path / "here" / "models").exists()
    assert not (tmp_path / "elsewhere" / "models").exists()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["upload", "transaction", "promotion"])
def test_a_publisher_that_is_killed_leaves_what_was_served_and_can_begin_again(here, machine, tmp_path, moment):
    before = here.registry.promote("3", publish(here.registry, tmp_path / "made")).version
    name = here.registry.reserve("3", "tf_efficientnet_lite0")
    checkpoint = write_checkpoint(tmp_path / name, name)
    with elsewhere(machine("elsewhere"), moment, checkpoint) as process:
        assert process.stdout.readline() == "reached\n"
        assert here.registry.current("3").version == before
        process.kill()
    assert here.registry.served() == {"3": before}
    assert here.registry.names("3") == ([before, name] if moment == "promotion" else [before])
    assert all(info.directory.exists() for info in here.registry.versions("3"))
    if moment != "promotion":
        eventually(lambda: here.registry.publish("3", checkpoint), 60)
    assert here.registry.promote("3", name).read("classifier.safetensors") == b"weights of " + name.encode()
    half = set(here.registry.store.places("3")) - {info.place for info in here.registry.versions("3")}
    assert len(half) == (moment != "promotion")  # collected some hours later


@pytest.mark.timeout(600)
def test_a_machine_with_a_folder_where_the_others_have_a_bucket_does_not_start(here, machine, tmp_path):
    environ = machine("elsewhere")
    del environ["PREMASK_MODELS_URL"], environ["PREMASK_MODELS_ENDPOINT"]
    script = "import os; from backend.settings import Settings; from backend.wiring import assemble; "
    script += "assemble(Settings.from_environ(os.environ))"
    ended = subprocess.run([sys.executable, "-c", script], env=environ, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "cannot start: the store of versions" in ended.stderr
    assert "name the same PREMASK_MODELS_URL" in ended.stderr
