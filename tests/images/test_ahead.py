"""Work that runs one step ahead."""

from __future__ import annotations

import threading
import time

import pytest

from diffeat.images.ahead import ahead


def test_results_come_in_order():
    assert list(ahead(lambda n: n * n, iter(range(20)), steps=3)) == [n * n for n in range(20)]


def test_at_most_so_many_wait():
    taken = []
    squares = ahead(taken.append, iter(range(20)), steps=2)
    next(squares)
    time.sleep(0.05)
    assert len(taken) <= 4  # the one in use, two that wait, one in the making
    squares.close()


def test_an_error_comes_out_where_its_item_stands():
    inverses = ahead(lambda n: 1 / n, iter([2, 0, 4]))
    assert next(inverses) == 0.5
    with pytest.raises(ZeroDivisionError):
        next(inverses)


def test_interrupted_while_its_thread_starts(monkeypatch):
    """The thread, which the pool does not know, still reads when the items are closed."""
    closed, start = [], threading.Thread.start

    def items():
        try:
            time.sleep(0.1)
            yield 1
        finally:
            closed.append(True)

    def interrupted(thread):
        start(thread)
        time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(ahead(str, items()))
    assert closed == [True]
