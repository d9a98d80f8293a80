"""How alike two representations of the same pictures are, and how spread out one is.

All functions take (N, D1) and (N, D2) features, row i of both being picture i: numpy arrays,
torch tensors or data sets of files; they compute in float64 and hold one table of each side in
memory as float64 unless they say otherwise. None makes an N × N matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from probes.lazy import Rows
from probes.neighbours import nearest

BLOCK = 1024


def linear_cka(X: Any, Y: Any, debiased: bool = False) -> float:
    """Centred kernel alignment with linear kernels K = XX', L = YY'.

        CKA = HSIC(K, L) / sqrt(HSIC(K, K)·HSIC(L, L))

    HSIC is tr(KHLH) with H the centring matrix; debiased, with K~ and L~ the kernels whose
    diagonals are set to 0,

        [tr(K~L~) + 1'K~1·1'L~1/((n-1)(n-2)) - 2/(n-2)·1'K~L~1] / (n(n-3)).

    Time N·D1·D2 and memory D1·D2, or time N²·(D1 + D2) in blocks where N is the smaller.

    Args:
        debiased: close to 0 for unrelated features of any width, where the plain one grows
            with D/N; may be negative.

    Returns:
        At most 1, which means equal up to rotation, scale and shift.

    Raises:
        ValueError: lengths that differ, fewer than 2 (4) pictures, constant features, nan.

    Source: Kornblith et al. 2019, section 3; Song et al. 2012, equation 5; Nguyen et al. 2021.
    """
    x, y = _pair(X, Y, 4 if debiased else 2)
    x, y = x - x.mean(0), y - y.mean(0)  # the debiased form does not change by it
    hsic = _debiased_hsic if debiased else _cross
    own = hsic(x, x), hsic(y, y)
    return _ratio(hsic(x, y), *own)


def mutual_knn(X: Any, Y: Any, k: int = 10, metric: str = "cosine") -> float:
    """The share of a picture's k neighbours that both representations agree on, in [0, 1].

        mean_i |kNN_X(i) & kNN_Y(i)| / k; no picture is its own neighbour.

    Args:
        k: at most N - 1.
        metric: "cosine", "euclidean" or "dot".

    Returns:
        A share in [0, 1]; 1 where the neighbours are the same.

    Raises:
        ValueError: lengths that differ, k too large, nan.

    Source: Huh et al. 2024, section 2 and appendix A.
    """
    x, y = _pair(X, Y, 2)
    return float(_shared(_near(x, k, metric), _near(y, k, metric)).double().mean())


def cknna(X: Any, Y: Any, k: int = 10) -> float:
    """Centred kernel nearest-neighbour alignment, as its formula has it.

        Align(K, L) = 1/(n-1)² · sum_ij a_ij (K_ij - mean_l K_il)(L_ij - mean_l L_il)
        CKNNA = Align(K, L) / sqrt(Align(K, K)·Align(L, L))

    with K = XX', L = YY', and a_ij = 1 where i != j and j is among the k neighbours of i, those
    of the largest K_ij and the largest L_ij. Features are taken as they come.

    Args:
        k: at most N - 1; with N - 1 it is CKA without the diagonal, centred by rows.

    Returns:
        In [-1, 1]; 1 where both are the same.

    Raises:
        ValueError: lengths that differ, k too large, no common structure, nan.

    Source: Huh et al. 2024, appendix A; Yu et al. 2025 (REPA), appendix.
    """
    x, y = _pair(X, Y, 2)
    near_x, near_y = _near(x, k, "dot"), _near(y, k, "dot")
    both = _shared(near_x, near_y)

    def centred(v: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        return _entries(v, near) - (v @ v.mean(0))[:, None]

    left = centred(x, near_x)
    between = (both * left * centred(y, near_x)).sum()
    return _ratio(between, left.square().sum(), centred(y, near_y).square().sum())


def cknna_public(X: Any, Y: Any, k: int = 10, quantile: float = 0.95) -> float:
    """The variant of CKNNA that public code computes; not comparable with `cknna`.

    Features are clamped at the `quantile` of all absolute values, rows are then normalised to
    length 1. Kernels are set to 0 outside a_ij (see `cknna`), then

        score = U(aK, aL) / (sqrt(U(aK, aK)·U(aL, aL)) + 1e-6)

    with U the debiased HSIC of `linear_cka`, tr(K~L~) being sum_ij K~_ij L~_ji.

    Args:
        k: 2 … N - 1.
        quantile: 1 clamps nothing.

    Returns:
        Nearly 1 where both are the same.

    Raises:
        ValueError: lengths that differ, fewer than 4 pictures, k out of range, nan.

    Source: the code of Huh et al. 2024 (platonic-rep, metrics.py).
    """
    if k < 2:
        raise ValueError(f"k={k}; expected at least 2")
    x, y = (_clamped(v, quantile) for v in _pair(X, Y, 4))
    near_x, near_y = _near(x, k, "dot"), _near(y, k, "dot")
    both = _shared(near_x, near_y)
    between = _sparse_hsic(near_x, both * _entries(x, near_x), both * _entries(y, near_x))
    own = []
    for v, near in ((x, near_x), (y, near_y)):
        entries = _entries(v, near)
        own.append(_sparse_hsic(near, entries, entries))
    return float(between / ((own[0] * own[1]).clamp_min(0).sqrt() + 1e-6))


def alignment(X: Any, Y: Any, power: float = 2.0, normalise: bool = True) -> float:
    """How near two noisings of a picture are: mean_i ||x_i - y_i||^power; 0 is best.

    Args:
        X, Y: (N, D) features of the same pictures, each noised on its own.
        normalise: rows to length 1 first, as the definition wants.

    Returns:
        At least 0, where both noisings give the same.

    Raises:
        ValueError: shapes that differ, nan.

    Source: Wang & Isola 2020, section 4.1; used by Xiang et al. 2023 (DDAE).
    """
    x, y = _pair(X, Y, 1)
    if x.shape != y.shape:
        raise ValueError(f"X has {x.shape[1]} features, Y {y.shape[1]}; expected the same block "
                         "and t of the same pictures")  # fmt: skip
    if normalise:
        x, y = (torch.nn.functional.normalize(v, dim=1) for v in (x, y))
    return float(torch.linalg.vector_norm(x - y, dim=1).pow(power).mean())


def uniformity(X: Any, scale: float = 2.0, normalise: bool = True) -> float:
    """How spread out features are: log mean_{i<j} exp(-scale·||x_i - x_j||²); lower is better.

    In blocks of 1,024 × N distances.

    Args:
        X: (N, D).
        normalise: rows to length 1 first, as the definition wants.

    Returns:
        At most 0, where all are the same.

    Raises:
        ValueError: fewer than 2 pictures, nan.

    Source: Wang & Isola 2020, section 4.2; used by Xiang et al. 2023 (DDAE).
    """
    x = _table(X, "X", 2)
    x = torch.nn.functional.normalize(x, dim=1) if normalise else x - x.mean(0)
    squares, logs = x.square().sum(1), []
    for start in range(0, len(x), BLOCK):
        part = slice(start, start + BLOCK)
        distance = squares[part, None] + squares - 2 * x[part] @ x.T
        later = torch.arange(len(x)) > torch.arange(len(x))[part, None]
        logs.append(-scale * distance.clamp_min(0)[later])
    total = torch.stack([piece.logsumexp(0) for piece in logs if len(piece)]).logsumexp(0)
    return float(total - np.log(len(x) * (len(x) - 1) / 2))


def _table(X: Any, name: str, least: int) -> torch.Tensor:
    rows = Rows(X, name, np.float64)
    if len(rows.shape) != 2 or len(rows) < least or not rows.shape[1]:
        raise ValueError(f"{name} has shape {rows.shape}; expected (pictures, features) of at "
                         f"least {least} pictures")  # fmt: skip
    return torch.from_numpy(rows[:].copy())


def _pair(X: Any, Y: Any, least: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = _table(X, "X", least), _table(Y, "Y", least)
    if len(x) != len(y):
        raise ValueError(f"X has {len(x)} pictures, Y {len(y)}; expected the same pictures")
    return x, y


def _ratio(between: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> float:
    if not (x > 0 and y > 0):
        raise ValueError("features without spread (all pictures the same); expected some that vary")
    return float(between / (x * y).sqrt())


def _cross(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """tr(XX'YY') = ||X'Y||², by the shorter way."""
    if x.shape[1] * y.shape[1] <= len(x) ** 2:
        return (x.T @ y).square().sum()
    pairs = zip(x.split(BLOCK), y.split(BLOCK), strict=True)
    return torch.stack([((a @ x.T) * (b @ y.T)).sum() for a, b in pairs]).sum()


def _debiased_hsic(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    n = len(x)
    own_x, own_y = x.square().sum(1), y.square().sum(1)
    rows_x, rows_y = x @ x.sum(0) - own_x, y @ y.sum(0) - own_y
    trace = _cross(x, y) - own_x @ own_y
    return _song(trace, rows_x.sum(), rows_y.sum(), rows_x @ rows_y, n)


def _song(
    trace: torch.Tensor, x: torch.Tensor, y: torch.Tensor, product: torch.Tensor, n: int
) -> torch.Tensor:
    """Equation 5 of Song et al.: of tr(K~L~), 1'K~1, 1'L~1 and 1'K~L~1."""
    return (trace + x * y / ((n - 1) * (n - 2)) - 2 * product / (n - 2)) / (n * (n - 3))


def _near(x: torch.Tensor, k: int, metric: str) -> torch.Tensor:
    rows = Rows(x, "features", np.float64)
    return nearest(rows, rows, k, metric, skip_self=True)[1]


def _shared(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(N, k) whether a neighbour in `first` is one in `second`, too."""
    pieces = zip(first.split(BLOCK), second.split(BLOCK), strict=True)
    return torch.cat([(a[:, :, None] == b[:, None]).any(2) for a, b in pieces])


def _entries(x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """(N, k) products x_i·x_j with the neighbours j of i."""
    pieces = zip(x.split(BLOCK), near.split(BLOCK), strict=True)
    return torch.cat([(x[j] @ a[:, :, None])[:, :, 0] for a, j in pieces])


def _clamped(x: torch.Tensor, quantile: float) -> torch.Tensor:
    if quantile < 1:
        size = x.abs().flatten().sort().values[int(quantile * x.numel())]
        x = x.clamp(-size, size)
    return torch.nn.functional.normalize(x, dim=1)


def _sparse_hsic(near: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Debiased HSIC of two (N, N) kernels with entries (i, near_ij) only, neither symmetric."""
    n = len(near)
    ends = np.arange(n + 1) * near.shape[1]
    here, there = (
        csr_array((values.flatten().numpy(), near.flatten().numpy(), ends), shape=(n, n))
        for values in (first, second)
    )
    columns = torch.zeros(n, dtype=first.dtype).scatter_add_(0, near.flatten(), first.flatten())
    trace = here.multiply(there.T).sum()
    return _song(trace, first.sum(), second.sum(), columns @ second.sum(1), n)
