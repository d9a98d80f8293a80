"""Work that runs ahead in a thread: order, errors, bounds, and its end."""

from __future__ import annotations

import threading
import time

import pytest

from diffeat.images import ahead
from tests.engines.common import until


class Items:
    """Counts what is taken from it; knows who took, and whether it was closed."""

    def __init__(self, items):
        self.left, self.taken, self.closed, self.threads = list(items), 0, 0, set()

    def __iter__(self):
        return self

    def __next__(self):
        self.threads.add(threading.current_thread().name)
        if not self.left:
            raise StopIteration
        self.taken += 1
        return self.left.pop(0)

    def close(self):
        self.closed += 1


def collect(results, found: list) -> None:
    """Results one by one, so that those before an error are kept."""
    for result in results:
        found.append(result)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "diffeat-ahead" in thread.name]


@pytest.mark.parametrize("steps", [0, 1, 5, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_is_map(count, steps):
    items = Items(range(count))
    assert list(ahead(lambda k: k * k, items, steps)) == [k * k for k in range(count)]
    assert items.closed == 1
    assert threads() == []


def test_none_is_a_result_and_an_item():
    assert list(ahead(lambda k: None, iter([1, None, 3]))) == [None] * 3
    assert list(ahead(lambda k: k, iter([None, None]))) == [None] * 2


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_no_more_than_so_many_steps_ahead(steps):
    items = Items(range(50))
    results = ahead(lambda k: k, items, steps)
    for number in range(1, 20):
        next(results)
        # the one in use, those that wait, and nothing else
        until(lambda number=number: items.taken == number + steps, "the thread", 5)
        time.sleep(0.002)
        assert items.taken == number + steps
    results.close()


def test_work_and_items_are_done_in_one_thread():
    items, by = Items(range(5)), set()
    list(ahead(lambda k: by.add(threading.current_thread().name), items))
    assert by == items.threads
    assert by.isdisjoint({threading.current_thread().name})
    assert len(by) == 1


def test_runs_while_the_last_result_is_used():
    running = threading.Event()
    results = ahead(lambda k: k and running.set(), iter([0, 1, 2]))
    next(results)
    assert running.wait(5)
    results.close()


def test_an_error_of_the_work_comes_out_in_its_place():
    def work(k):
        if k == 3:
            raise ValueError("three")
        return k

    items, found = Items(range(10)), []
    with pytest.raises(ValueError, match="three"):
        collect(ahead(work, items, 4), found)
    assert found == [0, 1, 2]
    assert items.closed == 1
    assert threads() == []


def test_an_error_of_the_items_comes_out_in_its_place():
    def items():
        yield 0
        yield 1
        raise KeyError("no more")

    found = []
    with pytest.raises(KeyError, match="no more"):
        collect(ahead(lambda k: k, items(), 3), found)
    assert found == [0, 1]
    assert threads() == []


def test_closing_ends_the_thread_and_then_closes_the_items():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(threads())

    results = ahead(lambda k: k, items(), 2)
    assert next(results) == 0
    assert len(threads()) == 1
    results.close()
    assert closed == [[]]
    assert threads() == []


def test_closing_waits_for_the_work_at_hand():
    began, ended = threading.Event(), []

    def work(k):
        if k == 1:
            began.set()
            time.sleep(0.1)
            ended.append(k)
        return k

    results = ahead(work, iter(range(10)), 1)
    next(results)
    assert began.wait(5)
    results.close()
    assert ended == [1]


def test_never_begun_takes_nothing():
    items = Items(range(5))
    results = ahead(lambda k: k, items)
    results.close()
    assert items.taken == 0
    assert threads() == []


def test_items_without_close():
    assert list(ahead(str, iter((1, 2)))) == ["1", "2"]


def test_two_at_once_do_not_meet():
    inner = ahead(lambda k: k + 1, iter(range(6)), 2)
    assert list(ahead(lambda k: k * 10, inner, 2)) == [10, 20, 30, 40, 50, 60]
    assert threads() == []
