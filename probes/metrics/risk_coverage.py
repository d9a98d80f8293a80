"""Does uncertainty tell errors? Risk among the surest, by how many are kept.

With pixels in order of uncertainty, the surest first:

    risk(c) = share of errors among the surest c·n pixels       AURC = mean over c = 1/n … 1

Pixels in random order have the mean risk r at every c, so AURC = r; in the best order (the oracle)
all errors come last. Equal uncertainties come in every order alike: their expectation is computed,
in closed form.

Sources: El-Yaniv & Wiener 2010, On the foundations of noise-free selective classification;
Geifman, Uziel & El-Yaniv 2019, Bias-reduced uncertainty estimation (AURC, and its excess).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from probes.checks import check_choice
from probes.lazy import as_numpy
from probes.metrics.intervals import DRAWS, Groups, Interval, group_interval, systems_of

BITS = 7
"""Of a float32's mantissa that bins keep: uncertainties of one bin differ by less than 1/128."""
BINS = 512
"""At most, that intervals keep of each group; each holds equally many pixels, as far as ties go."""
NUMBERS = ("aurc", "random", "oracle", "excess", "gain")


def risk_coverage(uncertainty: Any, wrong: Any) -> tuple[np.ndarray, np.ndarray]:
    """The risk-coverage curve, exactly.

    Args:
        uncertainty: n finite numbers of any shape, the larger the less sure.
        wrong: n bools (or 0/1) of the same shape.

    Returns:
        (u,) float64 coverages in (0, 1] and (u,) float64 risks in [0, 1], one of each different
        uncertainty: what is kept where it is the largest that is.

    Raises:
        ValueError: nothing, different shapes, uncertainties that are not finite.
    """
    values, wrong = _checked(uncertainty, wrong)
    _, places = np.unique(values, return_inverse=True)
    count = np.bincount(places.ravel())
    errors = np.bincount(places.ravel(), wrong.ravel())
    kept = np.cumsum(count)
    return kept / len(values), np.cumsum(errors) / kept


def area(count: Any, errors: Any) -> np.ndarray:
    """AURC of tied groups of pixels, the surest first: the mean over all orders within each.

    Args:
        count: (…, u) pixels of each; they may be fractions, and 0.
        errors: (…, u) errors among them.

    Returns:
        (…) float64 in [0, 1]; nan where there are no pixels.
    """
    from scipy.special import digamma

    count, errors = np.asarray(count, np.float64), np.asarray(errors, np.float64)
    kept, missed = np.cumsum(count, -1), np.cumsum(errors, -1)
    before, missed = kept - count, missed - errors
    rate = np.divide(errors, count, out=np.zeros_like(errors), where=count > 0)
    # sum over j = 1 … n of (missed + j·rate)/(before + j)
    steps = digamma(kept + 1) - digamma(before + 1)
    summed = (count * rate + (missed - rate * before) * steps).sum(-1)
    total = kept[..., -1]
    return np.divide(summed, total, out=np.full(total.shape, np.nan), where=total > 0)


class RiskCoverage:
    """Risk and coverage of the pixels of pictures that come one by one.

    Uncertainties are counted in bins of their leading bits, which differ by less than 1/128 of
    themselves, and pixels of one bin as equally sure; `bits` makes bins finer. No pixels are kept:
    memory is two numbers a bin that a group's uncertainties fall into, some thousands.

    Args:
        bits: of a float32's mantissa that tell uncertainties apart, 1 to 23 (exact in float32).

    Attributes:
        groups: of the pictures, in the order they came.

    Raises:
        ValueError: `bits` out of range.
    """

    def __init__(self, bits: int = BITS):
        if not 1 <= bits <= 23:
            raise ValueError(f"bits={bits}; expected 1 to 23 of a float32's mantissa")
        self.bits, self.groups = int(bits), Groups()
        self._bins: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # by group
        self._pictures: list[tuple[float, float]] = []

    def __len__(self) -> int:
        return len(self._pictures)

    def update(
        self,
        uncertainty: Any,
        wrong: Any,
        *,
        known: Any = None,
        group: Any = None,
        quality: float | None = None,
    ) -> None:
        """Count one picture.

        Args:
            uncertainty: (H, W) finite numbers, the larger the less sure.
            wrong: (H, W) bool: found ≠ truth.
            known: (H, W) bool: pixels that count, such as truth ≠ ignore. None: all do.
            group: what it belongs to, for intervals; None: a group of its own.
            quality: of the picture, the larger the better, such as its mean IoU (what
                `Confusion.update` returns); None: its share of right pixels.

        Raises:
            ValueError: different shapes, uncertainties that are not finite.
        """
        values, wrong = _checked(uncertainty, wrong, known)
        self.groups.add(group)
        place = self.groups.codes[-1]
        while len(self._bins) <= place:
            self._bins.append((np.zeros(0, np.int64),) * 3)
        keys, inverse = np.unique(_keys(values, self.bits), return_inverse=True)
        new = keys, np.bincount(inverse, minlength=len(keys)), np.bincount(
            inverse[wrong], minlength=len(keys))  # fmt: skip
        self._bins[place] = _joined(self._bins[place], new)
        if quality is None:
            quality = 1 - wrong.mean() if len(wrong) else np.nan
        self._pictures.append((values.mean() if len(values) else np.nan, float(quality)))

    def merge(self, other: RiskCoverage) -> RiskCoverage:
        """Count another's pictures behind these; ValueError where its bins are others."""
        if self.bits != other.bits:
            raise ValueError(f"bits are {self.bits} and {other.bits}; expected the same")
        start = len(self.groups)
        self.groups.extend(other.groups)
        self._pictures.extend(other._pictures)
        for theirs, place in sorted({*zip(other.groups.codes, self.groups.codes[start:],
                                          strict=True)}):  # fmt: skip
            while len(self._bins) <= place:
                self._bins.append((np.zeros(0, np.int64),) * 3)
            self._bins[place] = _joined(self._bins[place], other._bins[theirs])
        return self

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """(u,) coverages and (u,) risks of all pixels, one of each bin, the surest first.

        Raises:
            ValueError: nothing was counted.
        """
        _, count, errors = self._all()
        kept = np.cumsum(count)
        return kept / kept[-1], np.cumsum(errors) / kept

    def compute(self) -> dict[str, float]:
        """What the order is worth.

        Returns:
            "aurc"; "random", the mean risk, which any order without knowledge has; "oracle", the
            best order's; "excess", aurc − oracle; "gain", (random − aurc)/(random − oracle): 1 is
            the oracle, 0 is no better than chance (nan where all or no pixels are wrong).

        Raises:
            ValueError: nothing was counted.
        """
        _, count, errors = self._all()
        return {name: float(values) for name, values in _numbers(count, errors).items()}

    def interval(
        self,
        number: str = "gain",
        *,
        other: RiskCoverage | None = None,
        seed: int = 0,
        draws: int = DRAWS,
    ) -> Interval:
        """The 95 % interval of a number of `compute`, groups drawn anew.

        Neighbouring bins are joined to at most 512 for it, in the same way in all draws.

        Args:
            number: "aurc", "random", "oracle", "excess" or "gain".
            other: of another uncertainty on the same pictures: the interval is that of this one's
                number minus the other's, over the same draws.
            seed, draws: of the bootstrap.

        Raises:
            ValueError: fewer than two groups; nothing was counted; other pictures.
        """
        check_choice("number", number, NUMBERS)
        systems = systems_of(self, other)
        tables = [system._table() for system in systems]  # (G, 2, bins) each

        def drawn(weights: np.ndarray) -> np.ndarray:
            found = [_numbers(*np.moveaxis(np.tensordot(weights, one, 1), 1, 0))[number]
                     for one in tables]  # fmt: skip
            return found[0] if other is None else found[0] - found[1]

        return group_interval(drawn, len(self.groups.names), seed, draws, 8 * BINS)

    def by_picture(self) -> tuple[np.ndarray, np.ndarray]:
        """(P,) float64 mean uncertainty and (P,) quality of each picture; nan where nothing
        counted."""
        uncertainty, quality = np.array(self._pictures, np.float64).reshape(-1, 2).T
        return uncertainty, quality

    def ranks(self, *, seed: int = 0, draws: int = DRAWS) -> Interval:
        """Spearman's correlation of pictures' mean uncertainty with their quality, −1 at best, and
        its interval; see `rank_correlation`. Pictures without any pixel that counts are left out.
        """
        uncertainty, quality = self.by_picture()
        kept = np.isfinite(uncertainty) & np.isfinite(quality)
        groups = np.array(self.groups.codes, np.int64)[kept]
        return rank_correlation(uncertainty[kept], quality[kept], groups, seed=seed, draws=draws)

    def _all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys of all bins, their pixels and errors."""
        found = (np.zeros(0, np.int64),) * 3
        for one in self._bins:
            found = _joined(found, one)
        if not len(found[0]):
            raise ValueError("no pixels were counted; expected at least one")
        return found

    def _table(self) -> np.ndarray:
        """(G, 2, at most `BINS`) pixels and errors of each group."""
        keys, count, _ = self._all()
        kept = np.cumsum(count)
        place = np.minimum((kept - count) * BINS // kept[-1], BINS - 1)
        _, place = np.unique(place, return_inverse=True)
        found = np.zeros((len(self._bins), 2, place[-1] + 1))
        for row, (own, *numbers) in enumerate(self._bins):
            where = place[np.searchsorted(keys, own)]
            for part, values in enumerate(numbers):
                np.add.at(found[row, part], where, values)
        return found


def rank_correlation(
    first: Any, second: Any, groups: Any = None, *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Spearman's rank correlation of P pairs of numbers and its 95 % interval, groups drawn anew.

    Args:
        first, second: (P,) finite numbers; equal ones share their mean rank.
        groups: (P,) names; None: each its own.
        seed, draws: of the bootstrap; draws in which one side is constant are skipped.

    Raises:
        ValueError: different lengths, numbers that are not finite, a side that is constant, fewer
            than two groups.
    """
    first, second = (np.asarray(as_numpy(one), np.float64) for one in (first, second))
    groups = np.arange(len(first)) if groups is None else np.asarray(groups)
    if first.ndim != 1 or not first.shape == second.shape == groups.shape:
        raise ValueError(f"numbers and groups have shapes {first.shape}, {second.shape}, "
                         f"{groups.shape}; expected (P,) each")  # fmt: skip
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("numbers are nan or inf; expected finite ones, leave the others out")
    if not (np.ptp(first) if len(first) else 0) or not np.ptp(second):
        raise ValueError(f"all {len(first)} numbers of one side are alike, so that they have no "
                         "ranks; expected different ones")  # fmt: skip
    names, codes = np.unique(groups, return_inverse=True)

    def drawn(weights: np.ndarray) -> np.ndarray:
        times = weights[:, codes]  # (B, P): how often each stands in a draw
        ranks = [_mean_ranks(one, times) for one in (first, second)]
        total = times.sum(1)
        x, y = (one - ((one * times).sum(1) / total)[:, None] for one in ranks)
        spread = np.sqrt((times * x**2).sum(1) * (times * y**2).sum(1))
        shared = (times * x * y).sum(1)
        return np.divide(shared, spread, out=np.full(len(times), np.nan), where=spread > 1e-9)

    return group_interval(drawn, len(names), seed, draws, len(first))


def _mean_ranks(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(B, P) ranks of P numbers in draws in which each stands (B, P) times; equal ones share the
    mean of theirs."""
    _, inverse = np.unique(values, return_inverse=True)
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(values[order]) > 0]))
    count = np.add.reduceat(times[:, order], starts, axis=1)  # of each different number
    return (np.cumsum(count, 1) - (count - 1) / 2)[:, inverse]


def _checked(uncertainty: Any, wrong: Any, known: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float32 or float64 uncertainties and (n,) bools of the pixels that count."""
    values, wrong = np.asarray(as_numpy(uncertainty)), np.asarray(as_numpy(wrong))
    there = np.ones(values.shape, bool) if known is None else np.asarray(as_numpy(known), bool)
    if not values.shape == wrong.shape == there.shape:
        raise ValueError(f"uncertainty has shape {values.shape}, wrong {wrong.shape}, known "
                         f"{there.shape}; expected the same")  # fmt: skip
    values, wrong = values[there], wrong[there].astype(bool)
    if known is None and not values.size:
        raise ValueError("uncertainty is empty; expected at least one pixel")
    if not np.isfinite(values).all():
        raise ValueError("uncertainty has nan or inf; expected finite numbers")
    return values, wrong


def _keys(values: np.ndarray, bits: int) -> np.ndarray:
    """(n,) int64 that order float32 numbers by their sign, exponent and leading bits."""
    plain = (values.astype(np.float32) + np.float32(0)).view(np.int32).astype(np.int64)  # −0 → 0
    ordered = np.where(plain < 0, -(plain & 0x7FFFFFFF), plain)
    return ordered >> (23 - bits)


def _joined(first: tuple, second: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins of both: keys, pixels and errors."""
    keys, inverse = np.unique(np.concatenate([first[0], second[0]]), return_inverse=True)
    found = np.zeros((2, len(keys)), np.int64)
    for part in (1, 2):
        np.add.at(found[part - 1], inverse, np.concatenate([first[part], second[part]]))
    return keys, found[0], found[1]


def _numbers(count: np.ndarray, errors: np.ndarray) -> dict[str, np.ndarray]:
    """(…, u) pixels and errors, the surest first → (…) each number."""
    total, wrong = count.sum(-1), errors.sum(-1)
    found, mean = area(count, errors), wrong / np.maximum(total, 1)
    order = np.stack([total - wrong, wrong], -1)  # right ones, then errors
    best = area(order, np.stack([np.zeros_like(wrong), wrong], -1))
    room = mean - best
    gain = np.divide(mean - found, room, out=np.full(np.shape(room), np.nan), where=room > 0)
    return {"aurc": found, "random": mean, "oracle": best, "excess": found - best, "gain": gain}
