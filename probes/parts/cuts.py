"""DiffCut: the sites of a map as a graph, which is cut in two until no good cut is left.

    w_ij = ((cos(f_i, f_j) − min)/(max − min))^α            all pairs of sites, min and max of these
    Ncut(A, B) = cut(A, B)/vol(A) + cut(A, B)/vol(B)        vol(A) = sum of w_ij, i in A, any j
    y = second smallest of (D − W)y = λDy                   cut at the threshold on y that gives
                                                            the smallest Ncut
    both sides likewise, on their own sub-graphs, while Ncut < τ

Pixels then go to the part whose mean normalised feature is most similar to theirs, which is read
bilinearly between sites.

Source: Couairon et al. 2024, "DiffCut", NeurIPS; Shi & Malik 2000, "Normalized cuts". Its further
refinement of the masks by the picture's colours (PAMR) is left out; all thresholds between two
values of y are tried, not a hundred of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from probes.maps import Maps, as_float
from probes.parts.base import PictureParts, by_size, largest

ALPHA, TAU = 10.0, 0.5
"""Power of the affinities, and the Ncut at which a part stays whole: those that the authors' code
evaluates with."""
DENSE = 192
"""Sites up to which all eigenvectors are worked out."""
FLAT = 1e-6
"""Range of cosines below which all sites are alike."""


@dataclass(eq=False, repr=False, kw_only=True)
class DiffCut(PictureParts):
    """Parts by recursive normalized cut of one map's sites.

    Several cells must have one grid; their channels stand side by side.

    Args:
        threshold: τ, the Ncut from which on a part stays whole; in (0, 2).
        alpha: power of the affinities.
        parts: at most; the best cuts are taken first. None: as many as there are.
    """

    threshold: float = TAU
    alpha: float = ALPHA
    parts: int | None = None

    def _check(self) -> None:
        if not 0 < self.threshold < 2 or not self.alpha > 0:
            raise ValueError(f"threshold={self.threshold}, alpha={self.alpha}; expected a number "
                             "in (0, 2), and a power above 0")  # fmt: skip
        if self.parts is not None and self.parts < 1:
            raise ValueError(f"parts={self.parts}; expected 1 at least, or None")

    def _parts(self, maps: Maps) -> np.ndarray:
        grids = {maps.grid(key) for key in self.cells_}
        if len(grids) > 1:
            raise ValueError(f"maps of the grids {sorted(grids)}; expected cells of one grid: "
                             "choose some (-b, -t)")  # fmt: skip
        values = np.concatenate([as_float(maps[key]).numpy() for key in self.cells_])
        unit = normalised(values)
        labels = recursive_cut(affinities(unit, self.alpha), self.threshold, self.parts)
        flat = unit.reshape(len(unit), -1)
        centres = np.stack([flat[:, labels == part].mean(1) for part in range(labels.max() + 1)])
        return largest(replace(maps, values={"unit": unit}), ("unit",), centres)


def normalised(values: np.ndarray) -> np.ndarray:
    """(C, h, w) of length 1 at each site; sites of nothing stay 0."""
    length = np.sqrt((values.astype(np.float32) ** 2).sum(0))
    return values / np.where(length > 0, length, 1)


def affinities(unit: np.ndarray, alpha: float = ALPHA) -> np.ndarray:
    """(C, h, w) normalised features → (h·w, h·w) float32 in [0, 1].

    Cosines are brought to [0, 1] over the picture and raised to a power; where all are alike,
    all are 1.
    """
    flat = unit.reshape(len(unit), -1)
    cosines = flat.T @ flat
    low, high = float(cosines.min()), float(cosines.max())
    if high - low < FLAT:
        return np.ones_like(cosines)
    return np.power((cosines - low) / (high - low), alpha, dtype=np.float32)


def recursive_cut(weights: np.ndarray, threshold: float, parts: int | None = None) -> np.ndarray:
    """Cut a graph in two, and its sides, while there is a cut below a threshold.

    Args:
        weights: (n, n) symmetric, ≥ 0.
        threshold: of Ncut.
        parts: at most; of all cuts that could be next the smallest is taken. None: no bound.

    Returns:
        (n,) int64 number of the part of each node, the largest part is 0.
    """
    labels = np.zeros(len(weights), np.int64)
    open_cuts = {0: best_cut(weights)}
    while open_cuts and (parts is None or labels.max() + 1 < parts):
        part = min(open_cuts, key=lambda one: open_cuts[one][1])
        side, value = open_cuts.pop(part)
        if not value < threshold:
            break
        members = np.flatnonzero(labels == part)
        labels[members[side]] = new = int(labels.max()) + 1
        for one in (part, new):
            members = np.flatnonzero(labels == one)
            open_cuts[one] = best_cut(weights[np.ix_(members, members)])
    return by_size(labels)


def best_cut(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """The best of the cuts at a threshold on the second eigenvector.

    Args:
        weights: (n, n) symmetric, ≥ 0.

    Returns:
        (n,) bool, one side, and its Ncut; inf where there is none, of one node.
    """
    count = len(weights)
    degrees = weights.sum(1, dtype=np.float64)
    if count < 2:
        return np.zeros(count, bool), float("inf")
    if (degrees <= 0).any():  # a node that nothing holds is a part of its own
        return degrees <= 0, 0.0 if (degrees > 0).any() else float("inf")
    order = np.argsort(second_eigenvector(weights, degrees), kind="stable")
    values = cut_values(weights, order)
    best = int(values.argmin())
    side = np.zeros(count, bool)
    side[order[: best + 1]] = True
    return side, float(values[best])


def cut_values(weights: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(n − 1,) float64: Ncut of the first 1, 2, … n − 1 nodes of an order against the others."""
    moved = weights[np.ix_(order, order)].astype(np.float64)
    volume = np.cumsum(moved.sum(1))
    inside = np.cumsum(2 * np.tril(moved, -1).sum(1) + np.diag(moved))
    one, both = volume[:-1], volume[-1]
    cut = np.maximum(one - inside[:-1], 0)
    return cut / np.maximum(one, 1e-300) + cut / np.maximum(both - one, 1e-300)


def second_eigenvector(weights: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """(n,) y of the second smallest λ of (D − W)y = λDy.

    With z = D^½y it is the second largest of D^−½·W·D^−½, whose largest, 1, belongs to D^½·1 and
    is taken out.
    """
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    root = np.sqrt(degrees)
    scaled = weights / root[:, None] / root
    first = root / np.linalg.norm(root)
    count = len(weights)
    if count > DENSE:

        def times(z: np.ndarray) -> np.ndarray:
            z = np.asarray(z).ravel()
            return scaled @ z - first * (2 * (first @ z))

        try:
            start = np.random.default_rng(0).standard_normal(count)
            operator = LinearOperator((count, count), matvec=times, dtype=np.float64)
            _, found = eigsh(operator, k=1, which="LA", v0=start - first * (first @ start),
                             tol=1e-6)  # fmt: skip
            return found[:, 0] / root
        except ArpackNoConvergence:  # several of one size; any of them will do
            pass
    deflated = scaled - 2 * np.outer(first, first)
    _, found = eigh(deflated, subset_by_index=[count - 1, count - 1])
    return found[:, 0] / root
