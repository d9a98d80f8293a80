"""Heads for several labels per picture: ridge, one-vs-rest logistic regression, layers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from probes.checks import check_both, check_several, open_vectors, pick_device, required
from probes.grams import ALPHAS
from probes.lazy import Rows
from probes.metrics.ranking import mean_average_precision
from probes.mlp import MLPHead
from probes.network import NetworkHead
from probes.newton import LogisticPath
from probes.objectives import BINARY_CROSS_ENTROPY, Objective
from probes.regression import linear_map, ridge_path
from probes.tables import Held, Streamed


class Multilabel:
    """What heads of several labels share: y is (N, K), 1 where a row has a label, else 0.

    A head writes `decision_function`.
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        return tags

    def decision_function(self, X: Any) -> np.ndarray:
        """(N, K) scores, above 0 where a row has a label more likely than not."""
        raise TypeError(f"{type(self).__name__} has no scores; use one of the heads")

    def predict(self, X: Any) -> np.ndarray:
        """(N, K) int64, 1 where the score is above 0."""
        return (self.decision_function(X) > 0).astype(np.int64)

    def score(self, X: Any, y: Any) -> float:
        """Mean average precision in [0, 1], over labels that some row has."""
        return mean_average_precision(check_several(y), self.decision_function(X))


class LinearMultilabel(Multilabel, BaseEstimator):
    """A linear map per label.

    Attributes:
        coef_: (K, D) float64 weights for features as they come.
        intercept_: (K,) float64.
        n_features_in_: D.
    """

    def decision_function(self, X: Any) -> np.ndarray:
        """(N, K) scores, above 0 where a row has a label more likely than not."""
        check_is_fitted(self)
        rows, _ = open_vectors(self, X, reset=False)
        return linear_map(rows, self.coef_, self.intercept_)

    def _opened(self, X: Any, y: Any) -> tuple[Rows, np.ndarray]:
        y = check_several(required(self, y))
        check_consistent_length(X, y)
        return open_vectors(self, X, y, outputs=True)


class RidgeMultilabelProbe(LinearMultilabel):
    """Ridge regression on +1 where a picture has a label and -1 where not, in closed form.

    One alpha serves all labels: that with the best mean average precision on validation rows, or
    without these that of generalised cross-validation (see `RidgeProbe`).

    Args:
        alphas: penalties to choose from, > 0.
        standardise: False for features as they come.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the CPU.

    Attributes:
        alpha_: the penalty chosen, of the (P,) `alphas_`, descending, with their `scores_`.

    Further attributes: see `LinearMultilabel`.
    """

    def __init__(
        self, alphas: Sequence[float] = ALPHAS, standardise: bool = True, device: str = "auto"
    ):
        self.alphas = alphas
        self.standardise = standardise
        self.device = device

    def fit(
        self, X: Any, y: Any, X_validation: Any = None, y_validation: Any = None
    ) -> RidgeMultilabelProbe:
        """Fit the probe.

        Args:
            X: (N, D) features: numpy array, torch tensor or h5py data set (read in pieces).
            y: (N, K) 0/1.
            X_validation, y_validation: the same, to choose alpha.

        Raises:
            ValueError: wrong shapes, inf or nan, alphas not positive, one of the two missing.
        """
        check_both(X_validation, y_validation)
        device, (rows, y) = pick_device(self.device, X), self._opened(X, y)
        judge = None
        if X_validation is not None:
            held, _ = open_vectors(self, X_validation, reset=False)
            truth = check_several(y_validation, "y_validation")
            check_consistent_length(held, truth)
            judge = lambda w, b: mean_average_precision(truth, linear_map(held, w, b))  # noqa: E731
        signs = 2.0 * y - 1
        found = ridge_path(rows, signs, self.alphas, self.standardise, device, judge)
        self.alpha_, self.alphas_, self.scores_ = found.alpha, found.alphas, found.scores
        self.coef_, self.intercept_ = found.weights, found.biases
        return self


class LinearMultilabelProbe(LinearMultilabel):
    """One logistic regression per label, against the rest.

    With z the standardised features and s = ±1 whether a picture has the label, each minimises

        1/(2·C·n)·||w||² + 1/n · sum_i log(1 + exp(-s_i·(w·z_i + b)))

    as scikit-learn's `OneVsRestClassifier(LogisticRegression(C))` does behind a `StandardScaler`,
    by the solver of `LinearProbe`; one Gram matrix serves all labels. A label that all training
    rows have, or none, is predicted for all or none.

    Args:
        C: inverse strength of the penalty, > 0.
        max_iter: iterations per label at most.
        tol: see `LinearProbe`.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the CPU.
        memory: bytes; a data set of a file that is larger is read in pieces, as in `LinearProbe`.

    Attributes:
        n_iter_: (K,) iterations taken.

    Further attributes: see `LinearMultilabel`.
    """

    def __init__(
        self,
        C: float = 1.0,
        max_iter: int = 500,
        tol: float = 1e-4,
        device: str = "auto",
        memory: int = 2 << 30,
    ):
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.device = device
        self.memory = memory

    def fit(self, X: Any, y: Any) -> LinearMultilabelProbe:
        """Fit the probe on (N, D) features and (N, K) 0/1.

        Raises:
            ValueError: wrong shapes, inf or nan, C not positive.
        """
        if not self.C > 0:
            raise ValueError(f"C={self.C}; expected a positive number")
        device, (rows, y) = pick_device(self.device, X), self._opened(X, y)
        streamed = Streamed(rows, device)
        table = streamed.within(self.memory)
        gram, count = table.gram(), y.shape[1]
        self.n_iter_ = np.zeros(count, np.int64)
        weights, biases = np.zeros((count, rows.shape[1])), np.zeros(count)
        for k in range(count):
            weights[k], biases[k], self.n_iter_[k] = self._one(table, y[:, k], gram)
        self._warn_of_unfinished()
        self.coef_ = weights / streamed.scale
        self.intercept_ = biases - self.coef_ @ streamed.mean
        return self

    def _one(self, table: Held | Streamed, y: np.ndarray, gram) -> tuple[np.ndarray, float, int]:
        """Weights and bias of one label, and iterations, as the difference of a softmax of two.

        Two rows ±w/2 have half the squares of w, so their penalty is twice as strong.
        """
        if len(np.unique(y)) == 1:  # without examples of both, the bias would grow without end
            share = (y.sum() + 0.5) / (len(y) + 1)
            return np.zeros(table.shape[2]), float(np.log(share / (1 - share))), 0
        path = LogisticPath(table, torch.from_numpy(y).to(table.device), 2, gram=gram)
        solution, taken = path.minimise(2 / (self.C * len(y)), self.max_iter, self.tol)
        theta = (solution[0, 1] - solution[0, 0]).double().cpu().numpy()
        return theta[:-1], float(theta[-1]), int(taken[0])

    def _warn_of_unfinished(self) -> None:
        unfinished = int((self.n_iter_ >= self.max_iter).sum())
        if unfinished:
            warnings.warn(
                f"L-BFGS stopped after max_iter={self.max_iter} for {unfinished} labels; raise it "
                "or lower C",
                ConvergenceWarning,
                stacklevel=3,
            )

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, K) probability of each label: the sigmoid of the scores."""
        return sigmoid(self.decision_function(X))


@dataclass(eq=False, repr=False, kw_only=True)
class NetworkMultilabel(Multilabel, NetworkHead):
    """A head for several labels: the binary cross-entropy, validated by mean average precision.

    All parameters are those of `NetworkHead`.

    Attributes:
        history_: with validation: validation_loss, validation_mean_average_precision.

    Further attributes: see `NetworkHead`.
    """

    def _objective(self) -> Objective:
        return BINARY_CROSS_ENTROPY

    def _opened_targets(self, y: Any) -> np.ndarray:
        return check_several(super()._opened_targets(y))

    def _encode(self, y: np.ndarray) -> tuple[Rows, int]:
        return Rows(y, "y"), y.shape[1]

    def _encode_again(self, y: Any, count: int) -> Rows:
        return Rows(check_several(y, "y_validation"), "y_validation")

    def decision_function(self, X: Any) -> np.ndarray:
        """(N, K) float32 logits."""
        return self._logits(self._checked(X))

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, K) probability of each label: the sigmoid of the logits."""
        return sigmoid(self.decision_function(X))


@dataclass(eq=False, repr=False, kw_only=True)
class MLPMultilabelProbe(NetworkMultilabel, MLPHead):
    """Fully connected layers → K logits; `hidden=()` is linear, trained by gradient.

    Parameters are those of `MLPHead`.
    """


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """1/(1 + exp(-score))."""
    return torch.from_numpy(scores).sigmoid().numpy()
