"""Heads for real numbers: ridge in closed form, and layers trained by gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.checks import check_both, check_numbers, open_vectors, pick_device
from probes.grams import ALPHAS, NumberGrams, solve_rows
from probes.lazy import Rows, as_numpy
from probes.many import check_penalties
from probes.metrics.regression import r2_score
from probes.mlp import MLPHead
from probes.network import NetworkHead
from probes.objectives import SQUARED_ERROR, Objective
from probes.standardise import varies


@dataclass(frozen=True)
class NumberScale:
    """Targets (N, M) brought to mean 0 and variance 1, so that every output counts alike.

    Attributes:
        mean, deviation: (M,) float64, the latter 1 where a target is constant.
        flat: whether y was (N,).
    """

    mean: np.ndarray
    deviation: np.ndarray
    flat: bool

    @classmethod
    def of(cls, y: np.ndarray) -> NumberScale:
        """That of (N,) or (N, M) numbers."""
        flat, y = y.ndim == 1, y.reshape(len(y), -1).astype(np.float64)
        mean, spread = y.mean(0), y.std(0)
        return cls(mean, np.where(varies(spread, mean, "float64"), spread, 1.0), flat)

    def encode(self, y: np.ndarray, name: str = "y") -> np.ndarray:
        """(N, M) float64.

        Raises:
            ValueError: another number of outputs.
        """
        y = y.reshape(len(y), -1)
        if y.shape[1] != len(self.mean):
            raise ValueError(f"{name} has {y.shape[1]} outputs; expected {len(self.mean)}")
        return (y - self.mean) / self.deviation

    def decode(self, z: np.ndarray) -> np.ndarray:
        """Numbers as they were given: (N,) or (N, M)."""
        y = z * self.deviation + self.mean
        return y[:, 0] if self.flat else y


@dataclass
class RidgePath:
    """The weights of one penalty, chosen of several.

    Attributes:
        weights, biases: (M, D) and (M,) float64, for features as they come.
        alpha: the penalty.
        alphas: (P,) descending.
        scores: (P,) what they were chosen by: generalised cross-validation, the least, or a number
            on validation, the largest, of equals that of the strongest penalty.
    """

    weights: np.ndarray
    biases: np.ndarray
    alpha: float
    alphas: np.ndarray
    scores: np.ndarray


def ridge_path(
    rows: Rows,
    targets: np.ndarray,
    alphas: Sequence[float],
    standardised: bool,
    device: torch.device,
    judge: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> RidgePath:
    """Ridge regression for every alpha from one decomposition, and the best of them.

    Args:
        rows: (N, D) features, read in pieces.
        targets: (N, M) float64.
        judge: (weights (M, D), biases (M,)) → a number on validation, the higher the better; None
            chooses by generalised cross-validation.
    """
    alphas = check_penalties(alphas, weakest_last=False)
    with torch.no_grad():
        solved = solve_rows(
            rows, torch.from_numpy(targets), targets.shape[1], NumberGrams, standardised, device
        )
        values = torch.from_numpy(alphas.copy()).to(device)
        path = [tuple(part[0].cpu().numpy() for part in solved.weights(a[None])) for a in values]
        if judge is None:
            scores = solved.gcv(values)[:, 0].cpu().numpy()
            best = int(scores.argmin())
        else:
            scores = np.array([judge(*weights) for weights in path])
            best = int(scores.argmax())
    return RidgePath(*path[best], float(alphas[best]), alphas, scores)


def linear_map(rows: Rows, weights: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """(N, M) = X·weights' + biases, read in pieces."""
    return np.concatenate([x @ weights.T + biases for _, x in rows.chunks()])


class RidgeRegressionProbe(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Least squares on real numbers with an L2 penalty, in closed form.

    It minimises ||Y - ZW - 1b'||² + alpha·||W||² on standardised features Z: what scikit-learn's
    `Ridge(alpha)` minimises behind a `StandardScaler`. Of several alphas that with the best R² on
    validation rows is taken, or without these generalised cross-validation chooses (see
    `RidgeProbe`); outputs count alike, whatever their units.

    Args:
        alphas: penalties to choose from, > 0.
        standardise: False for features as they come.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the CPU.

    Attributes:
        alpha_: the penalty chosen, of the (P,) `alphas_`, descending, with their `scores_`: R² on
            validation rows, or the values of generalised cross-validation.
        coef_: (M, D) float64 weights for features as they come.
        intercept_: (M,) float64.
        n_features_in_: D.

    Source: Hoerl & Kennard 1970; Golub, Heath & Wahba 1979.
    """

    def __init__(
        self, alphas: Sequence[float] = ALPHAS, standardise: bool = True, device: str = "auto"
    ):
        self.alphas = alphas
        self.standardise = standardise
        self.device = device

    def fit(
        self, X: Any, y: Any, X_validation: Any = None, y_validation: Any = None
    ) -> RidgeRegressionProbe:
        """Fit the probe.

        Args:
            X: (N, D) features: numpy array, torch tensor or h5py data set (read in pieces).
            y: (N,) or (N, M) numbers.
            X_validation, y_validation: the same, to choose alpha.

        Raises:
            ValueError: wrong shapes, inf or nan, alphas not positive, one of the two missing.
        """
        check_both(X_validation, y_validation)
        device = pick_device(self.device, X)
        rows, y = open_vectors(self, X, y, outputs=True)
        scale, judge = NumberScale.of(y), None
        if X_validation is not None:
            held, _ = open_vectors(self, X_validation, reset=False)
            truth = scale.encode(check_numbers(y_validation, "y_validation"), "y_validation")
            check_consistent_length(held, truth)
            judge = lambda w, b: r2_score(truth, linear_map(held, w, b))  # noqa: E731
        found = ridge_path(rows, scale.encode(y), self.alphas, self.standardise, device, judge)
        self.alpha_, self.alphas_, self.scores_ = found.alpha, found.alphas, found.scores
        self.coef_ = found.weights * scale.deviation[:, None]
        self.intercept_ = found.biases * scale.deviation + scale.mean
        self._flat = scale.flat
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) or (N, M) numbers, as y was."""
        check_is_fitted(self)
        rows, _ = open_vectors(self, X, reset=False)
        found = linear_map(rows, self.coef_, self.intercept_)
        return found[:, 0] if self._flat else found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R², the mean over outputs."""
        return super().score(X, as_numpy(y), sample_weight)


@dataclass(eq=False, repr=False, kw_only=True)
class NetworkRegression(MultiOutputMixin, RegressorMixin, NetworkHead):
    """A head for real numbers: the squared error, validated by R².

    Targets are standardised inside, so that a loss of 1 is that of predicting the mean; what is
    predicted has their units again. All parameters are those of `NetworkHead`.

    Attributes:
        history_: with validation: validation_loss, validation_r2.

    Further attributes: see `NetworkHead`.
    """

    def _objective(self) -> Objective:
        return SQUARED_ERROR

    def _opened_targets(self, y: Any) -> np.ndarray:
        return check_numbers(super()._opened_targets(y))

    def _validated(self, X: Any, y: Any) -> tuple[Rows, np.ndarray]:
        more = {"multi_output": True, "y_numeric": True, "allow_nd": 4 in self._sides}
        X, y = validate_data(self, X, as_numpy(y), dtype="numeric", **more)
        return Rows(X), y

    def _encode(self, y: np.ndarray) -> tuple[Rows, int]:
        self.scale_ = NumberScale.of(y)
        return Rows(self.scale_.encode(y)), len(self.scale_.mean)

    def _encode_again(self, y: Any, count: int) -> Rows:
        y = check_numbers(y, "y_validation")
        return Rows(self.scale_.encode(y, "y_validation"), "y_validation")

    def predict(self, X: Any) -> np.ndarray:
        """(N,) or (N, M) numbers, as y was."""
        outputs = np.concatenate(list(self._predictions(X)))
        return self.scale_.decode(outputs.astype(np.float64))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R², the mean over outputs."""
        return super().score(X, as_numpy(y), sample_weight)


@dataclass(eq=False, repr=False, kw_only=True)
class MLPRegressionProbe(NetworkRegression, MLPHead):
    """Fully connected layers → M real numbers; `hidden=()` is linear, trained by gradient.

    Parameters are those of `MLPHead`.
    """
