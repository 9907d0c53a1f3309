"""How many cores the work of a thread may use, and work on arrays spread over them.

torch keeps such a number of its own for each thread, and takes it from here (`models.devices`); what computes without
torch never loads it for that.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

SHARE = 4  # items that are worth a thread: fewer are done sooner by the threads of OpenCV itself

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Limit(threading.local):
    threads: int | None = None


_LIMIT = _Limit()


def limit_threads(threads: int | None) -> None:
    """Let forward passes and other work of the calling thread use as many cores at most; None changes nothing."""
    if threads is not None:
        _LIMIT.threads = threads
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)


def thread_limit() -> int | None:
    """What `limit_threads` was told in the calling thread, if anything."""
    return _LIMIT.threads


def thread_count() -> int:
    """Cores that the work of the calling thread may use: all that this process has, unless they were limited."""
    return _LIMIT.threads or _cores()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `work` makes of each item, in the order of the items; its first error ends it.

    Args:
        work: safe to run on several threads at once.
        items: any number.
    """
    items = list(items)
    threads = min(thread_count(), len(items) // SHARE)
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, "arrays") as pool:
        return list(pool.map(work, items))


def together(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """What `work` makes of each item, in the order of the items, each on a thread of its own; its first error ends it.

    Each thread has the limit and the context of the caller. A single item stays on the caller's.
    """
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(len(items), "together", limit_threads, (thread_limit(),)) as pool:
        return [one.result() for one in [pool.submit(copy_context().run, work, item) for item in items]]
