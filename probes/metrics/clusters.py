"""How well clusters of pictures go with classes, and how far apart groups of features lie.

    ARI        pairs of pictures on which clusters and classes agree, above chance: 0 of random
               clusters, 1 of equal ones
    NMI        mutual information over the mean of both entropies, in [0, 1]; above 0 by chance
    accuracy   share of pictures whose cluster is called by their class, under the one-to-one
               matching that makes it largest. It looks at these labels, so it is an upper bound
    silhouette (b − a)/max(a, b), mean over pictures: a the mean distance to the own cluster's
               others, b that to the nearest other cluster. It needs no label

Source: Hubert & Arabie 1985 (ARI); Strehl & Ghosh 2002, Kvalseth 1987 (NMI by the mean of
entropies); Kuhn 1955 (assignment); Rousseeuw 1987 (silhouette).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from probes.lazy import Rows
from probes.metrics.intervals import DRAWS, Interval, drawn_groups, interval_of
from probes.metrics.matched import overlap_table

AT_ONCE = 1 << 21
"""Weights of pictures in draws that are held at a time: 16 MiB."""


def adjusted_rand(truth: Any, clusters: Any) -> float:
    """ARI of (N,) classes and (N,) clusters, of any names.

    Raises:
        ValueError: lengths that differ, or no pictures.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_both(truth, clusters)))


def normalised_information(truth: Any, clusters: Any) -> float:
    """NMI of (N,) classes and (N,) clusters, of any names.

    Raises:
        ValueError: as `adjusted_rand`.
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_both(truth, clusters)))


def matched_accuracy(truth: Any, clusters: Any) -> float:
    """Share of pictures in the best one-to-one matching of clusters and classes.

    Raises:
        ValueError: as `adjusted_rand`.
    """
    from scipy.optimize import linear_sum_assignment

    truth, clusters = _both(truth, clusters)
    table = overlap_table(clusters, truth, clusters.max() + 1, truth.max() + 1, None)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(truth))


def sampled_silhouette(X: Any, clusters: Any, sample: int = 2000, seed: int = 0) -> float:
    """Mean silhouette of a sample of pictures, among themselves.

    Args:
        X: (N, D) features, also of a file; the sample alone is read.
        clusters: (N,) of any names.
        sample: pictures at most; time goes with its square.
        seed: of the sample.

    Returns:
        A number in [-1, 1]; nan where the sample has one cluster, or each picture its own.

    Raises:
        ValueError: lengths that differ, nan or inf.
    """
    from sklearn.metrics import silhouette_score

    rows, clusters = Rows(X), np.asarray(clusters)
    if clusters.shape != (len(rows),):
        raise ValueError(f"clusters have shape {clusters.shape}; expected ({len(rows)},)")
    kept = np.sort(np.random.default_rng(seed).permutation(len(rows))[:sample])
    found = clusters[kept]
    if not 1 < len(np.unique(found)) < len(kept):
        return float("nan")
    return float(silhouette_score(rows[kept], found))


@dataclass(frozen=True)
class Distances:
    """How far pictures lie from those of their own group and of others.

    Attributes:
        within: root mean squared distance of two pictures of one group, over all such pairs.
        between: the same of two groups.
    """

    within: float
    between: float

    @property
    def ratio(self) -> float:
        """between/within, which does not depend on the features' scale; above 1, groups lie
        apart. nan where a kind of pair does not occur."""
        return self.between / self.within if self.within else float("nan")


def group_distances(X: Any, groups: Any) -> Distances:
    """Distances within and between groups, of all pairs of pictures, in one pass.

    With n_k pictures in group k, s_k their sum and q_k the sum of their squared lengths,

        Σ_{i<j in k} |x_i − x_j|² = n_k q_k − |s_k|²

    and the same sums over all pictures give all pairs, so that no pair is looked at.

    Args:
        X: (N, D) features, also of a file.
        groups: (N,) classes or clusters, of any names.

    Returns:
        nan for a kind of pair that does not occur.

    Raises:
        ValueError: lengths that differ, nan or inf.
    """
    rows, codes = Rows(X), _codes(groups)
    if len(codes) != len(rows):
        raise ValueError(f"{len(codes)} groups for {len(rows)} pictures; expected one each")
    count = int(codes.max()) + 1
    centre = np.asarray(rows[:1], np.float64)[0]  # near the data, so that sums do not cancel
    sums, squares = np.zeros((count, rows.shape[1])), np.zeros(count)
    for start, piece in rows.chunks():
        piece, mine = piece.astype(np.float64) - centre, codes[start : start + len(piece)]
        for k in np.unique(mine):
            sums[k] += piece[mine == k].sum(0)
        squares += np.bincount(mine, (piece**2).sum(1), count)
    sizes = np.bincount(codes, minlength=count)
    inside = (sizes * squares - (sums**2).sum(1)).sum()
    whole = len(rows) * squares.sum() - (sums.sum(0) ** 2).sum()
    pairs = (sizes * (sizes - 1)).sum() / 2
    others = len(rows) * (len(rows) - 1) / 2 - pairs
    return Distances(_root(inside, pairs), _root(whole - inside, others))


NUMBERS = ("ari", "nmi", "accuracy")
"""What `Clustered` says of clusters and classes."""


@dataclass(frozen=True, eq=False)
class Clustered:
    """Clusters of N pictures beside their classes: ARI, NMI, accuracy, with intervals.

    Args:
        truth: (N,) classes; clusters: (N,); both of any names.

    Raises:
        ValueError: lengths that differ, or no pictures.
    """

    truth: np.ndarray
    clusters: np.ndarray

    def __post_init__(self) -> None:
        for name, values in zip(("truth", "clusters"), _both(self.truth, self.clusters),
                                strict=True):  # fmt: skip
            object.__setattr__(self, name, values)

    @property
    def ari(self) -> float:
        return adjusted_rand(self.truth, self.clusters)

    @property
    def nmi(self) -> float:
        return normalised_information(self.truth, self.clusters)

    @property
    def accuracy(self) -> float:
        return matched_accuracy(self.truth, self.clusters)

    def numbers(self) -> dict[str, float]:
        """All of `NUMBERS`."""
        return {name: getattr(self, name) for name in NUMBERS}

    def by_chance(self, seed: int = 0, draws: int = 20) -> dict[str, float]:
        """Mean of each number where the same clusters are dealt out at random.

        Args:
            seed: of the draws; draws: how many.
        """
        rng = np.random.default_rng(seed)
        dealt = [Clustered(self.truth, rng.permutation(self.clusters)) for _ in range(draws)]
        found = [one.numbers() for one in dealt]
        return {name: float(np.mean([one[name] for one in found])) for name in NUMBERS}

    def interval(
        self, number: str = "ari", other: Clustered | None = None, seed: int = 0,
        draws: int = DRAWS,
    ) -> Interval:  # fmt: skip
        """The 95 % interval of ARI, or of how much larger it is than another's: pictures drawn
        anew, clusters as they are.

        A draw takes N of the N pictures with replacement. A pair (i, j) of different pictures
        weighs c_i·c_j; a picture that was drawn twice is no pair with itself, or every draw would
        find more agreement than there is. Of NMI and accuracy draws are shifted so that their mean
        is the value, because information is found where few pictures were drawn often.

        Args:
            number: one of `NUMBERS`; accuracy under the matching of all pictures.
            other: other clusters of the same pictures, for the difference.
            seed, draws: of the bootstrap.

        Raises:
            ValueError: another number; another's pictures have other classes; one picture alone.
        """
        if number not in NUMBERS:
            raise ValueError(f"number={number!r}; expected one of {', '.join(NUMBERS)}")
        if other is not None and not np.array_equal(other.truth, self.truth):
            raise ValueError("the other clusters are of pictures with other classes")
        if len(self.truth) < 2:
            raise ValueError("one picture alone has no interval; expected two at least")
        systems = [self] if other is None else [self, other]
        weigh = [getattr(_Weighed(one), number) for one in systems]
        at_once = max(1, AT_ONCE // len(self.truth))
        found = []
        for weights in drawn_groups(len(self.truth), seed, draws, at_once):
            each = [one(weights.astype(np.float64)) for one in weigh]
            found.append(each[0] if other is None else each[0] - each[1])
        drawn = np.concatenate(found)
        value = getattr(self, number) - (0 if other is None else getattr(other, number))
        if number != "ari":
            drawn = drawn - (np.nanmean(drawn) - value)
        return interval_of(value, drawn)


class _Weighed:
    """Numbers of one clustering, pictures weighed: (B, N) weights → (B,)."""

    def __init__(self, one: Clustered):
        self.truth, self.clusters = one.truth, one.clusters
        self.parts = one.truth.max() + 1, one.clusters.max() + 1
        self.cells = one.clusters * self.parts[0] + one.truth

    def ari(self, weights: np.ndarray) -> np.ndarray:
        """nan where a draw has one group of both kinds, which agree by necessity."""
        squares = weights**2
        both, same, alike = (
            _pairs(weights, squares, codes) for codes in (self.cells, self.truth, self.clusters)
        )
        total = (weights.sum(1) ** 2 - squares.sum(1)) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            chance = same * alike / total
            found = (both - chance) / ((same + alike) / 2 - chance)
        return found

    def nmi(self, weights: np.ndarray) -> np.ndarray:
        total = weights.sum(1)
        joint, *sides = (
            _entropy(_sums(weights, codes), total)
            for codes in (self.cells, self.truth, self.clusters)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return 2 * (sides[0] + sides[1] - joint) / (sides[0] + sides[1])

    def accuracy(self, weights: np.ndarray) -> np.ndarray:
        from scipy.optimize import linear_sum_assignment

        table = overlap_table(self.clusters, self.truth, self.parts[1], self.parts[0], None)
        names = np.full(self.parts[1], -1)
        rows, columns = linear_sum_assignment(table, maximize=True)
        names[rows] = columns
        right = names[self.clusters] == self.truth
        return weights[:, right].sum(1) / weights.sum(1)


def _sums(weights: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(B, N) summed over equal codes; only those that occur."""
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return np.add.reduceat(weights[:, order], starts, axis=1)


def _pairs(weights: np.ndarray, squares: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(B,) Σ c_i·c_j over pairs of different pictures with equal codes."""
    return (_sums(weights, codes) ** 2 - _sums(squares, codes)).sum(1) / 2


def _entropy(sums: np.ndarray, total: np.ndarray) -> np.ndarray:
    shares = sums / total[:, None]
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1)


def _root(squares: float, pairs: float) -> float:
    return float(np.sqrt(max(squares, 0.0) / pairs)) if pairs else float("nan")


def _codes(names: Any) -> np.ndarray:
    names = np.asarray(names)
    if names.ndim != 1 or not len(names):
        raise ValueError(f"groups have shape {names.shape}; expected (N,), one picture at least")
    return np.unique(names, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _both(truth: Any, clusters: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 each."""
    truth, clusters = _codes(truth), _codes(clusters)
    if len(truth) != len(clusters):
        raise ValueError(f"{len(truth)} classes and {len(clusters)} clusters; expected one of each "
                         "for every picture")  # fmt: skip
    return truth, clusters
