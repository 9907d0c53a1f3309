"""Processes of this machine: their identity, their end, and ties between them."""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG = 1
PARENT = "PREMASK_PARENT"  # environment variable of a process that must not outlive the one of that number
NICENESS = 10  # of 19: a tenth of what others get while they are busy


def die_with_parent(parent: str | None) -> None:
    """Have the kernel send SIGTERM to this process when the one that started it is gone, even by kill -9 (Linux).

    Args:
        parent: number of the process that must not be outlived; None if there is none.
    """
    if sys.platform == "linux" and parent:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if str(os.getppid()) != parent:  # it went while this one was still starting
            os.kill(os.getpid(), signal.SIGTERM)


def leave(code: int) -> NoReturn:
    """End this process when what was registered for its end is done, and leave the rest to the system.

    Python would end daemon threads in the middle of what a library computes in C++, which aborts the process.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def host_name() -> str:
    """This machine's host name, which becomes part of file names; the kernel takes any text, and none."""
    name = socket.gethostname().encode("utf-8", "replace").decode()  # not every locale can read it
    return name.replace("/", "-").lstrip(".") or "localhost"


@functools.cache
def machine() -> str:
    """This machine or container, as it runs now: its host name, and what no other of that name has.

    Clones of a virtual machine and pods on the network of their node are called alike, and a process of one is not to
    be looked for among those of the other.
    """
    parts = []
    with contextlib.suppress(OSError):
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text("ascii"), os.readlink("/proc/self/ns/pid")]
    return f"{host_name()}-{hashlib.sha256(''.join(parts).encode()).hexdigest()[:8]}"


def is_here(machine_name: str) -> bool:
    """Whether processes of a machine can be looked up here; earlier releases said a host name alone."""
    return machine_name in (machine(), host_name())


def identity(pid: int) -> str | None:
    """`pid:start`, which no later process shares, though numbers are reused; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may contain blanks; the state and the start time are fields 3 and 22 of proc(5). psutil's
    # create_time is in wall-clock time: it changes when the clock is set, and a live worker would be taken for dead.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{pid}:{fields[19]}"


def is_alive(process: str) -> bool:
    """Whether the process of that identity still runs."""
    number = process.partition(":")[0]
    return number.isascii() and number.isdecimal() and len(number) < 10 and identity(int(number)) == process


def kill_group(process: str) -> None:
    """Kill a process that leads its own group, with all its children, if it is still the one that was meant."""
    if is_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(process.partition(":")[0]), signal.SIGKILL)


def lower_priority(pid: int, niceness: int = NICENESS) -> None:
    """Let a process that leads its own session yield the cores to any other that wants them."""
    with contextlib.suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, max(niceness, os.getpriority(os.PRIO_PROCESS, pid)))
    # Where the kernel groups sessions (sched(7)), niceness counts only inside one; this is the session's own.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(niceness), encoding="ascii")


def describe_exit(code: int) -> str:
    """An exit status of `subprocess` in words.

    >>> describe_exit(1)
    'ended with exit code 1'
    >>> describe_exit(-9)
    'killed by signal 9 (SIGKILL; out of memory?)'
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    # The kernel's out-of-memory killer leaves no other trace.
    return f"killed by signal {-code} ({name}{'; out of memory?' if -code == signal.SIGKILL else ''})"
