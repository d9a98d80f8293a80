"""Ridge regression from sums alone: Gram matrices in float64, added up over pieces.

With Z the standardised features (N, D) and Y the targets (real numbers, or +1 for a picture's
class and -1 for the others), ridge regression of penalty alpha minimises
||Y - ZW - 1b'||² + alpha·||W||². With the eigenvectors V and eigenvalues e of Z'Z it is
W = V diag(1/(e + alpha)) V'Z'Y for every alpha at once.

Source: Hastie, Tibshirani & Friedman 2009, section 3.4.1; Golub, Heath & Wahba 1979 (GCV).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from probes.lazy import CHUNK_BYTES, Rows, as_tensor
from probes.standardise import varies

ALPHAS = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5)


@dataclass
class Solved:
    """One decomposition of G cells, which serves every alpha.

    Attributes:
        vectors: (G, D, R) from eigenvectors to weights for features as they come.
        values: (G, R) eigenvalues e >= 0.
        products: (G, R, K) eigenvectors times centred targets, over sqrt(e): V'Z'Y/sqrt(e).
        mean: (G, D) of the features.
        centre: (K,) means of the targets.
        total: their squares about these, over pictures and outputs.
        n: pictures.
    """

    vectors: torch.Tensor
    values: torch.Tensor
    products: torch.Tensor
    mean: torch.Tensor
    centre: torch.Tensor
    total: torch.Tensor
    n: int

    def weights(self, alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(G, K, D) weights and (G, K) intercepts for alpha (G,)."""
        factor = self.values.sqrt() / (self.values + alpha[:, None])
        weights = torch.bmm(self.vectors, factor[:, :, None] * self.products).mT
        return weights, self.centre - torch.bmm(weights, self.mean[:, :, None])[:, :, 0]

    def gcv(self, alphas: torch.Tensor) -> torch.Tensor:
        """(P, G) generalised cross-validation, summed over the outputs.

        n·||(1 - A)Y||² / (n - tr A)², with A the matrix from targets to predictions.
        """
        explained = self.products.square().sum(2)
        outside = (self.total - explained.sum(1)).clamp_min(0)
        keep = alphas[:, None, None] / (self.values + alphas[:, None, None])
        left = outside + (keep.square() * explained).sum(2)
        freedom = self.n - 1 - (1 - keep).sum(2)
        return self.n * left / freedom.square()


class Grams:
    """Sums over pictures for G cells of width D, targets ±1 by class; pieces in any number.

    Args:
        cells, width, outputs: G, D and K.
        device: where they lie.
    """

    def __init__(self, cells: int, width: int, outputs: int, device: torch.device):
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.counts = zeros(outputs)
        self.shift, self.by_class = zeros(cells, 1, width), zeros(cells, outputs, width)
        self.squares = zeros(cells, width, width)

    def count(self, targets: torch.Tensor) -> torch.Tensor:
        """Take note of (n,) classes; gives the (K, n) matrix that `add` wants."""
        truth = torch.nn.functional.one_hot(targets, len(self.counts)).T.double()
        truth = truth.to(self.counts.device)
        self.counts += truth.sum(1)
        return truth

    def add(self, cells: slice, x: torch.Tensor, truth: torch.Tensor, first: bool) -> None:
        """Add n pictures (G', n, D) of some cells; `first` if these are their first."""
        x = x.double()
        if first:  # sums about a point near the mean lose no digits
            self.shift[cells] = x.mean(1, keepdim=True)
        x = x - self.shift[cells]
        self.by_class[cells] += torch.matmul(truth, x)
        self.squares[cells] += torch.bmm(x.mT, x)

    def solve(self, standardised: bool) -> Solved:
        """Decompose every cell. Standardised features have variance 1, or 0 if constant."""
        n = int(self.counts.sum())
        about = self.by_class.sum(1, keepdim=True) / n
        products = 2 * (self.by_class - self.counts[:, None] * about)
        return self._decompose(standardised, n, about, products, *moments_of_classes(self.counts))

    def _decompose(
        self, standardised: bool, n: int, about: torch.Tensor, products: torch.Tensor, centre, total
    ) -> Solved:
        """From the mean (G, 1, D) less the shift, and Y'X (G, K, D) about the means."""
        squares = self.squares - n * about.mT * about
        mean, factor = (self.shift + about)[:, 0], torch.ones_like(about[:, 0])
        if standardised:
            spread = (squares.diagonal(dim1=1, dim2=2).clamp_min(0) / n).sqrt()
            factor = torch.where(varies(spread, mean), 1 / spread, 0)
        squares = squares * factor[:, :, None] * factor[:, None, :]
        values, vectors = torch.linalg.eigh(squares)
        values, rooted = clean(values)
        products = torch.bmm(vectors.mT, (products * factor[:, None]).mT) * rooted[:, :, None]
        vectors = vectors * factor[:, :, None]
        return Solved(vectors, values, products, mean, centre, total, n)

    @staticmethod
    def centred(targets: torch.Tensor, outputs: int) -> tuple[torch.Tensor, ...]:
        """Of (N,) classes: ±1 about their means (N, K), the means (K,), and `Solved.total`."""
        truth = torch.nn.functional.one_hot(targets, outputs).double()
        shares = truth.mean(0)
        return 2 * (truth - shares), *moments_of_classes(truth.sum(0))


def moments_of_classes(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Means (K,) of ±1 by class, and their squares about these, from (K,) counts."""
    n = int(counts.sum())
    shares = counts / n
    return 2 * shares - 1, 4 * n * (shares * (1 - shares)).sum()


class NumberGrams(Grams):
    """The same for (N, M) real numbers as targets; a further output of ones counts pictures."""

    def __init__(self, cells: int, width: int, outputs: int, device: torch.device):
        super().__init__(cells, width, outputs + 1, device)
        self.squared = self.counts.new_zeros(outputs)

    def count(self, targets: torch.Tensor) -> torch.Tensor:
        """Take note of (n, M) numbers; gives the (M + 1, n) matrix that `add` wants."""
        truth = torch.cat([targets.double(), targets.new_ones(len(targets), 1).double()], 1)
        truth = truth.to(self.counts.device)
        self.counts += truth.sum(0)
        self.squared += truth[:, :-1].square().sum(0)
        return truth.T

    def solve(self, standardised: bool) -> Solved:
        n = int(self.counts[-1])
        about = self.by_class[:, -1:] / n
        products = (self.by_class - self.counts[:, None] * about)[:, :-1]
        centre = self.counts[:-1] / n
        total = (self.squared - n * centre.square()).sum()
        return self._decompose(standardised, n, about, products, centre, total)

    @staticmethod
    def centred(targets: torch.Tensor, outputs: int) -> tuple[torch.Tensor, ...]:
        """Of (N, M) numbers: about their means, the means (M,), and `Solved.total`."""
        centre = targets.double().mean(0)
        centred = targets.double() - centre
        return centred, centre, centred.square().sum()


def clean(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues, 0 where they are rounding errors; and 1/sqrt of those that are not 0."""
    least = values.amax(-1, keepdim=True).clamp_min(0) * values.shape[-1] * 2.3e-16
    values = torch.where(values > least, values, 0)
    return values, torch.where(values > 0, values.rsqrt(), 0)


def solve_rows(
    rows: Rows,
    targets: torch.Tensor,
    outputs: int,
    kind: type[Grams],
    standardised: bool,
    device: torch.device,
) -> Solved:
    """One cell that is read in pieces: from D² sums, or where D > N from the N² of the dual.

    Args:
        rows: (N, D) features.
        targets: (N,) classes or (N, M) numbers, as `kind` takes them.
        outputs: K or M.
    """
    if rows.shape[1] > rows.shape[0]:
        return _solve_wide(rows, targets, outputs, kind, standardised, device)
    grams = kind(1, rows.shape[1], outputs, device)
    for start, x in rows.chunks():
        truth = grams.count(targets[start : start + len(x)])
        grams.add(slice(0, 1), as_tensor(x)[None].to(device), truth, start == 0)
    return grams.solve(standardised)


def _solve_wide(rows, targets, outputs: int, kind, standardised: bool, device) -> Solved:
    n, width = rows.shape
    kernel = torch.zeros(n, n, dtype=torch.float64, device=device)
    mean = torch.zeros(width, dtype=torch.float64, device=device)
    factor = torch.ones_like(mean)
    for part, x in _columns(rows, device):
        mean[part] = x.mean(0)
        x = x - mean[part]
        if standardised:
            spread = x.square().mean(0).sqrt()
            factor[part] = torch.where(varies(spread, mean[part]), 1 / spread, 0)
        x = x * factor[part]
        kernel += x @ x.T
    centred, centre, total = kind.centred(targets.to(device), outputs)
    values, products, back = _dual(kernel, centred)
    vectors = torch.empty(1, width, n, dtype=torch.float64, device=device)
    for part, x in _columns(rows, device):
        vectors[0, part] = factor[part, None] ** 2 * ((x - mean[part]).T @ back)
    return Solved(vectors, values, products, mean[None], centre, total, n)


def _columns(rows: Rows, device: torch.device) -> Iterator[tuple[slice, torch.Tensor]]:
    """(columns, their (N, …) float64 values), in pieces of about CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // (8 * len(rows)))
    for start in range(0, rows.shape[1], step):
        part = slice(start, start + step)
        x = Rows(rows.values[:, part], rows.name, rows.dtype)[:]
        yield part, as_tensor(x).to(device).double()


def _dual(kernel: torch.Tensor, centred: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """From Z Z' instead of Z'Z.

    Args:
        kernel: (N, N) float64 products of standardised rows.
        centred: (N, K) targets about their means.

    Returns:
        (1, R) eigenvalues; (1, R, K) products as in `Solved`; (N, R): Z' times it gives the
        vectors of `Solved`.
    """
    values, vectors = torch.linalg.eigh(kernel)
    values, rooted = clean(values)
    inside = (values > 0).double()
    products = inside[:, None] * (vectors.T @ centred)
    return values[None], products[None], vectors * rooted
