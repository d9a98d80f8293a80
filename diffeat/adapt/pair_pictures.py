"""Pairs of pictures as the one loop takes them: noised, with key points as sites of a map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from diffeat.adapt.forward import NoisyFeatures
from diffeat.coords import Placement
from diffeat.errors import SourceError, SpecError
from diffeat.extraction.noising import noise_names, seeded_by_content
from diffeat.images import PictureBatch, Source, load_batches
from diffeat.targets.pairs import PairTargets
from probes.batches import Batch
from probes.objectives import Objective

Further = Callable[[np.ndarray], torch.Tensor]
"""(B,) pairs → what else the module is given of them, (B, …)."""


class PairPictures:
    """Pairs as the loop takes them; pictures are decoded when their turn comes.

    A batch of B pairs with P points in all has as inputs x_t (2B, C, h, w), source and target
    alternating; (P,) which pair a point is of; (P, 2) its site in the source's map, column and
    row; what else `further` says (B, …). Its targets are (P, 5): the site in the target's map,
    pixels of the picture per column and per row, and the reference in pixels: the longer side of
    the target's box, or of the picture where no box is known.

    Args:
        noisy: makes x_t; its one block gives the maps.
        pairs: with points on both sides. Those that an input does not show play no part.
        batch_size: pairs of a step.
        workers: decoding threads.
        further: see above.

    Raises:
        SpecError: no points on the targets' side.
        SourceError: pictures that are not there, or no pair with a point that both inputs show.
    """

    def __init__(
        self, noisy: NoisyFeatures, pairs: PairTargets, batch_size: int, workers: int,
        further: Further,
    ):  # fmt: skip
        self.noisy, self.pairs, self.batch_size = noisy, pairs, batch_size
        self.workers, self.further = workers, further
        self.device = torch.device(noisy.backbone.device)
        self.source = pairs.pictures()
        self.sides = np.stack(pairs.rows(self.source.ids), 1)  # (P, 2)
        if (self.sides < 0).any():
            row, side = np.argwhere(self.sides < 0)[0]
            name = (pairs.source, pairs.target)[side][row]
            raise SourceError(f"{pairs.name}: no picture {name!r} among those of the pairs")
        self.grid = noisy.plan.blocks[-1].grid(noisy.plan.size)
        truths = [pairs.truth(pair) for pair in range(len(pairs))]
        if any(one.target_points is None for one in truths):
            raise SpecError(f"{pairs.name} has no points on the targets; prompts need both sides")
        self.counts = np.array([len(one.source_points) for one in truths])
        self.used = np.flatnonzero(self.counts)
        if not len(self.used):
            raise SourceError(f"{pairs.name}: no pair has a point")
        spec = noisy.plan.spec
        digests = self.source.digests() if seeded_by_content(spec) else None
        self._names = noise_names(spec, self.source.ids, digests, range(len(self.source)))

    @property
    def steps(self) -> int:
        return -(-len(self.used) // self.batch_size)

    def __len__(self) -> int:
        return int(self.counts.sum())

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch in a new order, with fresh noise."""
        noise = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        return self._batches(rng.permutation(self.used), noise)

    def ordered(self) -> Iterator[Batch]:
        """All, each picture with its own noise, as an extraction has it."""
        return self._batches(self.used, None)

    def _batches(self, order: np.ndarray, noise: torch.Generator | None) -> Iterator[Batch]:
        rows, size = self.sides[order].reshape(-1), 2 * self.batch_size
        spans = [(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]
        plan = self.noisy.plan
        loaded = load_batches(
            _Ordered(self.source, rows), spans, plan.size, plan.spec.fit, plan.spec.resample,
            self.workers,
        )  # fmt: skip
        for batch, (start, stop) in zip(loaded, spans, strict=True):
            names = [self._names[row] for row in rows[start:stop]]
            x = self.noisy.noisy(torch.from_numpy(batch.pixels), names, noise)
            some = order[start // 2 : stop // 2]
            pair, sites, targets = self._points(some, batch)
            inputs = [x, pair, sites, self.further(some)]
            yield [one.to(self.device) for one in inputs], targets.to(self.device)

    def _points(self, some: np.ndarray, batch: PictureBatch) -> tuple[torch.Tensor, ...]:
        """(P,) pairs, (P, 2) sites of the sources, (P, 5) targets of a batch."""
        which, sites, targets = [], [], []
        for k, pair in enumerate(some.tolist()):
            truth = self.pairs.truth(pair)
            source, target = (_placement(batch, 2 * k + side) for side in (0, 1))
            shown = source.valid(truth.source_points) & target.valid(truth.target_points)
            here, there = truth.source_points[shown], truth.target_points[shown]
            sites.append(source.to_map(here, self.grid))
            targets.append(self._target(there, target, truth.target_box))
            which.append(np.full(len(here), k))
        return (
            torch.from_numpy(np.concatenate(which)),
            torch.from_numpy(np.concatenate(sites)).float(),
            torch.from_numpy(np.concatenate(targets)).float(),
        )

    def _target(self, points: np.ndarray, at: Placement, box: Any) -> np.ndarray:
        """(n, 5) of the points of one target."""
        reference = max(at.picture_size) if box is None else max(box[2] - box[0], box[3] - box[1])
        across = at.input_size[1] / self.grid[1] / abs(at.sx)
        down = at.input_size[0] / self.grid[0] / abs(at.sy)
        told = np.broadcast_to([across, down, reference], (len(points), 3))
        return np.concatenate([at.to_map(points, self.grid), told], 1)


@dataclass(frozen=True)
class _Ordered:
    """Pictures of a source in an order in which one may stand several times."""

    source: Source
    rows: np.ndarray

    def load(self, index: int) -> Any:
        return self.source.load(int(self.rows[index]))


def _placement(batch: PictureBatch, row: int) -> Placement:
    numbers = batch.placements[row].tolist()
    size = tuple(batch.sizes[row].tolist())
    return Placement(*numbers, tuple(batch.pixels.shape[2:]), size)


def read_sites(maps: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
    """A map's values at sites, bilinear between the cells' centres, edges going on.

    Args:
        maps: (C, h, w).
        sites: (n, 2) column and row, cells having their centres at whole numbers.

    Returns:
        (n, C), in the graph of `maps`.
    """
    size = sites.new_tensor([maps.shape[2], maps.shape[1]])
    grid = (2 * sites + 1) / size - 1
    found = F.grid_sample(
        maps[None], grid[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[0, :, 0].T


def similarities(maps: torch.Tensor, pair: torch.Tensor, sites: torch.Tensor) -> torch.Tensor:
    """(P, h, w) cosines of P points of the sources with every cell of their targets.

    Args:
        maps: (2B, C, h, w), source and target alternating.
        pair: (P,) which of the B pairs a point is of, ascending.
        sites: (P, 2) column and row in the source's map.
    """
    maps, found = maps.float(), []
    for k in range(len(maps) // 2):
        points = F.normalize(read_sites(maps[2 * k], sites[pair == k]), dim=1)  # (n, C)
        cells = F.normalize(maps[2 * k + 1], dim=0)  # (C, h, w)
        found.append(torch.einsum("nc,chw->nhw", points, cells))
    return torch.cat(found)


def gaussian_targets(
    targets: torch.Tensor, grid: tuple[int, int], sigma: float, window: int
) -> torch.Tensor:
    """(P, h, w) distributions over cells: a Gaussian about the nearest cell, cut to a window.

    Args:
        targets: (P, 2+) column and row of the right site.
        grid: (h, w).
        sigma: of the Gaussian, in cells.
        window: side of the square outside which it is 0, in cells; odd.

    Source: Li et al. 2024 (SD4Match), its loss: 7×7 cells.
    """
    centre = targets[:, :2].round()
    column, row = (
        torch.arange(side, device=targets.device)[None] - centre[:, k, None]
        for k, side in ((0, grid[1]), (1, grid[0]))
    )
    centre_x, centre_y = (
        torch.exp(-(off**2) / (2 * sigma**2)) * (off.abs() <= window // 2) for off in (column, row)
    )
    found = centre_y[:, :, None] * centre_x[:, None]
    return found / found.sum((1, 2), keepdim=True).clamp(min=1e-12)


class _GridPCK:
    """Share of points whose best cell lies within alpha of the reference, in percent."""

    def __init__(self, alpha: float):
        self.alpha, self.right, self.count = alpha, 0, 0

    def update(self, found: torch.Tensor, truth: torch.Tensor) -> None:
        """found: (P, 2) cells, truth: (P, 5)."""
        off = (found - truth[:, :2]) * truth[:, 2:4]
        self.right += int((off.norm(dim=1) <= self.alpha * truth[:, 4]).sum())
        self.count += len(truth)

    def compute(self) -> float:
        return 100 * self.right / self.count if self.count else float("nan")


def correspondence(
    temperature: float = 0.04, sigma: float = 1.5, window: int = 7, alpha: float = 0.1
) -> Objective:
    """Cross-entropy of softmax(cosine / temperature) over the target's cells with a Gaussian.

    Validated by PCK at the map's own resolution: the best cell within alpha · reference pixels.

    Args:
        temperature: of the softmax.
        sigma, window: see `gaussian_targets`.
        alpha: of PCK.

    Returns:
        The objective: outputs (P, h, w) cosines, targets (P, 5) of `PairPictures`.

    Source: Li et al. 2024 (SD4Match).
    """

    def loss(output: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
        wanted = gaussian_targets(target, tuple(output.shape[1:]), sigma, window).flatten(1)
        terms = -(wanted * (output.flatten(1) / temperature).log_softmax(1)).sum(1)
        return terms.sum() if reduction == "sum" else terms.sum() / max(1, len(terms))

    def best(output: torch.Tensor) -> torch.Tensor:
        place, width = output.flatten(1).argmax(1), output.shape[2]
        return torch.stack([place % width, place // width], 1).float()

    return Objective(
        f"correspondence, temperature {temperature:g}, sigma {sigma:g}, window {window}",
        loss, len, "pck", lambda: _GridPCK(alpha), True, best, best, "float32",
    )  # fmt: skip
