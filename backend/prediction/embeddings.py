"""Embeddings of the images that annotators prompt on, so that only the first prompt on an image embeds it.

The one cache of embeddings: for Label Studio's smart tools and for CVAT's interactor.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from cachetools import LRUCache

from models.families import Embedding

Key = tuple[str, ...]  # names the image and the model version


class Embeddings:
    """Embeddings by key. Safe to share between threads.

    Args:
        max_bytes: of all embeddings kept; the one used longest ago goes first.
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self._lock = threading.Lock()
        self._finished: LRUCache[Key, Embedding] = LRUCache(max_bytes, getsizeof=lambda kept: kept.nbytes)
        self._running: dict[Key, Future[Embedding]] = {}

    def get(self, key: Key, make: Callable[[], Embedding]) -> Embedding:
        """The embedding of a key, made by one caller while the others wait for it.

        Args:
            key: of the image and the model version.
            make: makes the embedding; its error goes to all who wait, and the next caller tries again.
        """
        with self._lock:
            if (known := self._finished.get(key)) is not None:
                return known
            running = self._running.get(key)
            if running is None:
                own = self._running[key] = Future()
        if running is not None:
            return running.result()
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                del self._running[key]
            own.set_exception(error)
            raise
        with self._lock:
            del self._running[key]
            if made.nbytes <= self._finished.maxsize:
                self._finished[key] = made
        own.set_result(made)
        return made

    def forget(self, outdated: Callable[[Key], bool]) -> None:
        """Drop the embeddings of all keys that `outdated` is true of."""
        with self._lock:
            for key in [key for key in self._finished if outdated(key)]:
                del self._finished[key]

    def __len__(self) -> int:
        """How many embeddings are kept."""
        return len(self._finished)
