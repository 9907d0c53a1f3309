"""`make compat`: the steps of `steps.py` against several Label Studio releases, and the table of docs/compatibility.md.

Results are kept below .cache/compat, so that some releases may be run now and others later; the table has all of them.
"""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backend.demo import servers
from backend.demo.processes import stop_all
from backend.errors import BackendError
from backend.label_studio.client import LabelStudio
from tests.compat.environments import CACHE, START_SECONDS, VERSIONS, data, install, server
from tests.compat.steps import STEPS, Work, walk
from tests.end_to_end.stack import ENVIRON, ROOT, Stack, free_port

# On a busy machine an answer takes longer than the default deadline; the demo's Label Studio waits 600 s.
PATIENT = {"PREMASK_DEADLINE": "500", "PREMASK_TRAIN_MINUTES": "0.5", "PREMASK_STARTER": "light"}
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- make compat writes from here -->\n", "<!-- to here -->\n"


def main(versions: list[str]) -> int:
    """Run some releases and write the table; 1 if a step failed."""
    # A run that is ended leaves no servers behind, and what it found.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for version in versions:
        found: dict[str, str] = {}
        for step, what in run(version):
            found[step] = what
            (CACHE / version / "result.json").write_text(json.dumps(found, indent=2))
    shown = table([*VERSIONS, *(version for version in versions if version not in VERSIONS)])
    print(shown)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    if set(versions) <= set(VERSIONS):
        PAGE.write_text(before + BEGIN + "\n" + shown + "\n" + END + rest.partition(END)[2])
    return 0 if all(found.startswith("yes") for version in versions for found in result(version).values()) else 1


def run(version: str) -> Iterator[tuple[str, str]]:
    """Every step with what it finds with a release, in an environment and a data folder of its own."""

    def tell(line: str) -> None:
        print(f"Label Studio {version}: {line}", flush=True)

    (CACHE / version).mkdir(parents=True, exist_ok=True)
    try:
        tell("is installed")
        program = install(version)
        kept = data(version, program, tell)
    except (subprocess.CalledProcessError, BackendError) as error:
        tell(str(error))
        yield from dict.fromkeys(STEPS, "it does not start here").items()
        return
    with tempfile.TemporaryDirectory(prefix=f"compat-{version}-") as scratch:
        folder = Path(scratch) / "premask-data"
        shutil.copytree(kept, folder)
        label_studio = server(program, folder)
        backend = servers.backend(folder, free_port(9700), label_studio.url, ENVIRON | PATIENT)
        login = servers.login_of(folder)
        running = [label_studio.start(), backend.start()]
        try:
            for one in running:
                one.wait(START_SECONDS)
            client = LabelStudio(label_studio.url, login.token, (5.0, 600.0))
            yield from walk(Work(Stack(label_studio, backend, client, login, folder)), tell)
        finally:
            stop_all(running)
            logs = CACHE / version / "logs"
            shutil.rmtree(logs, ignore_errors=True)
            shutil.copytree(folder / "logs", logs)


def result(version: str) -> dict[str, str]:
    """What was found with a release, by step; empty if it has not been run."""
    file = CACHE / version / "result.json"
    found: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    return found


def table(versions: list[str]) -> str:
    """The findings as Markdown: a row a step, a column a release; failures are told below by number."""
    lines = [f"| Label Studio | {' | '.join(versions)} |", f"|---|{'---|' * len(versions)}"]
    notes: list[str] = []
    for step in STEPS:
        cells = []
        for version in versions:
            found = result(version).get(step, "not run")
            if not found.startswith(("yes", "not run")):
                note = f"{version}, {step}: {found}"
                notes.append(note)
                found = f"**no** ({len(notes)})"
            cells.append(found)
        lines.append(f"| {step} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. {note}" for number, note in enumerate(notes, 1))]).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(VERSIONS)))
