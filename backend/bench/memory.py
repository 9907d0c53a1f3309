"""`premask bench memory`: what a server takes with one model, and with each project that has its own version."""

import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from backend.bench.measure import Case, Times
from backend.bench.server import BenchServer
from backend.bench.setting import Setting
from backend.database.opening import open_database
from backend.errors import BenchError
from backend.jobs.training import preparing
from backend.settings import Settings
from backend.versions.opening import open_registry
from backend.versions.serving import QUIET_SECONDS
from models.checkpoint import read_card, write_card

PROJECTS = 3  # with a version of their own, beside the starter: no more models are kept in memory
ONE, FURTHER = 1e9, 150e6  # bytes that the first model's server and each further version may take


def memory(setting: Setting) -> Case:
    """Memory of the process that answers, some time after predictions: all of it, and what is in no file.

    What lies in files, libraries and compiled networks, is shared with other processes and given up where memory is
    short.
    """
    server = BenchServer(setting.model, setting.pipeline.classes, setting.frames, setting.environ, alone=True)
    resident: list[float] = []
    own: list[float] = []
    with server.running():
        for count in range(PROJECTS + 1):
            project = None if count == 0 else _publish(server.settings, setting.model, str(count + 1))
            server.predict(len(setting.frames), project)
            server.settle(count + 1)
            server.predict(len(setting.frames), project)
            time.sleep(2 * QUIET_SECONDS)  # until what predicting took is given back
            for values, value in zip((resident, own), _memory(server.process.process.pid), strict=True):
                values.append(float(value))
            setting.tick()
    sides = {f"versions: {count}": Times([value]) for count, value in enumerate(resident)}
    sides |= {f"versions: {count}, in no file": Times([value]) for count, value in enumerate(own)}
    sides["each version, in no file"] = Times([(own[-1] - own[0]) / PROJECTS])
    about = f"a server with {setting.model.name} and versions of projects, at rest"
    return Case(about, sides, {"versions: 0": ONE, "each version, in no file": FURTHER}, unit="MB")


def _publish(settings: Settings, model: Path, project: str) -> str:
    """Give a project, which is returned, a version of its own with the weights of the model, as a worker does."""
    database, _ = open_database(settings)
    registry = open_registry(settings, database)
    with tempfile.TemporaryDirectory() as folder:
        version = Path(folder) / "version"
        shutil.copytree(model, version, ignore=shutil.ignore_patterns("runtime"))
        name = registry.reserve(project)
        write_card(version, replace(read_card(version), name=name))
        published = registry.publish(project, version)
    if command := preparing(settings, settings.device):
        subprocess.run(command(published.directory), check=True, stdout=subprocess.DEVNULL)
    registry.promote(project, name)
    return project


def _memory(pid: int) -> tuple[int, int]:
    """Bytes in memory of the largest process of a server, and of these what is in no file.

    Raises:
        BenchError: this system does not say.
    """
    try:
        found = [_rollup(one) for one in _family(pid)]
        return max(found)
    except OSError as error:
        raise BenchError(f"memory is measured on Linux alone: {error}") from error


def _family(pid: int) -> list[int]:
    """A process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def _rollup(pid: int) -> tuple[int, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    known = {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}
    return known["Rss"], known["Anonymous"]
