"""`python -m models.prepare FOLDER`: have a checkpoint's networks converted for this machine; see `models.runtime`.

Done when a version is published, and beside a server that meets one for which it was not, so that no request waits for
it. The last line of standard output is an object with `stage`: "done", with what computes the networks, or "failed".
"""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from models.errors import ModelError
from models.families import Accelerated, Runtime, load_model
from models.runtime import RuntimeChoice
from models.threads import limit_threads

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "models.prepare")
RUNTIMES: dict[str, Runtime] = {"auto": "auto", "openvino": "openvino", "pytorch": "pytorch"}
NICENESS = 10  # images are predicted meanwhile


def command(folder: Path, runtime: Runtime, threads: int | None = None, kept: Path | None = None) -> list[str]:
    """The command for a checkpoint.

    Args:
        folder: the checkpoint.
        runtime: that the server is told to use.
        threads: cores that its forward passes may use; None leaves the choice to torch.
        kept: folder for what is made; one in the checkpoint if None.
    """
    options = {"--threads": threads, "--kept": kept}
    given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    return [*COMMAND, str(folder), "--runtime", runtime, *given]


def prepare_apart(choice: RuntimeChoice, threads: int) -> None:
    """Run it for a checkpoint, at low priority and in a process of its own: converting takes memory for good.

    What it prints is kept from the server's own log, whose lines may have to be JSON. A failure is told in a line of
    that: whoever loads the checkpoint next meets it again.
    """
    arguments = command(choice.directory, choice.wanted, threads, choice.kept)
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(arguments, stdin=quiet, stdout=pipe, stderr=pipe, text=True, errors="replace") as process:
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        printed, said = process.communicate()
    if process.returncode:
        last = "".join((printed.strip() or said.strip()).splitlines()[-1:])
        why = last if process.returncode > 0 else f"it was ended by {signal.Signals(-process.returncode).name}"
        logger.warning("converting the networks of %s failed: %s", choice.directory, why)


def main(argv: Sequence[str]) -> int:
    """Convert what is not converted yet; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kept", type=Path)
    arguments = parser.parse_args(argv)
    limit_threads(arguments.threads)
    try:
        model = load_model(arguments.folder, runtime=RUNTIMES[arguments.runtime], kept=arguments.kept)
    except ModelError as error:
        print(json.dumps({"stage": "failed", "reason": str(error)}), flush=True)
        return 1
    runtime = model.runtime if isinstance(model, Accelerated) else "PyTorch"
    print(json.dumps({"stage": "done", "message": f"computed by {runtime}"}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
