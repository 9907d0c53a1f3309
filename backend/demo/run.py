"""The main path of `premask demo`: start both servers, fill the sample project, keep an eye on them until Ctrl-C."""

import fcntl
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from rich.console import Console

from backend.database.jobs import FINISHED
from backend.demo import checks, predictions, sample_project, servers
from backend.demo.processes import Running, stop_all, stop_leftover, tail
from backend.demo.steps import Steps
from backend.demo.summary import Summary
from backend.errors import BackendError, DemoError
from backend.label_studio.client import LabelStudio
from backend.label_studio.connect import connect

FIRST_START_SECONDS = 900.0  # Label Studio's migrations take 75 s on two idle cores
START_SECONDS = 180.0


@dataclass(frozen=True)
class Options:
    """Options of the demo.

    Attributes:
        folder: where everything is kept; a second run with the same folder resumes.
        port: of the backend.
        label_studio_port: of Label Studio.
        label_studio: its command, in an environment of its own.
        environ: the caller's environment; the servers get what they need of it.
    """

    folder: Path
    port: int
    label_studio_port: int
    label_studio: Path
    environ: Mapping[str, str]


def run(options: Options, console: Console, *, wait: bool, report: Path | None = None) -> bool:
    """Bring everything up and, if `wait`, stay until Ctrl-C; in any case stop what was started.

    Args:
        options: of the demo.
        console: where the steps and the summary are shown.
        wait: stay until Ctrl-C or SIGTERM instead of ending after the summary.
        report: file for the summary as JSON.

    Returns:
        Whether it came to the summary; False if it was stopped before.

    Raises:
        BackendError: something is in the way or a server died; the text says what to do.
    """
    ready = False
    try:
        with alone(options.folder), interruptible(), stopping() as running:
            try:
                summary = bring_up(options, console, running)
            except BackendError:
                alive(running)  # a server that died explains it better than the call that failed
                raise
            ready = True
            if report:
                summary.write(report)
            summary.show(console)
            if wait:
                watch(running, summary, console)
    except KeyboardInterrupt:
        pass
    console.print(f"Stopped. `make run` goes on with the same data, kept in {options.folder}.", highlight=False)
    return ready


def bring_up(options: Options, console: Console, running: list[Running]) -> Summary:
    """Every step up to the summary; servers are added to `running` as they start."""
    folder, environ = options.folder, options.environ
    label_studio = servers.label_studio(folder, options.label_studio_port, options.label_studio, environ)
    backend = servers.backend(folder, options.port, label_studio.url, environ)
    login = servers.login_of(folder)
    client = LabelStudio(label_studio.url, login.token)

    with Steps(console) as steps:
        with steps.step("Check ports and disk") as step:
            leftovers = [server.name for server in (label_studio, backend) if stop_leftover(server)]
            step.say(f"stopped what an earlier run left: {', '.join(leftovers)}" if leftovers else "")
            check(options)
            servers.discard_unfinished(folder)
            servers.bring_up_to_date(folder)

        with steps.step("Start Label Studio") as step:
            running.append(label_studio.start())
            # The backend needs seconds to load its libraries: it does so while Label Studio sets up its database.
            running.append(backend.start())
            running[0].wait(FIRST_START_SECONDS, lambda: step.say(database_progress(folder)))
            servers.keep(folder)
            step.say(label_studio.url)

        with steps.step("Start the backend") as step:
            running[1].wait(START_SECONDS)
            step.say(backend.url)

        with steps.step("Sample project") as step:
            total = len(sample_project.SEEDS)
            project = sample_project.prepare(client, lambda done: step.say(f"{done} of {total} frames", done, total))
            kept = f"project {project.id}, {total - project.uploaded} of its {total} frames were there"
            step.say(kept if project.resumed else f"project {project.id}, {total} synthetic frames")

        with steps.step("Connect the backend") as step:
            sample_project.move_backend(client, project.id, backend.url)
            connected = connect(client, project.id, backend.url)
            step.say(f"serves {connected.model_version}" if connected.model_version else "serves no model")

        with steps.step("Retrieve predictions") as step:
            alive(running)
            newest = predictions.retrieve(
                client, project.id, lambda done, total: step.say(f"{done} of {total}", done, total)
            )

        with steps.step("Compare with the truth"):
            scores = predictions.score(project.seeds, newest)

    alive(running)
    if not scores.predicted:
        raise DemoError(f"no task got a prediction. The end of {backend.log}:\n{tail(backend.log)}")
    return Summary(label_studio.url, backend.url, project.id, login, scores, steps.seconds, folder)


def check(options: Options) -> None:
    """Raise if a port is taken or the disk is full."""
    if options.port == options.label_studio_port:
        raise DemoError(f"the backend and Label Studio cannot both use port {options.port}: give another PORT")
    checks.check_port(options.label_studio_port, "Label Studio", "LABEL_STUDIO_PORT")
    checks.check_port(options.port, "the backend", "PORT")
    checks.check_disk(options.folder)


def database_progress(folder: Path) -> str:
    """How far Label Studio is with its database, which takes a minute the first time and of which its log is silent."""
    database = folder / "label-studio" / "label_studio.sqlite3"
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=0.2)) as connection:
            (done,) = connection.execute("select count(*) from django_migrations").fetchone()
    except sqlite3.Error:
        return "loading"  # not there yet, or locked for a moment
    return f"{done} database migrations done"


def alive(running: Sequence[Running]) -> None:
    """Raise if a server has ended."""
    for server in running:
        server.check()


def watch(running: Sequence[Running], summary: Summary, console: Console) -> None:
    """Show that the servers answer and what the backend trains, until a server dies or Ctrl-C."""
    told = ""
    with console.status("") as status:
        while True:
            alive(running)
            servers_state = ", ".join(f"{one.server.name} {'up' if one.healthy() else 'busy'}" for one in running)
            job, now = newest_job(summary.backend)
            if job and job != told:
                console.print(job, highlight=False)
                told = job
            status.update(" · ".join(filter(None, [servers_state, now])))
            time.sleep(2)


def newest_job(backend: str) -> tuple[str, str]:
    """The backend's newest job: its state, which changes a few times, and its progress, which changes always."""
    try:
        jobs = requests.get(f"{backend}/api/jobs", timeout=2).json()["jobs"]
    except (requests.RequestException, ValueError):
        return "", ""  # busy: the next round may tell
    if not jobs:
        return "", "no training yet"
    job = jobs[0]
    state = f"{job['kind'].capitalize()} for project {job['project']}: {job['state']}"
    if job["state"] in FINISHED:
        return f"{state}. {job['reason'] or job['message'] or ''} {job['version'] or ''}".rstrip(), ""
    return state, f"{job['progress']:.0%} {job['message']}"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder; the lock ends with this process, even if it is killed.

    Raises:
        DemoError: another run has locked it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise DemoError(
                f"a demo already runs on {folder} (process {lock.read().strip()}): use that one, or stop it by Ctrl-C"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal do what Ctrl-C does."""
    ways: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGHUP)
    before = {one: signal.signal(one, signal.default_int_handler) for one in ways}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@contextmanager
def stopping() -> Iterator[list[Running]]:
    """A list of servers that are stopped at the end in any case; a second Ctrl-C must not leave any behind."""
    running: list[Running] = []
    try:
        yield running
    finally:
        before: dict[signal.Signals, Callable[..., object] | int | None] = {}
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            before[one] = signal.signal(one, signal.SIG_IGN)
        stop_all(running)
        for one, handler in before.items():
            signal.signal(one, handler)
