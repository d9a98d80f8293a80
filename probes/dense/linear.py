"""Linear heads of pixels: ridge over every pixel in closed form, logistic over a sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import linalg

from probes.cells import Cells
from probes.checks import check_choice, check_number, pick_device
from probes.dense.base import Segmenter, Strips
from probes.dense.column import Column
from probes.dense.grams import WIDE, PixelSums, as_tensor
from probes.dense.truth import Masks
from probes.held_out import split_rows, validation_share
from probes.linear import LinearProbe
from probes.maps import Maps
from probes.metrics.classification import ConfusionMatrix
from probes.standardise import varies

ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
KINDS = ("ridge", "logistic")
WEIGHTS = (None, "balanced")


@dataclass(eq=False, repr=False, kw_only=True)
class PixelLinear(Segmenter):
    """A linear classifier of pixels, on the hypercolumn of all cells.

    Features are standardised by the moments of all labelled training pixels, z. "ridge" takes all
    of them, in closed form, from sums worked out on the maps' grids (`probes.dense.grams`):

        min over W, b of  1/Σw · Σ_p w_p·|W·z_p + b − y_p|² + alpha·|W|²,    y_p one-hot

    so that alpha means the same for any number of pixels. "logistic" is multinomial logistic
    regression (`probes.LinearProbe`) on n = `pixels` pixels drawn evenly over the pictures (a class
    of which none is drawn counts as not seen):

        min over W, b of  1/n · Σ_p CE(softmax(W·z_p + b), y_p) + alpha/2·|W|²

    Args:
        kind: "ridge" or "logistic".
        alphas: to choose from on validation pictures, by mean IoU; without these the one in the
            middle, upper of two, is taken.
        class_weight: None: every labelled pixel counts 1; "balanced": every class the same.
        standardise: False for features as they come, of "ridge".
        pixels: that "logistic" is fitted on.
        validation_fraction: share of the groups that is held back for the choice; then all of
            them are fitted. Not used where `fit` is given validation pictures.
        memory_mb: that sums of products ("ridge": 16·C² bytes) or drawn pixels ("logistic": 8·C
            bytes each) may take, in MiB. 8,448 channels need about 1,290.
        random_state: of what is drawn.
        device: where predictions are made; "auto" is the CPU.

    Attributes:
        coef_: (K, C) float32 and intercept_: (K,) float32, of features as they come.
        alpha_: the penalty taken. scores_: (A,) mean IoU on validation by penalty, or nan.

    Further attributes: see `Segmenter`.
    """

    kind: str = "ridge"
    alphas: Sequence[float] = ALPHAS
    class_weight: str | None = None
    standardise: bool = True
    pixels: int = 50_000
    validation_fraction: float = 0.0
    memory_mb: float = 2048
    random_state: Any = 0
    device: str = "auto"

    def fit(
        self,
        cells: Any,
        masks: Any,
        validation: Any = None,
        *,
        classes: int | Sequence[str] | None = None,
        ignore: int = 255,
        groups: Any = None,
    ):
        """Fit the classifier.

        Args:
            cells: `probes.Cells` of (N, C, h, w) maps, with the pictures' sizes.
            masks: N (H, W) label maps of the pictures' size.
            validation: what chooses alpha: (cells, masks), or a share of the groups. None:
                `validation_fraction`.
            classes: K or K names; None: as many as the labels say.
            ignore: label of pixels that do not count.
            groups: (N,) of the pictures; None: each is its own.

        Returns:
            self.

        Raises:
            ValueError: see `probes.dense.truth.Masks`; no pixel counts; parameters out of range;
                sums that take more than `memory_mb`.
        """
        self._check()
        cells, truth = self._opened(cells, masks, classes, ignore)
        fold = fold_of(self, cells, truth, validation, groups)
        self.scores_ = np.full(len(self.alphas), np.nan)
        best, prepared = len(self.alphas) // 2, None
        if fold is not None and len(self.alphas) > 1:
            (inner, inner_truth), (held, held_truth) = fold
            tried = self._prepared(inner, inner_truth, several=True)
            self.scores_ = self._validated(tried, held, held_truth)
            best = int(np.argmax(self.scores_))
            prepared = tried if inner is cells else None
            del tried
        self.alpha_ = float(self.alphas[best])
        prepared = prepared or self._prepared(cells, truth)
        self._note_seen(prepared.counts)
        self.coef_, self.intercept_ = prepared.solved(self.alpha_)
        return self

    def _check(self) -> None:
        check_choice("kind", self.kind, KINDS)
        check_choice("class_weight", self.class_weight, WEIGHTS)
        check_alphas(self.alphas)
        if self.kind != "ridge" and not self.standardise:
            raise ValueError("standardise=False is for kind='ridge'; the logistic one always "
                             "standardises")  # fmt: skip

    def _prepared(self, cells: Cells, truth: Masks, several: bool = False):
        if self.kind == "ridge":
            return RidgeSums(self, cells, truth, several)
        return Sample(self, cells, truth)

    def _validated(self, prepared, held: Cells, truth: Masks) -> np.ndarray:
        """(A,) mean IoU by penalty; every map is read once."""
        solved = [prepared.solved(alpha) for alpha in self.alphas]
        K = len(self.classes_)
        weight = torch.cat([as_tensor(coef) for coef, _ in solved])
        bias = torch.cat([as_tensor(intercept) for _, intercept in solved])
        counted = [ConfusionMatrix(K, self.ignore_) for _ in solved]
        unseen = torch.from_numpy(prepared.counts == 0)
        for row in range(len(held)):
            labels = truth[row]
            for first, strip in Column(held.maps(row), self.cells_).linear(weight, bias):
                scores = strip.unflatten(0, (len(solved), K))
                scores[:, unseen] = float("-inf")
                found = scores.numpy().argmax(1)  # several times as fast as torch.argmax
                known = labels[first : first + strip.shape[1]]
                for one, matrix in zip(found, counted, strict=True):
                    matrix.update(one, known)
        return np.array([matrix.jaccard("macro") for matrix in counted])

    def _strips(self, maps: Maps) -> Strips:
        column = Column(maps, self.cells_, pick_device(self.device, None))
        return column.linear(as_tensor(self.coef_), as_tensor(self.intercept_))


class RidgeSums:
    """What ridge needs of all labelled pixels, to be solved for one penalty or `several`."""

    def __init__(self, head: PixelLinear, cells: Cells, truth: Masks, several: bool):
        channels, K = head.channels, truth.classes
        check_memory(channels, head.memory_mb)
        weights = np.ones(K) if head.class_weight is None else balanced(label_counts(truth))
        sums, self.counts = PixelSums(channels, K), np.zeros(K, np.int64)
        for row in range(len(cells)):
            labels = truth[row]
            known = (labels >= 0) & (labels < K)
            self.counts += np.bincount(labels[known], minlength=K)
            w = np.where(known, weights[np.where(known, labels, 0)], 0.0)
            if w.any():
                column = Column(cells.maps(row), head.cells_)
                sums.add_labels(column, w, labels)
        self.ridge = Ridge(sums, head.standardise, several)

    def solved(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """(K, C) coefficients and (K,) intercepts."""
        return self.ridge.solved(alpha)


class Ridge:
    """Least squares with a penalty from sums over pixels, which it uses up.

    Several penalties are solved from one eigendecomposition, a single one by Cholesky's, unless it
    is below rounding errors. Constant features have the coefficient 0.

    Args:
        standardise: whether the penalty is of features of variance 1, or as they come.
        several: whether there will be several penalties.
    """

    def __init__(self, sums: PixelSums, standardise: bool = True, several: bool = True):
        if not sums.weight:
            raise ValueError("every pixel is ignored; expected some that count")
        self.mean, deviation = sums.moments()
        keep = varies(torch.from_numpy(deviation), torch.from_numpy(self.mean)).numpy()
        self.factor = np.where(keep, 1 / np.where(keep & standardise, deviation, 1), 0.0)
        self.offset = sums.y / sums.weight
        crossed = sums.xy / sums.weight - np.outer(self.mean, self.offset)
        self.crossed = crossed * self.factor[:, None]  # (C, D)
        self.covariance, self.spectrum = sums.xx, None
        self.covariance /= sums.weight
        for first in range(0, len(self.mean), WIDE):
            some = slice(first, first + WIDE)
            self.covariance[some] -= np.outer(self.mean[some], self.mean)
            self.covariance[some] *= np.outer(self.factor[some], self.factor)
        if several:
            self._decompose()

    def _decompose(self) -> None:
        values, vectors = linalg.eigh(self.covariance.T, overwrite_a=True, driver="evr")
        self.spectrum = values, vectors, vectors.T @ self.crossed
        del self.covariance

    def solved(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """(D, C) coefficients and (D,) intercepts, float32, of features as they come."""
        if self.spectrum is None and alpha <= rounding(np.trace(self.covariance), len(self.mean)):
            self._decompose()
        if self.spectrum is None:
            matrix = self.covariance.T.copy(order="F")
            matrix[np.diag_indices_from(matrix)] += alpha
            found = linalg.cho_solve(linalg.cho_factor(matrix, overwrite_a=True), self.crossed)
        else:
            values, vectors, projected = self.spectrum
            real = values > rounding(values[-1], len(values))
            factor = np.where(real, 1 / (np.maximum(values, 0) + alpha), 0)
            found = vectors @ (projected * factor[:, None])
        coef = found.T * self.factor
        return coef.astype(np.float32), (self.offset - coef @ self.mean).astype(np.float32)


def rounding(most: float, channels: int) -> float:
    """What eigenvalues are off by, where `most` is the largest or their sum."""
    return float(np.finfo(np.float64).eps * channels * max(most, 0))


class Sample:
    """Pixels drawn evenly over the pictures, for heads that want them in memory."""

    def __init__(self, head: PixelLinear, cells: Cells, truth: Masks):
        rng, channels = np.random.default_rng(head.random_state), head.channels
        each = max(1, -(-head.pixels // len(cells)))
        check_sample(each * len(cells), channels, head.memory_mb)
        X, labels = np.empty((each * len(cells), channels), np.float32), [np.empty(0, np.int64)]
        held = 0
        for row in range(len(cells)):
            mask = truth[row]
            known = np.flatnonzero((mask >= 0) & (mask < truth.classes))
            some = np.sort(rng.permutation(known)[:each])
            if len(some):
                at = np.stack(np.divmod(some, mask.shape[1]), 1)
                X[held : held + len(some)] = Column(cells.maps(row), head.cells_).at(at).numpy()
                labels.append(mask.ravel()[some])
                held += len(some)
        self.X, self.y = X[:held], np.concatenate(labels)
        if not held:
            raise ValueError("every pixel is ignored; expected some that count")
        self.counts = np.bincount(self.y, minlength=truth.classes)
        self.K, self.weighted = truth.classes, head.class_weight
        if self.weighted == "balanced":
            self.X, self.y = _balanced(self.X, self.y, rng)

    def solved(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        """(K, C) coefficients and (K,) intercepts, of features as they come."""
        K, channels = self.K, self.X.shape[1]
        there = np.unique(self.y)
        coef, intercept = np.zeros((K, channels), np.float32), np.zeros(K, np.float32)
        if len(there) < 2:
            return coef, intercept
        head = LinearProbe(C=1 / (alpha * len(self.y)), tol=1e-5).fit(self.X, self.y)
        coef[there], intercept[there] = head.coef_, head.intercept_
        return coef, intercept


def _balanced(X: np.ndarray, y: np.ndarray, rng: np.random.Generator):
    """Rows drawn with replacement so that classes are even."""
    each = max(1, len(y) // len(np.unique(y)))
    rows = np.concatenate([rng.choice(np.flatnonzero(y == k), each) for k in np.unique(y)])
    return X[rows], y[rows]


def label_counts(truth: Masks) -> np.ndarray:
    """(K,) labelled pixels; masks are read once."""
    return sum(np.bincount(labels[(labels >= 0) & (labels < truth.classes)],
                           minlength=truth.classes) for labels in truth)  # fmt: skip


def balanced(counts: np.ndarray) -> np.ndarray:
    """(K,) weights of a pixel by class: all classes the same, 1 on average over pixels."""
    return counts.sum() / np.maximum(counts, 1) / max(1, (counts > 0).sum())


def fold_of(head: Any, cells: Cells, truth: Any, validation: Any, groups: Any) -> Any:
    """(cells, truth) of the pictures that a choice is fitted on, and of those that choose.

    Args:
        head: with `validation_fraction` and `random_state`.
        truth: `Masks` or `DepthMaps`.
        validation, groups: as given to `fit`.

    Returns:
        None, where there is nothing to choose by.
    """
    share = validation_share(validation, head.validation_fraction, truth.name)
    if isinstance(validation, (tuple, list)):
        held = head._checked(validation[0])
        return (cells, truth), (held, truth.like(validation[1], held))
    if not share:
        return None
    rng = np.random.default_rng(head.random_state)
    rows, kept = split_rows(len(cells), share, groups, rng)
    return tuple((cells[some], truth.take(some, cells[some])) for some in (rows, kept))


def check_alphas(alphas: Sequence[float]) -> None:
    """ValueError where these are no penalties."""
    good = len(tuple(alphas)) > 0 and min(alphas) > 0
    check_number("alphas", alphas, good, "numbers > 0, at least one")


def check_memory(channels: int, memory_mb: float) -> None:
    """ValueError where sums of products of so many channels do not fit."""
    wide = min(WIDE, channels)
    needed = (
        8 * (2 * channels**2 + 3 * channels * wide) / 2**20
    )  # sums, vectors; a block's products
    if needed > memory_mb:
        raise ValueError(
            f"ridge over {channels:,} channels takes {needed:,.0f} MiB for products, and "
            f"memory_mb={memory_mb:g}; allow more, take fewer cells or channels (a PCA), or "
            "PixelMLPEnsemble, which needs none"
        )


def check_sample(pixels: int, channels: int, memory_mb: float) -> None:
    """ValueError where so many pixels and their standardised copy do not fit."""
    needed = 2 * 4 * pixels * channels / 2**20
    if needed > memory_mb:
        fewer = int(pixels * memory_mb / needed)
        raise ValueError(
            f"{pixels:,} pixels of {channels:,} channels take {needed:,.0f} MiB, and "
            f"memory_mb={memory_mb:g}; allow more, take pixels={fewer}, or kind='ridge'"
        )
