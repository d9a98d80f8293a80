"""Pixels as rows of a training: whole pictures are read, many pixels taken of each, and mixed.

A file holds maps as (N, C, h, w), so one pixel is C scattered reads. A pass therefore reads every
picture once, cell by cell, takes as many pixels of it as the pass wants, and lays them into a pool
that is shuffled when it is full. Memory is that of the pool and of one map, however many pictures
there are. (A picture that would fill more than its share of a small pool is read several times.)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch

from probes.batches import Batch
from probes.cells import Cells
from probes.checks import check_choice, check_number
from probes.dense.column import Column
from probes.dense.draws import SAMPLINGS, Draws
from probes.dense.truth import Masks
from probes.lazy import Rows
from probes.maps import Maps
from probes.standardise import moments

MIXED = 16
"""Pictures whose pixels a pool holds at a time, at least."""
MANY = 64
"""Pixels that are worth reading a picture for, where an epoch takes as many pictures."""
MEASURED, MEASURED_PIXELS = 64, 256
"""Pictures that tell the moments, at most, and pixels of each."""
Moments = tuple[torch.Tensor, torch.Tensor]


class PixelPool:
    """Batches of sampled pixels; see `probes.training.Data`.

        x (B, C), y (B,)                or, with members, x (B, M, C), y (B, M)

    Every member goes through the pixels of a pool in an order of its own. Pixels that do not fill
    a step are left to another pass.

    Args:
        cells: maps of the pictures, with their sizes.
        masks: of all pictures of `cells`.
        keys: (block, t) in the order of the channels; None is that of `cells`.
        rows: (n,) int64 ascending: the pictures that take part; None: all.
        size: B, pixels of a step, of every member.
        steps: of an epoch; passes follow one another, the last is cut short. None: a pass.
        pixels: of a picture and pass, on average. None: as many as make one pass of an epoch (of
            very many pictures 64, so that an epoch reads a part of them); or, without `steps`,
            all that count, each once.
        sampling: "uniform": every pixel that counts is as likely as any other. "balanced": every
            class has the same share, spread evenly over the pictures that show it; pixels of rare
            classes are taken several times.
        fewest: a class with fewer pixels than that in a picture does not count there.
        members: M; None: batches have no such side.
        memory: bytes of the pool.
        device: where batches are wanted.

    Attributes:
        counts: (n, K) int64 pixels that count, by picture and class.
        moments: (C,) mean and deviation that pixels are standardised by; None: they are not.

    Raises:
        ValueError: no pixel counts; an unknown sampling; numbers out of range; see `Masks`.
    """

    def __init__(
        self,
        cells: Cells,
        masks: Masks,
        *,
        keys: tuple | None = None,
        rows: np.ndarray | None = None,
        size: int = 64,
        steps: int | None = None,
        pixels: int | None = None,
        sampling: str = "uniform",
        fewest: int = 1,
        members: int | None = None,
        memory: int = 512 << 20,
        device: torch.device | str = "cpu",
    ):
        check_choice("sampling", sampling, SAMPLINGS)
        for name, value in (("steps", steps), ("pixels", pixels), ("members", members)):
            check_number(name, value, value is None or value >= 1, ">= 1, or None")
        self.cells, self.masks, self.device = cells, masks, torch.device(device)
        self.keys = tuple(cells.keys if keys is None else keys)
        self.rows = np.arange(len(cells)) if rows is None else np.asarray(rows)
        self.members, self.moments = members, None
        self.channels = sum(cells.rows(key).shape[1] for key in self.keys)
        draws = Draws.of(masks, self.rows, fewest, sampling)
        if steps is not None and pixels is None:
            wanted = steps * size
            pixels = max(-(-wanted // draws.pictures), min(MANY, -(-wanted // MANY)))
        self.draws, self.counts = draws.take(pixels), draws.counts
        self.size = size if steps else min(size, self.draws.total)
        self.steps = steps or self.draws.total // self.size
        row_bytes = 4 * self.channels + 8 * ((members or 1) + 1)
        steps_held = max(1, int(memory) // (row_bytes * self.size))
        self.capacity = self.size * min(steps_held, self.steps)
        self.most = max(1, self.capacity // min(MIXED, draws.pictures))

    def __len__(self) -> int:
        """Pixels of an epoch, of every member."""
        return self.steps * self.size

    @cached_property
    def parts(self) -> list[Rows]:
        """The maps, for checkpoints."""
        return [self.cells[self.rows].rows(key) for key in self.keys]

    @cached_property
    def targets(self) -> Rows:
        """How many pixels of each class the pictures have, for checkpoints."""
        return Rows(self.counts, "masks", np.int64)

    def features(self, row: int, pixels: np.ndarray) -> torch.Tensor:
        """Of some pixels of a picture, map after map: no more than one of them is held.

        Args:
            row: of `cells`.
            pixels: (n, 2) int64 row, column.

        Returns:
            (n, C) float32, standardised where there are `moments`.
        """
        frame = self.cells.frame(row)
        found = torch.empty(len(pixels), self.channels, device=self.device)
        first = 0
        for key in self.keys:
            maps = Maps({key: self.cells.rows(key)[row : row + 1][0]}, frame.size,
                        frame.input_size, frame.placement)  # fmt: skip
            column = Column(maps, device=self.device)
            found[:, first : first + column.channels] = column.at(pixels)
            first += column.channels
        if self.moments is not None:
            mean, deviation = (one.to(self.device) for one in self.moments)
            found.sub_(mean).div_(deviation)
        return found

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch: pools of random pixels of all pictures, each in random order."""
        pool = torch.empty(self.capacity, self.channels, device=self.device)
        truth = torch.empty(self.capacity, dtype=torch.int64, device=self.device)
        held, left = 0, len(self)
        for pixels, labels, row in self._drawn(rng):
            features, labels = self.features(row, pixels), torch.from_numpy(labels)
            while len(labels) and left:
                taken = min(self.capacity - held, len(labels), left)
                pool[held : held + taken] = features[:taken]
                truth[held : held + taken] = labels[:taken]
                features, labels = features[taken:], labels[taken:]
                held, left = held + taken, left - taken
                if held == self.capacity or not left:
                    yield from self._mixed(pool[:held], truth[:held], rng)
                    held = 0
            if not left:
                return

    def _drawn(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
        """(n, 2) pixels, (n,) labels and the row of pictures in random order, without end."""
        while True:
            for turn in self.draws.turns(rng, self.most):
                row = int(self.rows[turn.place])
                labels = self.masks[row]
                chosen = self.draws.choose(turn, labels)
                if len(chosen):
                    pixels = np.stack(np.divmod(chosen, labels.shape[1]), 1)
                    yield pixels, labels.reshape(-1)[chosen], row

    def _mixed(
        self, pool: torch.Tensor, truth: torch.Tensor, rng: np.random.Generator
    ) -> Iterator[Batch]:
        """Steps of pixels (P, C), by every member in an order of its own."""
        order = np.stack([rng.permutation(len(pool)) for _ in range(self.members or 1)], 1)
        shape = (-1,) if self.members is None else (-1, self.members)
        for start in range(0, len(order), self.size):
            at = torch.from_numpy(order[start : start + self.size].reshape(-1)).to(self.device)
            yield [pool[at].view(*shape, self.channels)], truth[at].view(shape)

    def ordered(self) -> Iterator[Batch]:
        """The same random pixels every time, as many as the pool holds; read once and kept."""
        features, labels = self._kept
        for start in range(0, len(labels), self.capacity):
            x, y = features[start : start + self.capacity], labels[start : start + self.capacity]
            if self.members is not None:
                x, y = (one[:, None].expand(-1, self.members, *one.shape[1:]) for one in (x, y))
            yield [x], y

    @cached_property
    def _kept(self) -> tuple[torch.Tensor, torch.Tensor]:
        parts, labels, left = [], [], self.capacity
        for pixels, found, row in self._drawn(np.random.default_rng(0)):
            parts.append(self.features(row, pixels[:left]))
            labels.append(torch.from_numpy(found[:left]).to(self.device))
            left -= len(labels[-1])
            if not left:
                return torch.cat(parts), torch.cat(labels)

    def measured(self) -> Moments:
        """(C,) float32 mean and deviation of random pixels that count, of some pictures.

        The deviation is 1 where a channel is constant.
        """
        rng, some = np.random.default_rng(0), np.flatnonzero(self.counts.any(1))

        def pieces() -> Iterator[torch.Tensor]:
            for place in some[np.linspace(0, len(some) - 1, min(MEASURED, len(some))).astype(int)]:
                row = int(self.rows[place])
                labels = self.masks[row]
                flat = np.flatnonzero(np.isin(labels, np.flatnonzero(self.counts[place])))
                chosen = rng.choice(flat, min(MEASURED_PIXELS, len(flat)), replace=False)
                yield self.features(row, np.stack(np.divmod(chosen, labels.shape[1]), 1))

        return tuple(one.float().cpu() for one in moments(pieces()))

    def weights(self) -> np.ndarray:
        """(K,) float64 weights of the classes by which each counts as much as any other; those
        that occur have the mean 1 over pixels, the others 0."""
        count = self.counts.sum(0)
        seen = count > 0
        return np.where(seen, count.sum() / (seen.sum() * np.maximum(count, 1)), 0.0)
