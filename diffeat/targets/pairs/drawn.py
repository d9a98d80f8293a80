"""Pairs for data sets that list none: drawn by a stable hash, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from diffeat.hashing import unit_interval

PER_CLASS = 20
"""Pairs drawn in each class."""
SHARED = 3
"""Visible key points that two pictures must share to be drawn as a pair."""
TRIES = 50
"""Draws for each pair that is wanted, before a class gives fewer."""

T = TypeVar("T")


def drawn_pairs(
    members: Sequence[T], count: int, fits: Callable[[T, T], bool], *key: object
) -> list[tuple[T, T]]:
    """Up to `count` ordered pairs of two different members.

    Draw k is u = hash(key, k) in [0, 1), which stands for pair ⌊u·n(n − 1)⌋ of n members; draws
    that came before, and pairs that do not fit, are passed over. Where there are few pairs, all
    of them are taken in the order of hash(key, pair).

    Args:
        members: n, in an order that is always the same.
        count: pairs wanted.
        fits: whether two members may be a pair.
        key: what else the draws depend on: the seed, the class.
    """
    n = len(members)
    total = n * (n - 1)
    if total <= TRIES * count:
        order = sorted(range(total), key=lambda place: unit_interval("pairs", *key, place))
    else:
        draws = (int(unit_interval("pairs", *key, k) * total) for k in range(TRIES * count))
        order = list(dict.fromkeys(draws))
    found: list[tuple[T, T]] = []
    for place in order:
        first, second = divmod(place, n - 1)
        pair = members[first], members[second + (second >= first)]
        if len(found) < count and fits(*pair):
            found.append(pair)
    return found
