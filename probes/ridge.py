"""The ridge probe: a linear classifier in closed form, its penalty chosen without validation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from probes.checks import accuracy, encode_labels, known_labels, open_vectors, pick_device
from probes.grams import ALPHAS, Grams, Solved, solve_rows
from probes.lazy import CHUNK_BYTES
from probes.many import ManyProbes, check_parts, check_penalties, open_cells


class RidgeProbe(ClassifierMixin, BaseEstimator):
    """Least squares on +1 (the picture's class) and -1 (the others), with an L2 penalty.

    It minimises ||Y - ZW - 1b'||² + alpha·||W||² on standardised features Z, in closed form:
    what scikit-learn's `RidgeClassifier(alpha)` minimises behind a `StandardScaler`. Of several
    alphas, generalised cross-validation chooses, from one eigendecomposition: the least

        n·||(1 - A)Y||² / (n - tr A)²,   A = 11'/n + Z(Z'Z + alpha)^-1 Z'.

    Gram matrices are added up in float64 over pieces of X, so that memory does not grow with
    N (D² numbers); where D > N the dual reads X by columns (N² numbers).

    Args:
        alphas: penalties to choose from, > 0.
        standardise: False for features as they come.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the CPU.

    Attributes:
        classes_: (K,) the labels, sorted.
        alpha_: the penalty chosen.
        alphas_: (P,) descending.
        gcv_: (P,) their scores.
        coef_: (K, D) float64 weights for features as they come.
        intercept_: (K,) float64.
        n_features_in_: D.

    Source: Golub, Heath & Wahba 1979.
    """

    def __init__(
        self, alphas: Sequence[float] = ALPHAS, standardise: bool = True, device: str = "auto"
    ):
        self.alphas = alphas
        self.standardise = standardise
        self.device = device

    def fit(self, X: Any, y: Any) -> RidgeProbe:
        """Fit the probe.

        Args:
            X: (N, D) features: numpy array, torch tensor or h5py data set (read in pieces).
            y: (N,) labels.

        Raises:
            ValueError: wrong shapes, inf or nan, one class only, alphas not positive.
        """
        self.alphas_ = check_penalties(self.alphas, weakest_last=False)
        device = pick_device(self.device, X)
        rows, y = open_vectors(self, X, y)
        self.classes_, targets = encode_labels(y)
        truth, count = torch.from_numpy(targets), len(self.classes_)
        with torch.no_grad():
            solved = solve_rows(rows, truth, count, Grams, self.standardise, device)
            alphas = torch.from_numpy(self.alphas_.copy()).to(device)
            scores = solved.gcv(alphas)[:, 0]
            best = scores.argmin()
            weights, biases = solved.weights(alphas[best][None])
        self.gcv_, self.alpha_ = scores.cpu().numpy(), float(alphas[best])
        self.coef_, self.intercept_ = weights[0].cpu().numpy(), biases[0].cpu().numpy()
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """(N, K) scores, about +1 or -1; for two classes those (N,) of the second."""
        scores = self._scores(X)
        return scores[:, 1] if len(self.classes_) == 2 else scores

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the class of the largest score."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy in [0, 1].

        Raises:
            ValueError: as `predict`; or not one label per picture.
        """
        return accuracy(self.predict(X), y, sample_weight)

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        rows, _ = open_vectors(self, X, reset=False)
        return np.concatenate([x @ self.coef_.T + self.intercept_ for _, x in rows.chunks()])


class ManyRidge(ManyProbes):
    """A `RidgeProbe` for each of G cells, its penalty chosen on validation.

    Pictures may come in pieces; then only Gram matrices are kept, G·D² float64 numbers:

        many = ManyRidge()
        for X, y in pieces:                 # X (G, n, D)
            many.partial_fit(X, y, classes)
        many.solve(X_validation, y_validation)

    Where D > N, `fit` takes the dual, N² numbers and one cell at a time: the same solution.

    Args:
        penalties: values of alpha to choose from, > 0; strong ones are large.
        standardise: False for features as they come.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the CPU.

    Attributes: see `ManyProbes`; `path_` has no gaps.

    Source: Hastie, Tibshirani & Friedman 2009, section 3.4.1.
    """

    def __init__(
        self, penalties: Sequence[float] = ALPHAS, standardise: bool = True, device: str = "auto"
    ):
        self.penalties = penalties
        self.standardise = standardise
        self.device = device

    def fit(self, X: Any, y: Any, X_validation: Any, y_validation: Any) -> ManyRidge:
        """Fit every cell; arguments and errors as `ManyLogistic.fit`'s."""
        self.penalties_ = check_penalties(self.penalties, weakest_last=False)
        cells, held = open_cells(X), open_cells(X_validation, "X_validation")
        self.classes_, targets = check_parts(cells, y, held)
        truth = known_labels(y_validation, self.classes_, len(held[0]), "y_validation")
        vars(self).pop("grams_", None)
        if cells[0].shape[1] <= len(cells[0]):
            return self.partial_fit(X, y, self.classes_).solve(X_validation, y_validation)
        self._start(len(cells), len(self.classes_), cells[0].shape[1])
        device = pick_device(self.device, cells[0].values)
        for g, cell in enumerate(cells):
            solved = solve_rows(
                cell, torch.from_numpy(targets), len(self.classes_), Grams, self.standardise, device
            )
            x = held[g].tensor(slice(None), device)
            self._choose(g, x, truth, self._every_penalty(solved))
        return self

    def probe(self, g: int) -> RidgeProbe:
        """That of one cell, by itself; its `gcv_` is nan, as validation chose.

        Predictions differ only where two classes tie in float32.
        """
        found = RidgeProbe((float(self.penalty_[g]),), self.standardise, self.device)
        found.alpha_, found.alphas_ = float(self.penalty_[g]), self.penalty_[g : g + 1].copy()
        found.gcv_ = np.array([np.nan])
        return self._handed_on(g, found)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> ManyRidge:
        """Add pictures.

        Args:
            X: (G, n, D).
            y: (n,) labels.
            classes: all that will come; needed in the first call if its y lacks some.

        Raises:
            ValueError: shapes that do not fit those before, or a class not named at first.
        """
        cells = open_cells(X)
        width = cells[0].shape[1]
        if not hasattr(self, "grams_"):
            self.classes_, _ = encode_labels(y if classes is None else classes)
            device = pick_device(self.device, cells[0].values)
            self.grams_ = Grams(len(cells), width, len(self.classes_), device)
        if self.grams_.squares.shape[:2] != (len(cells), width):
            expected = tuple(self.grams_.squares.shape[:2])
            raise ValueError(f"X has {len(cells)} cells of {width} features; expected "
                             f"{expected[0]} of {expected[1]}, as before")  # fmt: skip
        targets = known_labels(y, self.classes_, len(cells[0]), "y")
        first = not self.grams_.counts.any()
        truth = self.grams_.count(torch.from_numpy(targets).to(self.grams_.counts.device))
        step = max(1, 4 * CHUNK_BYTES // (8 * width))
        for g, cell in enumerate(cells):
            for start in range(0, len(cell), step):
                part = slice(start, start + step)
                x = cell.tensor(part, truth.device)[None]
                self.grams_.add(slice(g, g + 1), x, truth[:, part], first and not start)
        return self

    def solve(self, X_validation: Any, y_validation: Any) -> ManyRidge:
        """Decompose the sums, and choose every cell's penalty on validation.

        Args:
            X_validation: (G, M, D).
            y_validation: (M,) labels, of classes that training has.

        Raises:
            ValueError: shapes or labels that do not fit, no validation pictures.
        """
        check_is_fitted(self, "grams_")
        held = open_cells(X_validation, "X_validation")
        grams = self.grams_
        cells, width = grams.squares.shape[:2]
        if (len(held), held[0].shape[1]) != (cells, width):
            raise ValueError(f"X_validation has {len(held)} cells of {held[0].shape[1]} features; "
                             f"expected {cells} of {width}, as in training")  # fmt: skip
        truth = known_labels(y_validation, self.classes_, len(held[0]), "y_validation")
        self.penalties_ = check_penalties(self.penalties, weakest_last=False)
        self._start(cells, len(self.classes_), width)
        kept = list(self._every_penalty(grams.solve(self.standardise)))
        for g, cell in enumerate(held):
            x = cell.tensor(slice(None), grams.counts.device)
            self._choose(g, x, truth, [(weights[g:], biases[g:]) for weights, biases in kept])
        return self

    def _every_penalty(self, solved: Solved) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(G, K, D) weights and (G, K) intercepts of each penalty."""
        for alpha in self.penalties_:
            yield solved.weights(solved.mean.new_full((len(solved.mean),), alpha))

    def _choose(
        self,
        g: int,
        x: torch.Tensor,
        truth: np.ndarray,
        path: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        """Score cell g on x (M, D) at every penalty, and keep the first of the best.

        Args:
            path: weights and intercepts of each penalty; the cell's are the first in them.
        """
        for row, (weights, biases) in enumerate(path):
            found = torch.addmm(biases[0].float(), x, weights[0].T.float()).argmax(1).cpu()
            better = self._note(row, np.array([g]), np.array([(found.numpy() == truth).mean()]))
            if better.any():
                self.coef_[g] = weights[0].cpu().numpy()
                self.intercept_[g] = biases[0].cpu().numpy()
