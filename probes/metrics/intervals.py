"""How far a number over pairs can be believed: the groups of both pictures are drawn anew.

A pair (i, j) belongs to two groups, such as the persons that its two pictures show; pairs that
share a group are not independent. A draw takes G of the G groups with replacement, c_g times each,
and weighs

    w_ij = c_i · c_j    where i ≠ j,        w_ii = c_i

so that every number is computed again as if the groups had been met that often. The bootstrap of
pairs alone takes hundreds of pairs of some persons for hundreds of independent facts.

Source: Owen 2007, "The pigeonhole bootstrap"; for two members of one population, Davezies,
D'Haultfœuille & Guyonvarch 2021, "Empirical process results for exchangeable arrays".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
AT_ONCE = 1 << 21
"""Weights of pairs in draws that are held at a time: 16 MiB."""


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % percentile interval.

    Attributes:
        value: of all pairs, each once.
        low, high: the 2.5th and the 97.5th percentile over the draws.
        draws: draws that the percentiles are of.
        skipped: further draws of which nothing can be said: without any pair, or one of a class.
    """

    value: float
    low: float
    high: float
    draws: int
    skipped: int = 0

    def __str__(self) -> str:
        left = f", {self.skipped} draws that say nothing left out" if self.skipped else ""
        return f"{self.value:.4g} (95 % {self.low:.4g} to {self.high:.4g}{left})"


def drawn_groups(count: int, seed: int = 0, draws: int = DRAWS, at_once: int = 1) -> Iterator:
    """(B, G) int64 how often each of G groups is drawn, of draws of G with replacement, in pieces.

    Args:
        count: G.
        seed: of the draws; the same draws come whatever `at_once` is.
        draws: sum of the B.
        at_once: the largest B.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


def pair_weights(
    groups: Sequence[tuple[Any, Any]] | np.ndarray, seed: int = 0, draws: int = DRAWS
) -> Iterator[np.ndarray]:
    """(B, P) float64 how much each pair weighs in draws of groups, in pieces.

    Args:
        groups: P pairs of names.
        seed: of the draws.
        draws: sum of the B.

    Raises:
        ValueError: no (P, 2) names, fewer than two groups.
    """
    first, second, count = _codes(groups)
    same = first == second
    for drawn in drawn_groups(count, seed, draws, max(1, AT_ONCE // max(len(first), count))):
        drawn = drawn.astype(np.float64)  # (B, G)
        yield drawn[:, first] * np.where(same, 1.0, drawn[:, second])


def pair_interval(
    numerators: Any,
    denominators: Any,
    groups: Sequence[tuple[Any, Any]] | np.ndarray,
    *,
    other: tuple[Any, Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """The interval of sum a / sum b over pairs; or of how much larger it is than another's.

    Per point, a are the points of each pair that are right and b its points; per pair, a are
    shares and b ones.

    Args:
        numerators, denominators: (P,) a and b.
        groups: P pairs of names of what the two pictures belong to.
        other: (P,) and (P,) of another system on the same pairs: the interval is that of the
            difference of the ratios, this one's minus the other's, both over the same draws.
        seed: of the draws.
        draws: how many.

    Returns:
        The interval; draws in which b sums to 0 are skipped and counted.

    Raises:
        ValueError: lengths that differ, numbers that are not finite, no pairs, b that sum to 0,
            fewer than two groups, no draw of which anything can be said.
    """
    pairs = ((numerators, denominators), *(() if other is None else (other,)))
    systems = [_numbers(*system, len(groups)) for system in pairs]

    def number(weights: np.ndarray) -> np.ndarray:
        ratios = [_ratio(weights @ above, weights @ below) for above, below in systems]
        return ratios[0] if other is None else ratios[0] - ratios[1]

    return drawn_interval(number, groups, seed, draws)


def drawn_interval(number: Any, groups: Any, seed: int = 0, draws: int = DRAWS) -> Interval:
    """The interval of any number of weighed pairs.

    Args:
        number: (B, P) weights → (B,) numbers; nan where nothing can be said of a draw.
        groups, seed, draws: as `pair_interval` takes them.

    Raises:
        ValueError: as `pair_interval`; the number of all pairs is nan.
    """
    value = float(number(np.ones((1, len(groups))))[0])
    if not np.isfinite(value):
        raise ValueError(f"the number of all {len(groups)} pairs is {value}; expected a finite one")
    drawn = np.concatenate([number(weights) for weights in pair_weights(groups, seed, draws)])
    return interval_of(value, drawn)


def interval_of(value: float, drawn: np.ndarray) -> Interval:
    """The interval of a number and of what it is in draws.

    Args:
        value: of all pairs.
        drawn: (B,) of draws; nan where nothing can be said.

    Raises:
        ValueError: nothing can be said of any draw.
    """
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        raise ValueError(f"none of {len(drawn)} draws of groups has pairs; expected more groups")
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(value, float(low), float(high), len(known), len(drawn) - len(known))


def _codes(groups: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Both groups of each pair as numbers, and how many groups there are."""
    names = np.asarray(groups)
    if names.ndim != 2 or names.shape[1] != 2 or not len(names):
        raise ValueError(f"groups have shape {names.shape}; expected (P, 2), two names a pair, and "
                         "at least one pair")  # fmt: skip
    found, codes = np.unique(names.ravel(), return_inverse=True)
    if len(found) < 2:
        raise ValueError("all pairs are of one group, so that nothing tells how far their number "
                         "can be believed; expected at least two groups")  # fmt: skip
    first, second = codes.reshape(-1, 2).T
    return first, second, len(found)


def _numbers(above: Any, below: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    above, below = (np.asarray(values, np.float64) for values in (above, below))
    if above.shape != (count,) or below.shape != (count,):
        raise ValueError(f"numerators have shape {above.shape}, denominators {below.shape}; "
                         f"expected ({count},), one for each of the pairs in groups")  # fmt: skip
    if not np.isfinite(above).all() or not np.isfinite(below).all() or (below < 0).any():
        raise ValueError("numerators or denominators are not finite, or denominators below 0; "
                         "leave such pairs out")  # fmt: skip
    return above, below


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """nan where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def group_interval(
    number: Any, count: int, seed: int = 0, draws: int = DRAWS, width: int = 1
) -> Interval:
    """The interval of a number of pictures that each belong to one group, such as a drive.

    A draw takes G of the G groups with replacement; a group counts as often as it was drawn.

    Args:
        number: (B, G) float64 how often each group counts → (B,) numbers; nan where nothing can
            be said of a draw.
        count: G.
        seed: of the draws.
        draws: how many.
        width: numbers that `number` holds for one draw, where that is more than G.

    Raises:
        ValueError: fewer than two groups; the number of all is not finite; no draw of which
            anything can be said.
    """
    if count < 2:
        raise ValueError("all pictures are of one group, so that nothing tells how far their "
                         "number can be believed; expected at least two groups")  # fmt: skip
    value = float(number(np.ones((1, count)))[0])
    if not np.isfinite(value):
        raise ValueError(f"the number of all {count} groups is {value}; expected a finite one")
    pieces = drawn_groups(count, seed, draws, max(1, AT_ONCE // max(count, width)))
    return interval_of(value, np.concatenate([number(w.astype(np.float64)) for w in pieces]))


def systems_of(one: Any, other: Any = None) -> list[Any]:
    """One accumulator, or two that counted the same pictures: each has `groups`.

    Raises:
        ValueError: other pictures, or in another order.
    """
    if other is None:
        return [one]
    if not one.groups.same(other.groups):
        raise ValueError("the two systems did not count the same pictures in the same order")
    return [one, other]


class Groups:
    """Names of what pictures belong to, which come one by one; None is a group of its own.

    Attributes:
        names: group → its number, in the order they came.
        codes: a number for each picture.
    """

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.codes: list[int] = []

    def __len__(self) -> int:
        return len(self.codes)

    def add(self, group: Any = None) -> None:
        """Count a picture of a group."""
        name = f"picture {len(self.codes)}" if group is None else str(group)
        self.codes.append(self.names.setdefault(name, len(self.names)))

    def extend(self, other: Groups) -> None:
        """Count another's pictures behind these; what was a group of its own stays one."""
        names, start = list(other.names), len(self.codes)
        for place, code in enumerate(other.codes):
            own = names[code] == f"picture {place}"
            self.add(f"picture {start + place}" if own else names[code])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(P, …) of pictures → (G, …) float64 sums of groups."""
        found = np.zeros((len(self.names), *values.shape[1:]))
        np.add.at(found, np.array(self.codes, np.int64), values)
        return found

    def spread(self, weights: np.ndarray) -> np.ndarray:
        """(B, G) of groups → (B, P) of their pictures."""
        return weights[:, np.array(self.codes, np.int64)]

    def same(self, other: Groups) -> bool:
        """Whether another counted pictures of the same groups in the same order."""
        return self.codes == other.codes and list(self.names) == list(other.names)
