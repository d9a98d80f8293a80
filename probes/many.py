"""Many probes at once: all (t, block) that share pictures and width are fitted together."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from probes.checks import encode_labels, known_labels, labels_for, pick_device
from probes.lazy import Deferred, Rows
from probes.linear import LinearProbe
from probes.newton import LogisticPath
from probes.standardise import standardise

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
GROUP_BYTES = 4 << 30
"""Features that are on an accelerator at a time."""


def open_cells(X: Any, name: str = "X") -> list[Rows]:
    """G tables (N, D), unread: of an array (G, N, D) or a sequence of G arrays or data sets.

    Raises:
        ValueError: no cells, no tables, or tables of different shapes.
    """
    if not isinstance(X, Sequence | torch.Tensor | np.ndarray) and hasattr(X, "shape"):
        X = [_cell(X, g) for g in range(X.shape[0])] if len(X.shape) == 3 else [X]
    cells = [Rows(X[g], f"{name}[{g}]") for g in range(len(X))]
    shapes = sorted({cell.shape for cell in cells})
    if any(0 in shape for shape in shapes):
        raise ValueError(f"{name} is empty (shape {shapes[0]}); expected pictures and features")
    if len(shapes) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"{name} holds tables of the shapes {shapes}; expected (G, N, D), "
                         "the same pictures and width in every cell")  # fmt: skip
    return cells


def _cell(values: Any, g: int) -> Deferred:
    """One cell of a data set (G, N, D) in a file."""
    return Deferred(values.shape[1:], lambda rows: values[g, rows], values.dtype)


class ManyProbes(BaseEstimator):
    """What the many probes share: a linear map per cell, predictions and the path's bookkeeping.

    Attributes:
        classes_: (K,) the labels, sorted.
        penalties_: (P,) from strong to weak.
        path_: (P, G) validation accuracies; nan where the path had ended.
        penalty_: (G,) the best on validation, of equals the strongest.
        validation_: (G,) its accuracy.
        coef_: (G, K, D) float64 weights for features as they come.
        intercept_: (G, K) float64.
        n_features_in_: D.
    """

    def predict(self, X: Any) -> np.ndarray:
        """(G, M) classes of X (G, M, D).

        Raises:
            ValueError: another number of cells or features than in training; nan or inf.
        """
        check_is_fitted(self)
        cells = open_cells(X)
        if (len(cells), cells[0].shape[1]) != (len(self.coef_), self.n_features_in_):
            raise ValueError(
                f"X has {len(cells)} cells of {cells[0].shape[1]} features; expected "
                f"{len(self.coef_)} cells of {self.n_features_in_}, as in training"
            )
        return self.classes_[np.stack([self._argmax(g, cell) for g, cell in enumerate(cells)])]

    def score(self, X: Any, y: Any) -> np.ndarray:
        """(G,) accuracies in [0, 1].

        Raises:
            ValueError: as `predict`; or not one label per picture.
        """
        found = self.predict(X)
        return (found == labels_for(y, found.shape[1])).mean(1)

    def _handed_on(self, g: int, probe: Any) -> Any:
        """A probe of one cell, given that cell's solution."""
        probe.classes_, probe.n_features_in_ = self.classes_, self.n_features_in_
        probe.coef_, probe.intercept_ = self.coef_[g], self.intercept_[g]
        return probe

    def _argmax(self, g: int, cell: Rows) -> np.ndarray:
        device = pick_device(self.device, cell.values)
        weights = torch.from_numpy(self.coef_[g].T.astype(np.float32)).to(device)
        biases = torch.from_numpy(self.intercept_[g].astype(np.float32)).to(device)
        step = max(1, (64 << 20) // (4 * cell.shape[1]))
        pieces = [
            torch.addmm(biases, cell.tensor(slice(start, start + step), device), weights).argmax(1)
            for start in range(0, len(cell), step)
        ]
        return torch.cat(pieces).cpu().numpy()

    def _start(self, cells: int, classes: int, width: int) -> None:
        self.path_ = np.full((len(self.penalties_), cells), np.nan)
        self.penalty_, self.validation_ = np.full(cells, np.nan), np.full(cells, -1.0)
        self.coef_ = np.zeros((cells, classes, width))
        self.intercept_ = np.zeros((cells, classes))
        self.n_features_in_ = width

    def _note(self, row: int, cells: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
        """Write the accuracies (G',) of a penalty down; which of the cells are best so far."""
        self.path_[row, cells] = accuracy
        better = accuracy > self.validation_[cells]  # of equals, the stronger penalty
        self.validation_[cells[better]] = accuracy[better]
        self.penalty_[cells[better]] = self.penalties_[row]
        return better


class ManyLogistic(ManyProbes):
    """A `LinearProbe` for each of G cells, its penalty chosen on validation, all at once.

    Every cell minimises what `LinearProbe(C)` does, on features standardised by its own
    training part. The path runs from the strongest penalty to the weakest, each starting at the
    last solution, and ends for a cell when its validation accuracy falls by more than one
    standard error, sqrt(a(1 - a)/n): weaker penalties take longest and would only overfit more.

    One Gram matrix per cell serves the whole path (see `probes.newton`). On an accelerator the
    cells run in one batch; on a CPU one after the other, where a batch brings nothing. Cells
    in files are read when their turn comes: memory is that of a few cells.

    Args:
        penalties: values of C to choose from, > 0.
        max_iter: iterations per penalty at most.
        tol: a cell is done when no entry of its gradient is larger. A loose one ends a weak
            penalty early, which then depends on where the path came from.
        device: "cpu", "cuda", …; "auto" is where X lies, if it is a torch tensor, else the CPU.

    Attributes:
        n_iter_: (P, G) iterations taken; max_iter where they did not suffice, of which fit warns.

    Further attributes: see `ManyProbes`.

    Source: Bishop 2006, section 4.3.4; Böhning 1992; Hastie, Tibshirani & Friedman 2009,
    section 7.10 (one standard error).
    """

    def __init__(
        self,
        penalties: Sequence[float] = PENALTIES,
        max_iter: int = 200,
        tol: float = 1e-4,
        device: str = "auto",
    ):
        self.penalties = penalties
        self.max_iter = max_iter
        self.tol = tol
        self.device = device

    def fit(self, X: Any, y: Any, X_validation: Any, y_validation: Any) -> ManyLogistic:
        """Fit every cell.

        Args:
            X: (G, N, D) features, or a sequence of G arrays or data sets (N, D).
            y: (N,) labels, the same for every cell.
            X_validation: (G, M, D) likewise.
            y_validation: (M,) labels, of classes that y has.

        Returns:
            self.

        Raises:
            ValueError: shapes or lengths that do not fit, one class only, a class that training
                lacks, nan or inf, no validation pictures, penalties that are not positive.
        """
        self.penalties_ = check_penalties(self.penalties)
        cells, held = open_cells(X), open_cells(X_validation, "X_validation")
        self.classes_, targets = check_parts(cells, y, held)
        truth = known_labels(y_validation, self.classes_, len(held[0]), "y_validation")
        self._start(len(cells), len(self.classes_), cells[0].shape[1])
        self.n_iter_ = np.zeros_like(self.path_, dtype=np.int64)
        for group in self._groups(cells):
            self._fit_group(group, cells, targets, held, truth)
        self._warn_of_unfinished()
        return self

    def _warn_of_unfinished(self) -> None:
        stopped = self.n_iter_ >= self.max_iter
        if stopped.any():
            weak = self.penalties_[stopped.any(1)].tolist()
            warnings.warn(
                f"{stopped.any(0).sum()} of {stopped.shape[1]} cells stopped after max_iter="
                f"{self.max_iter} at C={weak}; raise it, or leave these C out",
                ConvergenceWarning,
                stacklevel=3,
            )

    def probe(self, g: int) -> LinearProbe:
        """That of one cell, by itself; predictions differ only where two classes tie in float32."""
        found = LinearProbe(float(self.penalty_[g]), self.max_iter, self.tol, self.device)
        row = int(np.flatnonzero(self.penalties_ == self.penalty_[g])[0])
        found.n_iter_ = int(self.n_iter_[row, g])
        return self._handed_on(g, found)

    def _groups(self, cells: list[Rows]) -> Iterator[np.ndarray]:
        size = 1
        if pick_device(self.device, cells[0].values).type != "cpu":
            size = max(1, GROUP_BYTES // (4 * len(cells[0]) * cells[0].shape[1]))
        yield from np.split(np.arange(len(cells)), range(size, len(cells), size))

    def _fit_group(
        self,
        group: np.ndarray,
        cells: list[Rows],
        targets: np.ndarray,
        held: list[Rows],
        truth: np.ndarray,
    ) -> None:
        device = pick_device(self.device, cells[0].values)
        z, mean, scale = standardise([cells[g].tensor(slice(None), device) for g in group])
        path = LogisticPath(z, torch.from_numpy(targets).to(device), len(self.classes_))
        valid = torch.stack([held[g].tensor(slice(None), device) for g in group])
        valid = valid.sub_(mean.float()).div_(scale.float())
        wanted = torch.from_numpy(truth).to(device)
        for row, C in enumerate(self.penalties_):
            theta, taken = path.minimise(1 / (C * len(targets)), self.max_iter, self.tol)
            self.n_iter_[row, group] = taken.cpu().numpy()
            logits = torch.bmm(theta[:, :, :-1], valid.mT).add_(theta[:, :, -1:])
            accuracy = (logits.argmax(1) == wanted).double().mean(1).cpu().numpy()
            better = self._note(row, group, accuracy)
            if better.any():
                self._keep(group[better], *(part[better] for part in (theta, mean, scale)))
            best = self.validation_[group]
            on = accuracy >= best - np.sqrt(best * (1 - best) / len(truth))
            if not on.any():
                break
            if not on.all():
                group, (mean, scale, valid) = group[on], (v[on] for v in (mean, scale, valid))
                path.keep(torch.from_numpy(on).to(device))

    def _keep(
        self, cells: np.ndarray, theta: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor
    ) -> None:
        weights = theta[:, :, :-1].double() / scale
        self.coef_[cells] = weights.cpu().numpy()
        shift = (weights * mean).sum(2)
        self.intercept_[cells] = (theta[:, :, -1].double() - shift).cpu().numpy()


def check_penalties(penalties: Sequence[float], weakest_last: bool = True) -> np.ndarray:
    """(P,) sorted from strong to weak: ascending values of C, descending ones of alpha.

    Raises:
        ValueError: none, or some not positive.
    """
    values = np.sort(np.asarray(penalties, np.float64).reshape(-1))
    if not len(values) or not (values > 0).all() or np.isinf(values).any():
        raise ValueError(f"penalties={penalties}; expected positive numbers, at least one")
    return values if weakest_last else values[::-1].copy()


def check_parts(cells: list[Rows], y: Any, held: list[Rows]) -> tuple[np.ndarray, np.ndarray]:
    """Classes and targets of the training part.

    Raises:
        ValueError: lengths or shapes that do not fit, or one class only.
    """
    y = labels_for(y, len(cells[0]))
    if (len(held), held[0].shape[1]) != (len(cells), cells[0].shape[1]):
        raise ValueError(
            f"X_validation has {len(held)} cells of {held[0].shape[1]} features; expected "
            f"{len(cells)} cells of {cells[0].shape[1]}, as in training"
        )
    return encode_labels(y)
