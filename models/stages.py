"""How long each stage of the main path takes, for those who ask; nothing is kept for those who do not."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_clock: ContextVar[defaultdict[str, float] | None] = ContextVar("stage_clock", default=None)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Count the time of this block as a stage's, if the caller is within `timed`."""
    clock = _clock.get()
    if clock is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        clock[name] += time.perf_counter() - began


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Yield a dictionary that holds, after the block, the seconds of each stage that this thread ran in it.

    Those of threads that it has work done on (`models.threads.together`) count too.

    >>> with timed() as seconds, stage("maps"):
    ...     pass
    >>> list(seconds)
    ['maps']
    """
    clock: defaultdict[str, float] = defaultdict(float)
    token = _clock.set(clock)
    try:
        yield clock
    finally:
        _clock.reset(token)
