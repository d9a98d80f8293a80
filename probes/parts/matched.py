"""Clusters that get names of classes from some labelled pictures, to be used on others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from probes.checks import check_choice
from probes.metrics.matched import HOWS, SharedMatching


@dataclass(eq=False, repr=False, kw_only=True)
class MatchedParts(BaseEstimator):
    """Which class each cluster of a set of pictures is, by the best matching with their labels.

    Made on training pictures and applied to others, it is honest; made on those that are scored it
    is the published protocol, an upper bound (see `probes.metrics.matched`).

    Args:
        how: "one-to-one" (Hungarian, by IoU), or "many-to-one".

    Attributes:
        names_: (M,) int64 class of each cluster, -1 where it has none.
        classes_: K names.
    """

    how: str = "one-to-one"

    def fit(
        self, parts: Iterable[np.ndarray], masks: Any, clusters: int,
        classes: int | Sequence[str], ignore: int | None = 255,
    ):  # fmt: skip
        """Match clusters to classes.

        Args:
            parts: (H, W) clusters of N pictures.
            masks: N (H, W) classes or `ignore`.
            clusters: M.
            classes: K, or K names.
            ignore: label of pixels that do not count.

        Returns:
            self.

        Raises:
            ValueError: labels outside; different sizes; no pixel has a label.
        """
        check_choice("how", self.how, HOWS)
        shared = SharedMatching(clusters, classes, ignore)
        for row, found in enumerate(parts):
            shared.update(found, masks[row])
        self.names_ = shared.names(self.how)
        self.classes_ = np.array(shared.classes)
        return self

    def predict(self, parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """(H, W) int64 classes of each picture; -1 where its cluster has none."""
        check_is_fitted(self)
        return (self.names_[one] for one in parts)
