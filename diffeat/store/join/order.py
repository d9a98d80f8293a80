"""The order of execution of blocks that come from several files."""

from __future__ import annotations

import heapq
import itertools
import re
from collections.abc import Sequence

from diffeat.errors import SpecMismatch


def united(lists: Sequence[Sequence[str]]) -> list[str]:
    """All names of several lists, each list's order kept.

    Names that no list holds together come in the order of their parts, which for the stages
    of a network (down, mid, up; block, single) is the order of execution.

    Raises:
        SpecMismatch: two lists have the same names in another order.
    """
    after: dict[str, set[str]] = {name: set() for names in lists for name in names}
    before = dict.fromkeys(after, 0)
    for names in lists:
        for one, two in itertools.pairwise(names):
            if two not in after[one]:
                after[one].add(two)
                before[two] += 1
    ready = [(_words_of(name), name) for name, count in before.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, name = heapq.heappop(ready)
        order.append(name)
        for other in after[name]:
            before[other] -= 1
            if not before[other]:
                heapq.heappush(ready, (_words_of(other), other))
    if len(order) < len(after):
        raise SpecMismatch("the files have the same blocks in another order; extract them anew")
    return order


def _words_of(name: str) -> list[tuple[int, int | str]]:
    """A name as words and numbers, which compare: up.10 comes after up.2."""
    words = re.findall(r"\d+|[^\d.:]+", name)
    return [(0, int(word)) if word.isdecimal() else (1, word) for word in words]
