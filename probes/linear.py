"""The linear probe: multinomial logistic regression on standardised features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from probes.checks import accuracy, encode_labels, open_vectors, pick_device
from probes.newton import LogisticPath
from probes.tables import Streamed


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression, fitted by L-BFGS in torch.

    With z the standardised features (mean 0, variance 1 on the training set; constant
    features are left at 0), n pictures and K classes, it minimises

        1/(2·C·n)·||W||² + 1/n · sum_i CE(softmax(W z_i + b), y_i)

    which has the minimiser of scikit-learn's `LogisticRegression(C=C)` behind a
    `StandardScaler` for K > 2. (For K = 2 both classes keep their own row of W, as in a
    softmax layer; scikit-learn's single row is penalised twice as much.)

    Args:
        C: inverse strength of the penalty, > 0. Wide features want little: 0.001 to 0.1.
        max_iter: iterations of L-BFGS at most.
        tol: it stops when no entry of the gradient is larger than this; in float32 also when
            the objective changes by less than 1e-7, which is all that can be resolved.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the
            CPU.
        warm_start: begin at the last solution, for a path over C.
        memory: bytes. A data set of a file that is larger than this, as floating point, is not
            held but read in pieces of 32 MiB, about twice per iteration. Logits and the like, a
            few times (N, K), are held in any case.

    Attributes:
        classes_: (K,) the labels, sorted.
        coef_: (K, D) float64 weights for features as they come, not standardised.
        intercept_: (K,) float64.
        n_features_in_: D.
        n_iter_: iterations that the last fit took.

    Source: Bishop 2006, section 4.3.4; Liu & Nocedal 1989 (L-BFGS), from the inverse of the
    Gram matrix (see `probes.newton`).
    """

    def __init__(
        self,
        C: float = 1.0,
        max_iter: int = 500,
        tol: float = 1e-4,
        device: str = "auto",
        warm_start: bool = False,
        memory: int = 2 << 30,
    ):
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.warm_start = warm_start
        self.memory = memory

    def fit(self, X: Any, y: Any) -> LinearProbe:
        """Fit the probe.

        Args:
            X: (N, D) features: numpy array, torch tensor or h5py data set, any float dtype.
            y: (N,) labels of any kind that scikit-learn takes.

        Returns:
            self.

        Raises:
            ValueError: wrong shapes, inf or nan, fewer than two classes, C not positive.
        """
        if not self.C > 0:
            raise ValueError(f"C={self.C}; expected a positive number")
        device = pick_device(self.device, X)
        rows, y = open_vectors(self, X, y)
        classes, targets = encode_labels(y)
        table = Streamed(rows, device)
        start = self._start(classes, table) if self.warm_start else None
        path = LogisticPath(
            table.within(self.memory),
            torch.from_numpy(targets).to(device),
            len(classes),
            start,
        )
        solution, taken = path.minimise(1 / (self.C * len(rows)), self.max_iter, self.tol)
        self.n_iter_ = int(taken[0])
        if self.n_iter_ >= self.max_iter:
            warnings.warn(
                f"L-BFGS stopped after max_iter={self.max_iter}; raise it or lower C",
                ConvergenceWarning,
                stacklevel=2,
            )
        solution = solution[0].double().cpu().numpy()
        self.classes_ = classes
        self.coef_ = solution[:, :-1] / table.scale
        self.intercept_ = solution[:, -1] - self.coef_ @ table.mean
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (N, K); for two classes their difference (N,), as scikit-learn has it."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the likeliest class of each row."""
        logits = self._logits(X)
        return self.classes_[logits.argmax(1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, K) probabilities: softmax of the logits."""
        logits = self._logits(X)
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        return shifted / shifted.sum(1, keepdims=True)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy in [0, 1]."""
        return accuracy(self.predict(X), y, sample_weight)

    def _logits(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        rows, _ = open_vectors(self, X, reset=False)
        return np.concatenate([x @ self.coef_.T for _, x in rows.chunks()]) + self.intercept_

    def _start(self, classes: np.ndarray, table: Streamed) -> torch.Tensor | None:
        """The last solution (1, K, D + 1), if it is one of the same classes and width."""
        width = table.shape[2]
        if not hasattr(self, "coef_") or self.coef_.shape[1] != width:
            return None
        if not np.array_equal(self.classes_, classes):
            return None
        biases = self.intercept_ + self.coef_ @ table.mean
        start = np.column_stack([self.coef_ * table.scale, biases])
        return torch.from_numpy(start[None]).to(table.device, table.dtype)
