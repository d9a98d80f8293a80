"""How well the boundaries of classes were found: DAVIS' contour F, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.metrics.intervals import DRAWS, Groups, Interval, group_interval, systems_of
from probes.metrics.segmentation import class_names, labels_of
from probes.metrics.video import BOUND, contour, contours_agree, reach_of


def boundary_f(
    found: Any, truth: Any, classes: int, ignore: int | None = 255, bound: float = BOUND
) -> np.ndarray:
    """F of each class' contour in one picture, as `contour_accuracy` has it of one mask.

    Contour pixels beside an ignored pixel, or on one, are of neither contour: nobody knows where
    the boundary is there.

    Args:
        found, truth: (H, W) whole numbers: classes; of truth also `ignore`.
        classes: K.
        ignore: true label of pixels that do not count; None: all count.
        bound: see `contour_accuracy`.

    Returns:
        (K,) float64 in [0, 1]; nan of classes that neither shows.

    Raises:
        ValueError: other shapes, no whole numbers, a bound that is not above 0.
    """
    found, truth = labels_of("found", found), labels_of("truth", truth)
    if found.shape != truth.shape or truth.ndim != 2 or not truth.size:
        raise ValueError(f"found has shape {found.shape} and truth {truth.shape}; expected the "
                         "same (H, W)")  # fmt: skip
    scores, reach = np.full(classes, np.nan), reach_of(bound, truth.shape)
    unknown = np.zeros(truth.shape, bool) if ignore is None else truth == ignore
    told = ~_beside(unknown)
    for k in range(classes):
        ours, theirs = (found == k) & ~unknown, truth == k
        if ours.any() or theirs.any():
            scores[k] = contours_agree(contour(ours) & told, contour(theirs) & told, reach)
    return scores


def _beside(unknown: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels that `contour` compares with an unknown one, or that are one."""
    found = unknown.copy()
    found[:, :-1] |= unknown[:, 1:]
    found[:-1] |= unknown[1:]
    found[:-1, :-1] |= unknown[1:, 1:]
    return found


class BoundaryF:
    """F of contours, of pictures that come one by one: means over the pictures that show a class,
    then over classes.

    Memory is K numbers a picture.

    Args:
        classes: K, or K names.
        ignore, bound: as `boundary_f` takes them.

    Raises:
        ValueError: no classes; `ignore` is a class; a bound that is not above 0.
    """

    def __init__(
        self, classes: int | Sequence[Any], ignore: int | None = 255, bound: float = BOUND
    ):
        self.names, self.ignore, self.bound = class_names(classes, ignore), ignore, float(bound)
        reach_of(self.bound, (1, 1))
        self.groups, self._scores = Groups(), []

    def __len__(self) -> int:
        return len(self._scores)

    def update(self, found: Any, truth: Any, group: Any = None) -> np.ndarray:
        """Count one picture; its `boundary_f`. `group` is for intervals; None: one of its own."""
        scores = boundary_f(found, truth, len(self.names), self.ignore, self.bound)
        self._scores.append(scores.astype(np.float32))
        self.groups.add(group)
        return scores

    @property
    def scores(self) -> np.ndarray:
        """(P, K) float64, nan where a picture and its prediction lack a class."""
        return np.array(self._scores, np.float64).reshape(-1, len(self.names))

    def by_class(self) -> np.ndarray:
        """(K,) float64 means over pictures; nan of classes that none shows."""
        return _means(*self._sums(), np.ones((1, len(self.groups.names))))[0]

    def compute(self) -> float:
        """Mean over the classes that occur, in [0, 1].

        Raises:
            ValueError: no picture shows any class.
        """
        means = self.by_class()
        if np.isnan(means).all():
            raise ValueError("no picture shows any class; expected at least one")
        return float(np.nanmean(means))

    def interval(
        self, *, other: BoundaryF | None = None, seed: int = 0, draws: int = DRAWS
    ) -> Interval:
        """The 95 % interval of `compute`, groups drawn anew; or of how much larger it is than
        that of another system on the same pictures."""
        systems = systems_of(self, other)
        sums = [system._sums() for system in systems]

        def drawn(weights: np.ndarray) -> np.ndarray:
            found = [_over_classes(_means(*one, weights)) for one in sums]
            return found[0] if other is None else found[0] - found[1]

        return group_interval(drawn, len(self.groups.names), seed, draws, len(self.names))

    @property
    def convention(self) -> str:
        """What the number is, in words."""
        reach = f"{self.bound:g} of the diagonal" if self.bound < 1 else f"{self.bound:g} pixels"
        return (f"contour F (DAVIS) within {reach}; mean over the pictures that show a class, then "
                "over classes")  # fmt: skip

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """(G, K) sums of F, and in how many pictures."""
        scores = self.scores
        return self.groups.sums(np.nan_to_num(scores)), self.groups.sums(~np.isnan(scores))


def _means(sums: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B, K) means of draws; nan of classes that a draw lacks."""
    above, below = weights @ sums, weights @ counts
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _over_classes(means: np.ndarray) -> np.ndarray:
    """(B, K) → (B,); nan where a draw has no class."""
    there = ~np.isnan(means)
    count = there.sum(1)
    return np.divide(np.nansum(means, 1), count, out=np.full(len(means), np.nan), where=count > 0)
