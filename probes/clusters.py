"""K-means of pictures' features, whole in memory or read in pieces."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from probes.checks import check_choice, check_counts, check_number, check_sides
from probes.lazy import Rows
from probes.standardise import running_moments, varies

SCALES = ("standardise", "l2", "none")
"""What is done to features first: deviation 1 for each, length 1 for each picture, or nothing."""
BATCH = 4096
"""Pictures of a step, of features that are read in pieces."""
PASSES = 10
"""Times that such features are gone through at most."""
STILL = 1e-4
"""Centres that move by less, beside the features' deviation, have been found."""


@dataclass(eq=False, repr=False, kw_only=True)
class KMeansClusters(TransformerMixin, ClusterMixin, BaseEstimator):
    """The K centres m with the least sum over pictures of the squared distance to the nearest.

        cluster(x) = argmin_k |z(x) − m_k|²

    z are the features as `scale` makes them. Up to `memory` bytes scikit-learn's `KMeans` finds
    the centres; what is larger is gone through in random batches of 4,096 pictures
    (`MiniBatchKMeans`), of which one is held at a time.

    Args:
        clusters: K.
        scale: "standardise" brings every feature to mean 0 and deviation 1 (constant ones to 0),
            "l2" every picture to length 1, "none" takes them as they come.
        starts: beginnings by k-means++, of which the best counts.
        seed: of the beginnings and batches.
        memory: bytes of float32 features up to which all are held.

    Attributes:
        cluster_centers_: (K, D) float64 in the space of z.
        labels_: (N,) int64 cluster of each picture.
        distances_: (N,) float64 distance of each to its centre, in the space of z.
        inertia_: their squares' sum.
        mean_, deviation_: (D,) float64 of the features, where they are standardised; constant ones
            have deviation inf.
        n_features_in_: D.

    Source: Lloyd 1982; Arthur & Vassilvitskii 2007 (k-means++); Sculley 2010 (mini-batches).
    """

    clusters: int = 10
    scale: str = "standardise"
    starts: int = 3
    seed: int = 0
    memory: int = 1 << 30

    def fit(self, X: Any, y: Any = None) -> KMeansClusters:
        """Find the centres; no label is looked at.

        Args:
            X: (N, D) features: numpy, torch, or a data set of a file.
            y: not looked at.

        Returns:
            self.

        Raises:
            ValueError: wrong shapes or parameters, nan or inf, fewer pictures than clusters.
        """
        check_counts(self, "clusters", "starts")
        check_choice("scale", self.scale, SCALES)
        check_number("memory", self.memory, self.memory >= 0, "of bytes")
        rows = _open(X)
        if len(rows) < self.clusters:
            raise ValueError(f"{len(rows)} pictures for {self.clusters} clusters; expected as many "
                             "pictures at least, or fewer clusters")  # fmt: skip
        self.n_features_in_ = rows.shape[1]
        if self.scale == "standardise":
            self._moments(rows)
        with warnings.catch_warnings():  # fewer different pictures than clusters is no error
            warnings.simplefilter("ignore", ConvergenceWarning)
            whole = 4 * rows.shape[0] * rows.shape[1] <= self.memory
            self.cluster_centers_ = self._centres(rows) if whole else self._streamed(rows)
        parts = [self._nearest(piece) for _, piece in rows.chunks()]
        self.labels_ = np.concatenate([labels for labels, _ in parts])
        self.distances_ = np.concatenate([distances for _, distances in parts])
        self.inertia_ = float((self.distances_**2).sum())
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) int64 the nearest centre of each picture."""
        return np.concatenate([self._nearest(piece)[0] for piece in self._pieces(X)])

    def transform(self, X: Any) -> np.ndarray:
        """(N, K) float64 distances to all centres, in the space of z."""
        return np.concatenate([np.sqrt(self._squares(piece)) for piece in self._pieces(X)])

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """(n, D) float32 z of some pictures."""
        x = np.asarray(x, np.float32)
        if self.scale == "standardise":
            return ((x - self.mean_) / self.deviation_).astype(np.float32)
        if self.scale == "l2":
            length = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
            return (x / np.where(length > 0, length, 1)).astype(np.float32)
        return x

    def _moments(self, rows: Rows) -> None:
        pieces = (torch.from_numpy(np.ascontiguousarray(piece)) for _, piece in rows.chunks())
        mean, variance = running_moments(pieces)
        self.mean_, deviation = mean.numpy(), variance.sqrt().numpy()
        self.deviation_ = np.where(varies(deviation, self.mean_), deviation, np.inf)

    def _centres(self, rows: Rows) -> np.ndarray:
        from sklearn.cluster import KMeans

        z = np.concatenate([self.scaled(piece) for _, piece in rows.chunks()])
        found = KMeans(self.clusters, n_init=self.starts, random_state=self.seed).fit(z)
        return found.cluster_centers_.astype(np.float64)

    def _streamed(self, rows: Rows) -> np.ndarray:
        """Centres from random batches; the first one begins."""
        from sklearn.cluster import MiniBatchKMeans

        rng = np.random.default_rng(self.seed)
        found = MiniBatchKMeans(self.clusters, n_init=self.starts, random_state=self.seed,
                                init_size=BATCH)  # fmt: skip
        before = None
        for _ in range(PASSES):
            order, size = rng.permutation(len(rows)), max(BATCH, self.clusters)
            for batch in _batches(order, size):
                found.partial_fit(self.scaled(rows[batch]))
            centres = found.cluster_centers_.astype(np.float64)
            spread = centres.std() or 1.0
            if before is not None and np.abs(centres - before).max() < STILL * spread:
                break
            before = centres.copy()
        return centres

    def _squares(self, x: np.ndarray) -> np.ndarray:
        z = self.scaled(x).astype(np.float64)
        found = (z**2).sum(1)[:, None] - 2 * z @ self.cluster_centers_.T
        return np.maximum(found + (self.cluster_centers_**2).sum(1), 0)

    def _nearest(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        squares = self._squares(x)
        labels = squares.argmin(1)
        return labels, np.sqrt(squares[np.arange(len(x)), labels])

    def _pieces(self, X: Any) -> Iterator[np.ndarray]:
        check_is_fitted(self)
        rows = _open(X)
        if rows.shape[1] != self.n_features_in_:
            raise ValueError(f"X has {rows.shape[1]} features, but {type(self).__name__} is "
                             f"expecting {self.n_features_in_} features as input")  # fmt: skip
        return (piece for _, piece in rows.chunks())


def _open(X: Any) -> Rows:
    rows = Rows(X)
    check_sides(rows, (2,))
    return rows


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Ascending row numbers; what is left at the end goes with the last batch."""
    many = max(1, len(order) // size)
    return (np.sort(part) for part in np.array_split(order, many))
