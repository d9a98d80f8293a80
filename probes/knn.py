"""Nearest neighbours that vote: the probe that trains nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from probes.checks import accuracy, encode_labels, open_vectors, pick_device
from probes.lazy import Deferred, Rows
from probes.neighbours import nearest
from probes.standardise import shift_and_factor

WEIGHTS = ("uniform", "softmax")
METRICS = ("cosine", "euclidean")


class KNNProbe(ClassifierMixin, BaseEstimator):
    """The classes of the k most similar training pictures, exactly, in blocks.

    A picture's votes for class c are the sum of w over its neighbours of that class, with w = 1
    (`weights="uniform"`, as scikit-learn's `KNeighborsClassifier`) or w = exp(s/temperature) with
    s the similarity (`weights="softmax"`). The defaults are DINO's: cosine, softmax with
    temperature 0.07, 20 neighbours. Features are taken as they come, unless `standardise`.

    What lies in a file stays there and is read again at every prediction, once per 1,024
    pictures; such a probe can be used while the file is open, and not be pickled. Standardised
    features are held in memory.

    Args:
        n_neighbors: k.
        metric: "cosine", or "euclidean" (s = -distance).
        weights: "softmax" or "uniform".
        temperature: > 0; of softmax votes.
        standardise: bring features to mean 0 and variance 1 on the training pictures before.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the CPU.

    Attributes:
        classes_: (K,) the labels, sorted.
        n_features_in_: D.
        mean_, factor_: (D,) float32, where standardised: features are (x - mean)·factor.

    Source: Caron et al. 2021 (DINO), appendix; Wu et al. 2018, section 3.4.
    """

    def __init__(
        self,
        n_neighbors: int = 20,
        metric: str = "cosine",
        weights: str = "softmax",
        temperature: float = 0.07,
        standardise: bool = False,
        device: str = "auto",
    ):
        self.n_neighbors = n_neighbors
        self.metric = metric
        self.weights = weights
        self.temperature = temperature
        self.standardise = standardise
        self.device = device

    def fit(self, X: Any, y: Any) -> KNNProbe:
        """Keep the training pictures.

        Args:
            X: (N, D) features: numpy array, torch tensor or h5py data set (not read).
            y: (N,) labels.

        Raises:
            ValueError: wrong shapes, inf or nan, one class only, more neighbours than
                pictures, or an unknown metric or weight.
        """
        if self.metric not in METRICS:
            raise ValueError(f"metric={self.metric!r}; expected 'cosine' or 'euclidean'")
        if self.weights not in WEIGHTS:
            raise ValueError(f"weights={self.weights!r}; expected 'uniform' or 'softmax'")
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature}; expected a positive number")
        self._device = pick_device(self.device, X)
        rows, y = open_vectors(self, X, y)
        self.classes_, self._targets = encode_labels(y)
        if not 1 <= self.n_neighbors <= len(rows):
            raise ValueError(f"n_neighbors={self.n_neighbors} with n_samples = {len(rows)}; "
                             "expected at least 1 and at most as many as pictures")  # fmt: skip
        for name in ("mean_", "factor_"):
            vars(self).pop(name, None)
        if self.standardise:
            X = rows[:]
            self.mean_, self.factor_ = shift_and_factor(X)
            rows = Rows((X - self.mean_) * self.factor_, dtype=X.dtype)
        self._rows = rows
        return self

    def _restore(self) -> None:
        """Check what was loaded; ValueError if it could not be used."""
        k = self.n_neighbors
        bad = type(k) is not int or not 1 <= k <= len(self._rows) or self.weights not in WEIGHTS
        bad |= self.metric not in METRICS or not self.temperature > 0
        inside = (self._targets >= 0) & (self._targets < len(self.classes_))
        if bad or not inside.all() or self.standardise != hasattr(self, "factor_"):
            raise ValueError("parameters, targets and rows do not fit together")
        self._device = pick_device(self.device, self._rows.values)

    def kneighbors(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """(M, k) similarities, the largest first, and (M, k) rows of the training pictures."""
        check_is_fitted(self)
        queries, _ = open_vectors(self, X, reset=False)
        if self.standardise:
            X, mean, factor = queries, self.mean_, self.factor_
            scaled = Deferred(X.shape, lambda rows: (X[rows] - mean) * factor, X.dtype)
            queries = Rows(scaled, dtype=X.dtype)
        similar, rows = nearest(queries, self._rows, self.n_neighbors, self.metric, self._device)
        return similar.numpy(), rows.numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """(M, K) shares of the votes."""
        similar, rows = self.kneighbors(X)
        votes = np.ones(similar.shape)
        if self.weights == "softmax":  # the largest at exp(0): nothing overflows
            votes = np.exp((similar - similar[:, :1]).astype(np.float64) / self.temperature)
        shares = torch.zeros(len(votes), len(self.classes_), dtype=torch.float64)
        shares.scatter_add_(1, torch.from_numpy(self._targets[rows]), torch.from_numpy(votes))
        return (shares / shares.sum(1, keepdim=True)).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """(M,) the class with most votes; of equals, the first."""
        shares = self.predict_proba(X)
        return self.classes_[shares.argmax(1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy in [0, 1].

        Raises:
            ValueError: as `predict`; or not one label per picture.
        """
        return accuracy(self.predict(X), y, sample_weight)
