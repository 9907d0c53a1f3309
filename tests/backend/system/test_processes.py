import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from backend.system import processes
from backend.system.processes import describe_exit, identity, is_alive, kill_group

ROOT = Path(__file__).parents[3]


def test_a_process_is_told_apart_from_a_later_one_with_its_number():
    own = identity(os.getpid())
    assert is_alive(own)
    assert not is_alive(f"{os.getpid()}:1")
    kill_group(f"{os.getpid()}:1")  # another process: must not be touched


def test_a_process_that_ended_is_not_alive_even_before_it_is_reaped():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identity(process.pid) is None
    process.wait()
    assert identity(process.pid) is None


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("node-3.example", "node-3.example"),
        ("Büro PC", "Büro PC"),
        ("", "localhost"),
        ("..", "localhost"),
        ("rack/3", "rack-3"),
        ("B\udcfcro", "B?ro"),
    ],
)
def test_whatever_a_machine_is_called_its_name_fits_into_a_files(tmp_path, monkeypatch, called, name):
    monkeypatch.setattr(socket, "gethostname", lambda: called)
    assert processes.host_name() == name
    (tmp_path / name).touch()


def test_exits_are_told_in_words():
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-signal.SIGKILL) == "killed by signal 9 (SIGKILL; out of memory?)"
    assert describe_exit(-signal.SIGSEGV) == "killed by signal 11 (SIGSEGV)"


def test_a_process_whose_parent_went_while_it_was_starting_goes_too():
    code = "import backend.system.processes as p, time; p.die_with_parent('1234567890'); time.sleep(600)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == -signal.SIGTERM


@pytest.mark.parametrize(("asked", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_of_torch_sleep_while_they_wait_unless_asked_otherwise(asked, policy):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    environ |= {"OMP_DISPLAY_ENV": "TRUE", **asked}
    program = [sys.executable, "-c", "import backend.cli, torch"]
    told = subprocess.run(program, env=environ, capture_output=True, text=True, check=True).stderr
    assert f"OMP_WAIT_POLICY = '{policy}'" in told


def test_a_machine_of_the_same_name_is_another_machine(monkeypatch):
    """A clone of it, or another pod on the network of the same node: both have a process 1."""
    here = processes.machine()
    assert processes.is_here(here)
    assert processes.is_here(socket.gethostname())  # as earlier releases wrote it
    processes.machine.cache_clear()
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")
    clone = processes.machine()
    processes.machine.cache_clear()
    monkeypatch.undo()
    assert clone != here
    assert clone.startswith(socket.gethostname())
    assert not processes.is_here(clone)


def test_a_process_leaves_when_what_was_registered_is_done_and_waits_for_no_thread() -> None:
    ends = subprocess.run(
        [
            sys.executable,
            "-c",
            "import atexit, threading, time\nfrom backend.system.processes import leave\n"
            "atexit.register(print, 'registered')\nthreading.Thread(target=time.sleep, args=(600,)).start()\n"
            "print('said', end=' ')\nleave(3)",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ends.returncode, ends.stdout) == (3, "said registered\n")
