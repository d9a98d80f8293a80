"""Work that runs one step ahead of whoever uses it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ahead(work: Callable[[A], B], items: Iterator[A], steps: int = 1) -> Iterator[B]:
    """`map(work, items)` in a thread, at most `steps` results ahead of the one in use.

    Errors come out where their item stands. Closing the iterator ends the thread, and then
    closes `items`.

    Args:
        work: called in the thread, one item at a time.
        items: taken in the same thread.
        steps: results that may wait.
    """
    end = object()
    using = Lock()

    def step():
        with using:
            item = next(items, end)
        return end if item is end else work(item)

    pool = ThreadPoolExecutor(1, thread_name_prefix="diffeat-ahead")
    waiting: deque[Future] = deque()
    try:
        while True:
            while len(waiting) <= steps:
                waiting.append(pool.submit(step))
            result = waiting.popleft().result()
            if result is end:
                return
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if hasattr(items, "close"):
            with using:  # a thread that was interrupted while it started is not waited for
                items.close()
