"""Multinomial logistic regression of many tables at once: L-BFGS preconditioned by the Gram matrix.

With z the features (centred), n pictures and K classes the objective of one table is

    f(W, b) = lambda/2·||W||² + 1/n · sum_i CE(softmax(W'z_i + b), y_i).

Its Hessian is nearly c·(z'z/n) + lambda for every class, with c the mean of p(1 - p): exactly
so at W = 0. L-BFGS that starts from the inverse of this matrix needs 10 to 30 iterations where
plain L-BFGS needs hundreds. An iteration costs two products with z: logits are linear, so the
line search runs along logits that are already there.

Source: Böhning 1992 (a fixed matrix in the Hessian's place); Nocedal & Wright 2006, algorithm
7.4 (the two loops of L-BFGS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from probes.tables import Held, Streamed
from probes.threads import sized

HISTORY = 10
SEARCHES = 20


@dataclass
class Point:
    """Weights, their logits, and what follows from these.

    Attributes:
        theta: (G, K, D + 1) weights, the intercepts as the last column.
        logits: (G, K, N); pictures last, as products and softmax of few classes are several
            times faster so.
        p: (G, K, N) probabilities.
    """

    theta: torch.Tensor
    logits: torch.Tensor
    p: torch.Tensor


class LogisticPath:
    """The objective above for G tables, minimised for one penalty after the other.

    Args:
        z: (G, N, D) centred features, float32 or float64; or a table that lies in a file. Where
            D is so large that no Gram matrix is made, L-BFGS starts from a multiple of 1.
        targets: (N,) int64 classes.
        classes: K.
        theta: (G, K, D + 1) where to begin; zeros if None.
        gram: z'z/n (G, D, D), where it is known.
    """

    def __init__(
        self,
        z: torch.Tensor | Held | Streamed,
        targets: torch.Tensor,
        classes: int,
        theta: torch.Tensor | None = None,
        gram: torch.Tensor | None = None,
    ):
        self.table = Held(z) if isinstance(z, torch.Tensor) else z
        self.gram = self.table.gram() if gram is None else gram
        self.truth = torch.nn.functional.one_hot(targets, classes).T.to(self.table.dtype)
        if theta is None:
            cells, _, width = self.table.shape
            theta = self.truth.new_zeros(cells, classes, width + 1)
        logits = self._products(theta)
        self.at = Point(theta, logits, torch.softmax(logits, 1))

    def keep(self, cells: torch.Tensor) -> None:
        """Go on with some tables only: (G,) bool."""
        self.table = self.table.keep(cells)
        self.gram = None if self.gram is None else self.gram[cells]
        self.at = Point(self.at.theta[cells], self.at.logits[cells], self.at.p[cells])

    def minimise(
        self, penalty: float, max_iter: int, tol: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """From where the last call ended.

        Args:
            penalty: lambda.
            tol: a table is done when no entry of its gradient is larger; in float32 also when
                the next step promises less than 1e-7, all that the objective can resolve.

        Returns:
            (G, K, D + 1) weights, and (G,) iterations; max_iter means that a table was not done.
        """
        _, pictures, width = self.table.shape
        with sized(0, self.truth.device):  # LAPACK's inverse is slower with two threads at any D
            inverse = self._inverse(penalty)
        with sized(pictures * width * self.truth.shape[0], self.truth.device):
            taken = self._iterate(penalty, max_iter, tol, inverse)
        return self.at.theta, taken

    def _iterate(
        self, penalty: float, max_iter: int, tol: float, inverse: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        """L-BFGS until every table is done; the iterations (G,) that each took."""
        table = self.table
        least = 0.0 if table.dtype == torch.float64 else 1e-7
        slope = self._gradient(penalty)
        taken = torch.zeros(table.shape[0], dtype=torch.int64, device=table.device)
        steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for iteration in range(max_iter):
            direction = -_two_loops(slope, steps, inverse)
            promise = -_dot(slope, direction)
            running = (slope.abs().amax((1, 2)) > tol) & (promise > 2 * least)
            if not running.any():
                break
            taken[running] = iteration + 1
            direction = torch.where(running[:, None, None], direction, 0)
            before = self.at.theta, slope
            self._move(direction, -promise, penalty, running)
            slope = self._gradient(penalty)
            change, turn = self.at.theta - before[0], slope - before[1]
            curvature = _dot(change, turn)
            safe = running & (curvature > 0)
            rho = torch.where(safe, 1 / torch.where(safe, curvature, 1), 0)
            steps = [*steps[1 - HISTORY :], (change, turn, rho)]
        return taken

    def _products(self, theta: torch.Tensor) -> torch.Tensor:
        """(G, K, N) logits."""
        return self.table.products(theta[:, :, :-1]).add_(theta[:, :, -1:])

    def _gradient(self, penalty: float) -> torch.Tensor:
        wrong = (self.at.p - self.truth).div_(self.table.shape[1])
        weights = self.table.sums(wrong).add_(self.at.theta[:, :, :-1], alpha=penalty)
        return torch.cat([weights, wrong.sum(2, keepdim=True)], 2)

    def _inverse(self, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        """(G, D, D) or (G, 1, 1) inverse of the matrix above for weights; (G, 1, 1) intercepts."""
        p = self.at.p
        spread = (1 - p.square().sum(1)).mean(1) / (p.shape[1] - 1)
        spread = spread.clamp_min(1e-3).double()[:, None, None]
        if self.gram is None:
            matrix = 1 / (spread + penalty)
        else:
            matrix = spread * self.gram.double()
            matrix.diagonal(dim1=1, dim2=2).add_(penalty + 1e-7)
            matrix = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
        return matrix.to(p.dtype), (1 / spread).to(p.dtype)

    def _move(
        self, direction: torch.Tensor, first: torch.Tensor, penalty: float, running: torch.Tensor
    ) -> None:
        """Go where the derivative along `direction` is small against `first`, that at 0.

        Newton's method on the step, kept between the steps that were too short and too long.
        """
        theta, logits = self.at.theta, self.at.logits
        along = self._products(direction)
        pull = penalty * _dot(theta[:, :, :-1], direction[:, :, :-1])
        pull -= (self.truth * along).sum((1, 2)) / along.shape[2]
        bend = penalty * direction[:, :, :-1].square().sum((1, 2))
        low, step = torch.zeros_like(first), torch.ones_like(first)
        high = torch.full_like(first, torch.inf)
        for _ in range(SEARCHES):
            taken = step  # what `moved` and `p` belong to, whether or not the search goes on
            moved = torch.addcmul(logits, step[:, None, None], along)
            p = torch.softmax(moved, 1)
            derivative = pull + step * bend + _dot(p, along) / along.shape[2]
            if not (running & (derivative.abs() > 0.5 * first.abs())).any():
                break
            mean = (p * along).sum(1, keepdim=True)
            second = bend + (p * (along - mean).square()).sum((1, 2)) / along.shape[2]
            low = torch.where(derivative < 0, step, low)
            high = torch.where(derivative > 0, step, high)
            found = step - derivative / second.clamp_min(1e-30)
            between = torch.where(high.isinf(), 4 * step, (low + high) / 2)
            step = torch.where((found > low) & (found < high) & (found < 10 * step), found, between)
        self.at = Point(theta + taken[:, None, None] * direction, moved, p)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(G,) products of two (G, …)."""
    return (a * b).sum((1, 2))


def _two_loops(
    slope: torch.Tensor,
    steps: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    inverse: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """The inverse Hessian's estimate times `slope`: (change, turn, 1/(change·turn)) are steps."""
    q, shares = slope.clone(), []
    for change, turn, rho in reversed(steps):
        share = rho * _dot(change, q)
        q -= share[:, None, None] * turn
        shares.append(share)
    weights, intercepts = inverse
    left = q[:, :, :-1]
    left = weights * left if weights.shape[1] == 1 else torch.bmm(left, weights)
    q = torch.cat([left, intercepts * q[:, :, -1:]], 2)
    for (change, turn, rho), share in zip(steps, reversed(shares), strict=True):
        q += (share - rho * _dot(turn, q))[:, None, None] * change
    return q
