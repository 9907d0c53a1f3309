"""One project's slow images are that project's."""

import threading
from concurrent.futures import CancelledError

import pytest

from backend.prediction.loaders import Loaders
from tests.backend.fakes import eventually


def test_a_project_whose_images_drip_keeps_no_other_waiting() -> None:
    loaders, gate = Loaders(each=2), threading.Event()
    dripping = [loaders.submit(project, gate.wait, 60) for project in ("1", "2", "3", "4") for _ in range(10)]
    assert loaders.submit("5", lambda: "loaded").result(20) == "loaded"
    assert not any(future.done() for future in dripping)
    gate.set()
    assert all(future.result(20) for future in dripping)


def test_calls_of_a_project_run_in_order_a_few_at_a_time_and_leave_no_thread() -> None:
    loaders = Loaders(each=2)
    running: list[int] = []
    most: list[int] = []
    order: list[int] = []

    def load(number: int) -> int:
        running.append(number)
        most.append(len(running))
        order.append(number)
        running.remove(number)
        return number

    futures = [loaders.submit("1", load, number) for number in range(50)]
    assert [future.result(20) for future in futures] == list(range(50))
    assert max(most) <= 2
    assert max(abs(number - place) for place, number in enumerate(order)) <= 2
    eventually(lambda: not any(thread.name == "images-1" for thread in threading.enumerate()))
    assert not loaders._waiting


def test_what_is_cancelled_is_not_loaded_and_an_error_is_raised_where_it_is_asked_for() -> None:
    loaders, gate = Loaders(each=1), threading.Event()
    loaded: list[int] = []
    first = loaders.submit("1", gate.wait, 60)
    second = loaders.submit("1", loaded.append, 2)
    failing = loaders.submit("1", lambda: 1 / 0)
    assert second.cancel()
    gate.set()
    assert first.result(20)
    with pytest.raises(ZeroDivisionError):
        failing.result(20)
    with pytest.raises(CancelledError):
        second.result(20)
    assert loaded == []
