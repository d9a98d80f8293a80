"""How good parts without names are: each is called by a class first, by the best matching.

    one-to-one     the assignment of parts to classes, each at most once, with the largest sum of
                   IoUs (Hungarian); pixels of parts that are left are of no class, so wrong
    many-to-one    each part is the class that most of its pixels have; more parts make it better

A matching looks at labels. Of clusters that a set of pictures shares there is one for the set; of
parts of single pictures one for each picture. A matching with the labels that are scored (the
published protocol) is an upper bound, of nothing that could be used: one that was made on other
pictures (`names` of `SharedMatching.numbers`) is honest.

Source: Cho et al. 2021, "PiCIE" (the protocol over a set); Kuhn 1955 (assignment).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from probes.checks import check_choice
from probes.metrics.intervals import DRAWS, Groups, Interval, group_interval, systems_of
from probes.metrics.segmentation import Confusion, class_names, labels_of

HOWS = ("one-to-one", "many-to-one")
"""How parts get classes."""
NONE = -1
"""Class of a part that has none."""


def overlap_table(found: Any, truth: Any, parts: int, classes: int, ignore: int | None = 255):
    """(M, K) int64: pixels of each part and each class; pixels that are ignored do not count.

    Raises:
        ValueError: different shapes; labels outside.
    """
    found, truth = labels_of("found", found), labels_of("truth", truth)
    if found.shape != truth.shape:
        raise ValueError(f"found has shape {found.shape}, truth {truth.shape}; expected the same")
    found, truth = found.astype(np.int64).ravel(), truth.astype(np.int64).ravel()
    if ignore is not None:
        found, truth = found[truth != ignore], truth[truth != ignore]
    for name, values, most in (("found", found, parts), ("truth", truth, classes)):
        if values.size and not 0 <= values.min() <= values.max() < most:
            raise ValueError(f"{name} has labels from {values.min()} to {values.max()}; expected 0 "
                             f"to {most - 1}")  # fmt: skip
    return np.bincount(found * classes + truth, minlength=parts * classes).reshape(parts, classes)


def match_parts(table: np.ndarray, how: str = "one-to-one") -> np.ndarray:
    """The class of each part.

    Args:
        table: (M, K) pixels of each part and each class.
        how: one of `HOWS`.

    Returns:
        (M,) int64; -1 of parts that share no pixel with the class, or are left.
    """
    from scipy.optimize import linear_sum_assignment

    check_choice("how", how, HOWS)
    names = np.full(len(table), NONE, np.int64)
    if how == "many-to-one":
        return np.where(table.any(1), table.argmax(1), NONE).astype(np.int64)
    union = table.sum(1, keepdims=True) + table.sum(0) - table
    iou = np.divide(table, union, out=np.zeros(table.shape), where=union > 0)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    there = table[rows, columns] > 0
    names[rows[there]] = columns[there]
    return names


def named_counts(table: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(4, K) int64 that `Confusion` counts (right, true, found, 0), of (M, K) pixels of parts with
    these (M,) classes."""
    counts = np.zeros((4, table.shape[1]), np.int64)
    counts[1] = table.sum(0)
    known = names >= 0
    np.add.at(counts[0], names[known], table[np.flatnonzero(known), names[known]])
    np.add.at(counts[2], names[known], table[known].sum(1))
    return counts


@dataclass(frozen=True, eq=False)
class MatchedNumbers:
    """What was counted under a matching.

    Attributes:
        counts: (P, 4, K) int64 as of `Confusion.counts`.
        groups: of the P pictures.
        classes: K names.
        names: (M,) classes of the parts, where there is one matching; None of one per picture.
    """

    counts: np.ndarray
    groups: Groups
    classes: Sequence[Any]
    names: np.ndarray | None = None

    def _number(self, counts: np.ndarray, number: str) -> np.ndarray:
        return Confusion(self.classes, None).of_counts(counts, number)

    def mean_iou(self) -> float:
        """Mean IoU over sums of all pictures, of classes that truth or a part has, in [0, 1]."""
        return float(self._number(self.counts.sum(0), "mean_iou"))

    def pixel_accuracy(self) -> float:
        """Share of the pixels that count whose part has their class."""
        return float(self._number(self.counts.sum(0), "pixel_accuracy"))

    def iou(self) -> np.ndarray:
        """(K,) IoU of each class; nan of one that nobody has."""
        right, true, found, _ = self.counts.sum(0)
        union = true + found - right
        return np.divide(right, union, out=np.full(len(union), np.nan), where=union > 0)

    def by_picture(self) -> np.ndarray:
        """(P,) mean IoU of each picture; nan where nothing counts."""
        return self._number(self.counts, "mean_iou")

    def interval(
        self, number: str = "mean_iou", other: MatchedNumbers | None = None, seed: int = 0,
        draws: int = DRAWS,
    ) -> Interval:  # fmt: skip
        """The 95 % interval, groups of pictures drawn anew, the matching as it is.

        Args:
            number: "mean_iou" or "pixel_accuracy".
            other: of another system on the same pictures: the interval is of the difference, this
                one's minus the other's, over the same draws.

        Raises:
            ValueError: fewer than two groups; other pictures.
        """
        systems = systems_of(self, other)
        sums = [one.groups.sums(one.counts) for one in systems]

        def drawn(weights: np.ndarray) -> np.ndarray:
            found = [self._number(np.tensordot(weights, one, 1), number) for one in sums]
            return found[0] if other is None else found[0] - found[1]

        width = 4 * self.counts.shape[-1]
        return group_interval(drawn, len(self.groups.names), seed, draws, width)


@dataclass(eq=False)
class SharedMatching:
    """Clusters that a set of pictures shares, picture by picture; one matching for all.

    Args:
        clusters: M.
        classes: K, or K names.
        ignore: true label of pixels that do not count; None: all count.

    Attributes:
        tables: of each picture, (M, K) pixels. groups: of the pictures.
    """

    clusters: int
    classes: int | Sequence[Any]
    ignore: int | None = 255
    tables: list[np.ndarray] = field(init=False, default_factory=list)
    groups: Groups = field(init=False, default_factory=Groups)

    def __post_init__(self) -> None:
        self.classes = class_names(self.classes, self.ignore)

    def __len__(self) -> int:
        return len(self.tables)

    def update(self, found: Any, truth: Any, group: Any = None) -> None:
        """Count one picture.

        Args:
            found: (H, W) numbers of clusters. truth: (H, W) classes or `ignore`.
            group: what it belongs to; None: a group of its own.
        """
        self.tables.append(overlap_table(found, truth, self.clusters, len(self.classes),
                                         self.ignore))  # fmt: skip
        self.groups.add(group)

    def names(self, how: str = "one-to-one") -> np.ndarray:
        """(M,) classes of the clusters by the labels that were counted.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.tables or not np.any(self.tables):
            raise ValueError("no pixel with a label was counted; expected some")
        return match_parts(np.sum(self.tables, 0), how)

    def numbers(self, how: str = "one-to-one", names: np.ndarray | None = None) -> MatchedNumbers:
        """What the clusters are worth.

        Args:
            how: of the matching with these labels, an upper bound.
            names: (M,) classes that other pictures gave the clusters, in place of it.
        """
        names = self.names(how) if names is None else np.asarray(names)
        counts = np.stack([named_counts(table, names) for table in self.tables])
        return MatchedNumbers(counts, self.groups, self.classes, names)


@dataclass(eq=False)
class PictureMatching:
    """Parts of single pictures, each picture matched on its own with its labels.

    Args:
        classes: K, or K names.
        ignore: true label of pixels that do not count; None: all count.

    Attributes:
        counts: how → of each picture, (4, K). parts: of each picture, how many. groups.
    """

    classes: int | Sequence[Any]
    ignore: int | None = 255
    counts: dict[str, list[np.ndarray]] = field(init=False)
    parts: list[int] = field(init=False, default_factory=list)
    groups: Groups = field(init=False, default_factory=Groups)

    def __post_init__(self) -> None:
        self.classes = class_names(self.classes, self.ignore)
        self.counts = {how: [] for how in HOWS}

    def __len__(self) -> int:
        return len(self.groups)

    def update(self, found: Any, truth: Any, group: Any = None) -> float:
        """Count one picture; see `SharedMatching.update`.

        Returns:
            Its own mean IoU, one-to-one; nan where nothing counts.
        """
        kinds, found = np.unique(labels_of("found", found), return_inverse=True)
        found = found.reshape(np.shape(truth))
        table = overlap_table(found, truth, len(kinds), len(self.classes), self.ignore)
        for how, counts in self.counts.items():
            counts.append(named_counts(table, match_parts(table, how)))
        self.parts.append(len(kinds))
        self.groups.add(group)
        one = Confusion(self.classes, None).of_counts(self.counts[HOWS[0]][-1])
        return float(one)

    def numbers(self, how: str = "one-to-one") -> MatchedNumbers:
        """What the parts are worth.

        Raises:
            ValueError: nothing was counted.
        """
        check_choice("how", how, HOWS)
        if not self.parts or not np.any(self.counts[how]):
            raise ValueError("no pixel with a label was counted; expected some")
        return MatchedNumbers(np.stack(self.counts[how]), self.groups, self.classes)
