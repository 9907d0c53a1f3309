import json
import threading
import time

import pytest

from backend.streaming import BLANK, kept_alive
from tests.backend.fakes import eventually


def test_blanks_hold_the_line_until_the_parts_come():
    go = threading.Event()

    def parts():
        yield b'{"a":'
        go.wait(10)
        yield b"1}"

    stream = kept_alive(parts(), every=0.02)
    received = [next(stream) for _ in range(3)]
    assert received == [b'{"a":', BLANK, BLANK]
    go.set()
    assert json.loads(b"".join([*received, *stream])) == {"a": 1}


def test_work_stops_when_the_caller_hangs_up():
    made = []

    def parts():
        for number in range(10_000):
            made.append(number)
            yield b"x"

    stream = kept_alive(parts())
    next(stream)
    stream.close()
    eventually(lambda: not any(thread.name == "answer" for thread in threading.enumerate()))
    assert len(made) < 20


def test_an_error_comes_out_where_the_parts_are_read():
    def parts():
        yield b"x"
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(kept_alive(parts()))


def test_quick_parts_get_no_blanks():
    began = time.monotonic()
    assert list(kept_alive(iter([b"a", b"b"]), every=5)) == [b"a", b"b"]
    assert time.monotonic() - began < 2
