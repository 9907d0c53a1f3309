"""Work on arrays, spread over the cores that a forward pass may use: OpenCV and NumPy let other threads go on."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

SHARE = 4  # items that are worth a thread: fewer are done sooner by the threads of OpenCV itself

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `work` makes of each item, in the order of the items; its first error ends it.

    Args:
        work: safe to run on several threads at once.
        items: any number.
    """
    items = list(items)
    threads = min(torch.get_num_threads(), len(items) // SHARE)
    if threads < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, "arrays") as pool:
        return list(pool.map(work, items))
