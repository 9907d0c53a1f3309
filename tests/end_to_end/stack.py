"""What the tests of this folder run against, and how they start it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from backend.demo.processes import Server
from backend.demo.servers import Login
from backend.label_studio.client import LabelStudio
from backend.system.ports import port_is_free
from tests.end_to_end.frames import Frame

ROOT = Path(__file__).parent.parent.parent
LABEL_STUDIO = ROOT / ".venv-label-studio" / "bin" / "label-studio"
PREMASK = Path(sys.executable).parent / "premask"
# Small trainings, small machines; and no proxy for addresses of this machine.
ENVIRON = {**os.environ, "PREMASK_TRAIN_MINUTES": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


@dataclass(frozen=True)
class Stack:
    """Both servers at work."""

    label_studio: Server
    backend: Server
    client: LabelStudio
    login: Login
    folder: Path


@dataclass(frozen=True)
class Project:
    """A project with the frames of `frames.py`, connected by `premask connect`, its predictions retrieved.

    Attributes:
        id: in Label Studio.
        frames: by task.
        backend: Label Studio's id of the backend.
        version: the model version that drew the first masks.
    """

    id: int
    frames: dict[int, Frame]
    backend: int
    version: str


def premask(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line, with more variables in its environment; its output is shown if it fails."""
    command = [str(part) for part in (PREMASK, *arguments)]
    done = subprocess.run(command, env=ENVIRON | environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


def free_port(first: int) -> int:
    """A free port from `first` on."""
    return next(port for port in range(first, first + 100) if port_is_free(port))
