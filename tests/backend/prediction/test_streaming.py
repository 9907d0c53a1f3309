import itertools
import threading
import time

import pytest

from backend.prediction.streaming import until
from tests.backend.fakes import eventually


def soon(seconds=60.0):
    return time.monotonic() + seconds


def test_none_holds_the_line_until_the_parts_come():
    go = threading.Event()

    def parts():
        yield "a"
        go.wait(10)
        yield "b"

    stream = until(soon(), parts(), every=0.02)
    assert [next(stream) for _ in range(3)] == ["a", None, None]
    go.set()
    assert [part for part in stream if part is not None] == ["b"]


def test_at_the_deadline_it_ends_though_the_work_is_stuck():
    go = threading.Event()

    def parts():
        yield "a"
        go.wait(20)
        yield "b"

    assert [part for part in until(soon(0.3), parts(), every=0.05) if part is not None] == ["a"]
    go.set()
    eventually(nobody_works)


def test_a_deadline_in_the_past_gives_nothing():
    assert list(until(soon(-1), iter("ab"))) == []


def test_work_stops_when_the_caller_hangs_up():
    made = []

    def parts():
        for number in itertools.count():
            made.append(number)
            yield number

    stream = until(soon(), parts())
    next(stream)
    stream.close()
    eventually(nobody_works)
    assert len(made) < 20


def test_an_error_comes_out_where_the_parts_are_read():
    def parts():
        yield "x"
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(until(soon(), parts()))


def test_quick_parts_come_as_they_are():
    assert list(until(soon(), iter("ab"), every=5)) == ["a", "b"]


def nobody_works():
    return not any(thread.name == "answer" for thread in threading.enumerate())
