"""Pairs of pictures to train on: where key points lie on a grid, batches of pairs, and the loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F

from probes.batches import Batch
from probes.cells import Cells
from probes.lazy import Rows
from probes.maps import Maps
from probes.metrics.pck import pck
from probes.objectives import Objective
from probes.pairs import Pairs

TEMPERATURE = 0.07
ALPHA = 0.1
HEAD = 5
"""Columns of a row of `pair_table` before its points: rows, pixels a site, reference."""


def pair_table(cells: Cells, pairs: Pairs, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Everything that training asks of pairs, one row of numbers each.

    Args:
        cells: say where the maps of pictures lie; their values are not read.
        pairs: of pictures by row; each with `target_points`.
        grid: (H, W) of the map that the key points are laid on.

    Returns:
        (P, 5 + 4·n) float64: row of the source, row of the target, pixels of the target picture
        from site to site in x and y, reference in pixels (that of the pair, else the larger side
        of the target picture); then source column, source row, target column, target row of every
        key point that both inputs show, in sites and no whole numbers; nan behind the last. And
        (P,) bool: which pairs have such a point.

    Raises:
        ValueError: no target points, rows that no picture has, sizes that are not known.
    """
    _check(cells, pairs)
    empty = np.broadcast_to(np.float32(0), (len(cells), 1, *grid))
    places = Cells({GRID: empty}, sizes=cells.sizes, placements=cells.placements,
                   input_size=cells.input_size)  # fmt: skip
    most = max(map(len, pairs.source_points))
    table = np.full((len(pairs), HEAD + 4 * most), np.nan)
    for k, (a, b) in enumerate(zip(pairs.source, pairs.target, strict=True)):
        source, target = places.maps(int(a)), places.maps(int(b))
        first, second = pairs.source_points[k], pairs.target_points[k]
        shown = source.valid(first) & target.valid(second)
        sites = [source.sites(first[shown], GRID), target.sites(second[shown], GRID)]
        reference = max(target.size) if pairs.reference is None else pairs.reference[k]
        table[k, :HEAD] = a, b, *_steps(target), reference
        table[k, HEAD : HEAD + 4 * shown.sum()] = np.concatenate(sites, 1).ravel()
    return table, ~np.isnan(table[:, HEAD:]).all(1)


GRID = ("grid", 0.0)


def _check(cells: Cells, pairs: Pairs) -> None:
    if pairs.target_points is None or not len(pairs):
        raise ValueError(f"{len(pairs)} pairs, target_points {'missing' if len(pairs) else ''}; "
                         "expected pairs whose key points are known on both sides")  # fmt: skip
    rows = np.concatenate([pairs.source, pairs.target])
    if rows.min() < 0 or rows.max() >= len(cells):
        raise ValueError(f"pairs name the rows {rows.min()} to {rows.max()}; expected rows of the "
                         f"{len(cells)} pictures")  # fmt: skip


def _steps(maps: Maps) -> np.ndarray:
    """(2,) pixels from a site to the next, along x and y."""
    here, there = maps.points([[0.0, 0.0], [1.0, 1.0]], GRID)
    return np.abs(there - here)


def split_groups(
    pairs: Pairs, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation pairs, ascending, that share no group.

    A share of all groups, drawn at random, is for validation. A pair belongs to two groups, and
    is left out where one is for training and the other for validation. Without groups, each
    picture is one.

    Raises:
        ValueError: the share is not in (0, 1), or leaves no pair for either part.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"validation={fraction!r}; expected a number in (0, 1)")
    named = pairs.groups
    named = zip(pairs.source, pairs.target, strict=True) if named is None else named
    names = np.array([[str(a), str(b)] for a, b in named])
    known = np.unique(names)
    held = rng.permutation(known)[: max(1, round(fraction * len(known)))]
    inside = np.isin(names, held)
    training, validation = np.flatnonzero(~inside.any(1)), np.flatnonzero(inside.all(1))
    if not len(training) or not len(validation):
        raise ValueError(
            f"of {len(pairs)} pairs of {len(known)} groups, {len(training)} are left for training "
            f"and {len(validation)} for validation; give another share, or validation=(cells, "
            "pairs)"
        )
    return training, validation


class PairBatches:
    """Batches of pairs: the maps of their pictures, sources before targets, and their table.

    Pictures are read when a pair first asks for them and are kept, in the dtype they are given
    in, while they fit into `memory`; others are read again. So memory is bounded by that, and a
    picture of many pairs is read once.

    Args:
        parts: arrays of N pictures each.
        table: rows of `pair_table`.
        rows: (n,) the pairs that take part.
        size: pairs of a step.
        memory: bytes of kept pictures.
        device: where batches are wanted.
    """

    def __init__(
        self,
        parts: Sequence[Rows],
        table: np.ndarray,
        rows: np.ndarray,
        size: int,
        memory: int,
        device: torch.device,
    ):
        self.parts, self.targets = list(parts), Rows(table, "pairs", np.float64, gaps=True)
        self.rows, self.size, self.device = rows, size, device
        self.memory = memory
        self._kept: dict[int, list[torch.Tensor]] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.rows) // self.size)

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch in random order."""
        return self._batches(rng.permutation(self.rows))

    def ordered(self) -> Iterator[Batch]:
        """All pairs in their order."""
        return self._batches(self.rows)

    def _batches(self, rows: np.ndarray) -> Iterator[Batch]:
        for start in range(0, len(rows), self.size):
            table = self.targets.values[rows[start : start + self.size]]
            pictures = table[:, :2].T.ravel().astype(int)  # sources, then targets
            found = {row: self._picture(row) for row in dict.fromkeys(pictures.tolist())}
            maps = zip(*(found[row] for row in pictures.tolist()), strict=True)
            inputs = [torch.stack(one).to(self.device, torch.float32) for one in maps]
            yield inputs, torch.from_numpy(table).to(self.device)

    def _picture(self, row: int) -> list[torch.Tensor]:
        """The (C, h, w) maps of one picture."""
        if row in self._kept:
            return self._kept[row]
        found = []
        for part in self.parts:
            half = str(part.values.dtype).removeprefix("torch.") == "float16"
            values = part.tensor(slice(row, row + 1), "cpu")[0]
            found.append(values.half() if half else values)  # as exact as it was given
        taken = sum(one.nbytes for one in found)
        if taken <= self.memory:
            self._kept[row] = found
            self.memory -= taken
        return found


def _sites(row: torch.Tensor, grid: torch.Size) -> torch.Tensor:
    """(n, 4) column, row, column, row of a pair's points, clipped to the grid."""
    points = row[HEAD:].view(-1, 4)
    points = points[~torch.isnan(points[:, 0])]
    most = points.new_tensor([grid[1] - 1, grid[0] - 1] * 2)
    return points.clamp_min(0).minimum(most)


def _cells_of_points(row: torch.Tensor, grid: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    """(n,) places in the flattened grid, of points in the source and in the target."""
    sites = _sites(row, grid).round().long()
    return sites[:, 1] * grid[1] + sites[:, 0], sites[:, 3] * grid[1] + sites[:, 2]


def _directions(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(2p, C, H, W) → unit vectors (p, C, H·W) of sources and of targets."""
    return F.normalize(maps.flatten(2), dim=1).chunk(2)


def symmetric_cross_entropy(
    output: torch.Tensor, targets: torch.Tensor, reduction: str, temperature: float = TEMPERATURE
) -> torch.Tensor:
    """Both ways: which site of the other picture is that of the key point?

        S = cos(f, g)/T between all sites,    loss = (CE(S[a], b) + CE(S'[b], a))/2

    a and b are the sites nearest to the key points in source and target; CE is the mean over
    points of -log softmax. The mean, or sum, over pairs.

    Args:
        output: (2p, C, H, W), sources before targets.
        targets: (p, 5 + 4·n), see `pair_table`.
        temperature: T.

    Source: Luo et al. 2023, "Diffusion Hyperfeatures", section 4.1: 1/T = 1/0.07.
    """
    total = output.new_zeros(())
    for f, g, row in zip(*_directions(output), targets, strict=True):
        a, b = _cells_of_points(row, output.shape[2:])
        there = F.cross_entropy(f[:, a].T @ g / temperature, b)
        back = F.cross_entropy(g[:, b].T @ f / temperature, a)
        total = total + (there + back) / 2
    return total / len(targets) if reduction == "mean" else total


class SitePCK:
    """The share of key points found within alpha·reference, answers being centres of sites.

    Args:
        alpha: share of the reference, see `pair_table`.
    """

    def __init__(self, alpha: float = ALPHA):
        self.alpha, self.right, self.points = alpha, 0, 0

    def update(self, found: torch.Tensor, truth: torch.Tensor) -> None:
        """Count maps (2p, C, H, W) and rows of `pair_table`."""
        grid = found.shape[2:]
        for f, g, row in zip(*_directions(found), truth, strict=True):
            a, _ = _cells_of_points(row, grid)
            best = (f[:, a].T @ g).argmax(1)
            sites = torch.stack([best % grid[1], best // grid[1]], 1).cpu().numpy()
            points, numbers = row[HEAD:].view(-1, 4)[: len(a), 2:], row.cpu().numpy()
            step, reference = numbers[2:4], float(numbers[4])
            right = pck(sites * step, points.cpu().numpy() * step, reference, self.alpha)
            self.right, self.points = self.right + int(right.sum()), self.points + len(right)

    def compute(self) -> float:
        """In [0, 1]; nan of no points."""
        return self.right / self.points if self.points else float("nan")


def _same(output: torch.Tensor) -> torch.Tensor:
    return output


def matching(temperature: float = TEMPERATURE, alpha: float = ALPHA) -> Objective:
    """Key points of pairs: `symmetric_cross_entropy`, validated by `SitePCK`."""
    return Objective(
        "matching", partial(symmetric_cross_entropy, temperature=temperature), len, "pck",
        partial(SitePCK, alpha), True, _same, _same, "float64", gaps=True,
    )  # fmt: skip
