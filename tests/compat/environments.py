"""Label Studio in several versions, each in an environment of its own below .cache/compat: made once, then kept."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from backend.demo import servers
from backend.demo.processes import Server, stop_all
from tests.end_to_end.stack import ENVIRON, ROOT, free_port

# What a team may run, from the oldest that still installs to the one that `make run` starts.
VERSIONS = ("1.13.1", "1.16.0", "1.20.0", "1.22.0", "1.23.2")
PYTHON = "3.11"  # the newest that all of them run on
# Old releases import pkg_resources without asking for a setuptools that still has it.
SETUPTOOLS = "setuptools<81"
CACHE = ROOT / ".cache" / "compat"
# uv takes the settings of the project that it is run in, and ours drop what label-studio-sdk requires.
OUTSIDE = CACHE.anchor
LEGACY_TOKENS = "--enable-legacy-api-token"  # releases that have no other kind do not know it
START_SECONDS = 1800.0


def install(version: str) -> Path:
    """The `label-studio` program of a version.

    Raises:
        subprocess.CalledProcessError: it cannot be installed; uv has said why.
    """
    folder = CACHE / version / f"env-{PYTHON}"
    program, complete = folder / "bin" / "label-studio", folder / ".complete"
    if not complete.exists():
        uv = str(Path(sys.executable).parent / "uv")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([uv, "venv", "--quiet", "--python", PYTHON, str(folder)], check=True)
        into = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
        subprocess.run([*into, f"label-studio=={version}"], check=True, cwd=OUTSIDE)
        subprocess.run([*into, SETUPTOOLS], check=True, cwd=OUTSIDE)
        complete.touch()
    return program


def server(program: Path, folder: Path) -> Server:
    """How a version is started on data in `folder`: as `make run` does."""
    made = servers.label_studio(folder, free_port(8700), program, ENVIRON)
    known = subprocess.run([program, "start", "--help"], capture_output=True, text=True, timeout=300).stdout
    if LEGACY_TOKENS in known:
        return made
    return replace(made, command=[part for part in made.command if part != LEGACY_TOKENS])


def data(version: str, program: Path, tell: Callable[[str], None]) -> Path:
    """A data folder whose database is set up: that takes a minute or more, so it is kept."""
    folder = CACHE / version / "data"
    if not folder.exists():
        tell("sets up its database")
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        running = server(program, unfinished).start()
        try:
            running.wait(START_SECONDS)
            servers.keep(unfinished)
        finally:
            stop_all([running])
        unfinished.rename(folder)
    return folder
