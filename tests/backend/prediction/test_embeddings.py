"""The one cache of embeddings."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backend.prediction.embeddings import Embeddings


class Made:
    """An embedding of so many bytes."""

    shape = (1, 1)

    def __init__(self, nbytes: int = 1) -> None:
        self.nbytes = nbytes


def test_two_quick_clicks_embed_an_image_once() -> None:
    embeddings, began, gate = Embeddings(), threading.Event(), threading.Event()

    def make() -> Any:
        began.set()
        assert gate.wait(20)
        return Made()

    def never() -> Any:
        raise AssertionError("it is being made already")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(embeddings.get, ("a",), make)
        assert began.wait(20)
        second = pool.submit(embeddings.get, ("a",), never)
        gate.set()
        assert first.result(20) is second.result(20) is embeddings.get(("a",), never)


def test_an_error_goes_to_its_caller_and_the_next_one_tries_again() -> None:
    embeddings = Embeddings()

    def fail() -> Any:
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            embeddings.get(("a",), fail)
    assert embeddings.get(("a",), Made).nbytes == 1


def test_the_one_used_longest_ago_makes_room_and_one_too_large_is_not_kept() -> None:
    embeddings = Embeddings(max_bytes=4)
    for key in "abac":
        embeddings.get((key,), lambda: Made(2))
    assert len(embeddings) == 2
    kept = embeddings.get(("a",), lambda: Made(2))
    assert embeddings.get(("a",), Made) is kept
    embeddings.get(("huge",), lambda: Made(5))
    assert len(embeddings) == 2


def test_outdated_embeddings_are_forgotten() -> None:
    embeddings = Embeddings()
    for version in ("v1", "v2"):
        embeddings.get(("3", version), Made)
    embeddings.forget(lambda key: key[1] == "v1")
    assert len(embeddings) == 1
