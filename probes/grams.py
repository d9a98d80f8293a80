"""Ridge regression from sums alone: Gram matrices in float64, added up over pieces.

With Z the standardised features (N, D) and Y the targets, +1 for a picture's class and -1 for
the others, ridge regression of penalty alpha minimises ||Y - ZW - 1b'||² + alpha·||W||². With
the eigenvectors V and eigenvalues e of Z'Z it is W = V diag(1/(e + alpha)) V'Z'Y for every
alpha at once.

Source: Hastie, Tibshirani & Friedman 2009, section 3.4.1; Golub, Heath & Wahba 1979 (GCV).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
        shares: (K,) of the classes.
        n: pictures.
    """

    vectors: torch.Tensor
    values: torch.Tensor
    products: torch.Tensor
    mean: torch.Tensor
    shares: torch.Tensor
    n: int

    def weights(self, alpha: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(G, K, D) weights and (G, K) intercepts for alpha (G,)."""
        factor = self.values.sqrt() / (self.values + alpha[:, None])
        weights = torch.bmm(self.vectors, factor[:, :, None] * self.products).mT
        return weights, 2 * self.shares - 1 - torch.bmm(weights, self.mean[:, :, None])[:, :, 0]

    def gcv(self, alphas: torch.Tensor) -> torch.Tensor:
        """(P, G) generalised cross-validation, summed over the classes.

        n·||(1 - A)Y||² / (n - tr A)², with A the matrix from targets to predictions.
        """
        whole = 4 * self.n * (self.shares * (1 - self.shares)).sum()
        explained = self.products.square().sum(2)
        outside = (whole - explained.sum(1)).clamp_min(0)
        keep = alphas[:, None, None] / (self.values + alphas[:, None, None])
        left = outside + (keep.square() * explained).sum(2)
        freedom = self.n - 1 - (1 - keep).sum(2)
        return self.n * left / freedom.square()


class Grams:
    """Sums over pictures for G cells of width D; pieces in any number.

    Args:
        cells, width, classes: G, D and K.
        device: where they lie.
    """

    def __init__(self, cells: int, width: int, classes: int, device: torch.device):
        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.counts = zeros(classes)
        self.shift, self.by_class = zeros(cells, 1, width), zeros(cells, classes, width)
        self.squares = zeros(cells, width, width)

    def count(self, targets: torch.Tensor) -> torch.Tensor:
        """Take note of (n,) classes; gives the (K, n) matrix that `add` wants."""
        truth = torch.nn.functional.one_hot(targets, len(self.counts)).T.double()
        self.counts += truth.sum(1)
        return truth.to(self.counts.device)

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
        squares = self.squares - n * about.mT * about
        products = self.by_class - self.counts[:, None] * about
        factor = torch.ones_like(about[:, 0])
        if standardised:
            spread = (squares.diagonal(dim1=1, dim2=2).clamp_min(0) / n).sqrt()
            size = (self.shift + about)[:, 0]
            factor = torch.where(varies(spread, size), 1 / spread, 0)
        squares = squares * factor[:, :, None] * factor[:, None, :]
        values, vectors = torch.linalg.eigh(squares)
        values, rooted = clean(values)
        products = torch.bmm(vectors.mT, 2 * (products * factor[:, None]).mT) * rooted[:, :, None]
        vectors = vectors * factor[:, :, None]
        mean = (self.shift + about)[:, 0]
        return Solved(vectors, values, products, mean, self.counts / n, n)


def clean(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues, 0 where they are rounding errors; and 1/sqrt of those that are not 0."""
    least = values.amax(-1, keepdim=True).clamp_min(0) * values.shape[-1] * 2.3e-16
    values = torch.where(values > least, values, 0)
    return values, torch.where(values > 0, values.rsqrt(), 0)


def solve_wide(kernel: torch.Tensor, targets: torch.Tensor, classes: int) -> tuple:
    """The dual, for D > N: from Z Z' instead of Z'Z.

    Args:
        kernel: (N, N) float64 products of standardised rows.
        targets: (N,) int64.
        classes: K.

    Returns:
        (1, R) eigenvalues; (1, R, K) products as in `Solved`; (N, R) Z' times it gives the
        vectors of `Solved`; (K,) shares.
    """
    truth = torch.nn.functional.one_hot(targets, classes).double()
    shares = truth.mean(0)
    values, vectors = torch.linalg.eigh(kernel)
    values, rooted = clean(values)
    inside = (values > 0).double()
    products = inside[:, None] * (vectors.T @ (2 * (truth - shares)))
    return values[None], products[None], vectors * rooted, shares
