"""Batches of rows for training: from memory, or from a file in shuffled blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from probes.lazy import Rows
from probes.standardise import moments as moments_of_rows

BLOCKS, FEWEST, BLOCK_BYTES = 512, 32, 256 << 10
"""Blocks of a file that are mixed with each other at a time: 512, or fewer but at least 32
where these would be smaller than 256 KiB."""

Batch = tuple[list[torch.Tensor], torch.Tensor]


class Batches:
    """Batches of several arrays that share their rows, with the rows' targets.

    What fits into `memory` is read once and kept on the device; other arrays in memory give
    random rows. What lies in a file and does not fit is read in blocks of consecutive rows:
    `memory` holds about 32 blocks from random places, whose rows are mixed. So every row
    comes once per epoch and a file is read in long pieces, but rows that are neighbours in
    the file stay together more than chance would have it: where a file is sorted by class,
    let `memory` hold many times 32 rows of each.

    Args:
        parts: arrays of N rows each.
        targets: what belongs to each row: (N,) int64 class indices, or `Rows` of any shape and
            dtype (labels, real numbers, maps, points), which are read with the features. Those of
            more than one number per row count towards `memory`.
        rows: (n,) int64 ascending: the rows that take part.
        size: rows of a batch; the last one may be smaller.
        memory: bytes held of a file at a time. (A block that cannot be smaller than a chunk
            of a compressed file may take more.)
        device: where batches are wanted.
    """

    def __init__(
        self,
        parts: Sequence[Rows],
        targets: np.ndarray | Rows,
        rows: np.ndarray,
        size: int,
        memory: int,
        device: torch.device,
    ):
        if not isinstance(targets, Rows):
            targets = Rows(targets, "y", targets.dtype)
        self.parts, self.targets, self.rows = list(parts), targets, rows
        self.size, self.device = size, device
        every = [*parts, *[targets] * (len(targets.shape) > 1)]
        row_bytes = sum(4 * int(np.prod(part.shape[1:], dtype=np.int64)) for part in parts)
        row_bytes += sum(part.nbytes // max(1, len(part)) for part in every[len(parts) :])
        self.fits = len(rows) * row_bytes <= memory
        self.in_memory = all(map(_held, [*parts, targets]))
        block_bytes = max(memory // BLOCKS, min(memory // FEWEST, BLOCK_BYTES))
        self.block = max(1, block_bytes // max(1, row_bytes))
        chunks = [getattr(part.values, "chunks", None) for part in every]
        whole = max([int(c[0]) for c in chunks if isinstance(c, tuple)], default=1)
        self.block = -(-self.block // whole) * whole
        self.blocks_held = max(1, memory // (self.block * max(1, row_bytes)))
        self._kept: Batch | None = None

    def __len__(self) -> int:
        """Rows of an epoch."""
        return len(self.rows)

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.rows) // self.size)

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch in random order."""
        if not self.fits and not self.in_memory:
            yield from self._mixed(rng)
            return
        order = rng.permutation(len(self.rows))
        for start in range(0, len(order), self.size):
            yield self._picked(order[start : start + self.size])

    def ordered(self) -> Iterator[Batch]:
        """All rows in their order, in batches of at most `size`."""
        if self.fits:
            places = np.arange(len(self.rows))
            for start in range(0, len(places), self.size):
                yield self._picked(places[start : start + self.size])
            return
        for rows in self._blocks(self.rows):
            parts, targets = self._read(rows)
            for start in range(0, len(rows), self.size):
                here = slice(start, start + self.size)
                yield [part[here] for part in parts], targets[here]

    def _picked(self, places: np.ndarray) -> Batch:
        """Rows by their places in `rows`."""
        if not self.fits:
            return self._read(self.rows[places])
        if self._kept is None:
            self._kept = self._read(self.rows)
        parts, targets = self._kept
        at = torch.from_numpy(places).to(self.device)
        return [part[at] for part in parts], targets[at]

    def _read(self, rows: np.ndarray) -> Batch:
        """Rows by their numbers, which are ascending where arrays lie in a file."""
        parts = []
        for part in self.parts:
            if isinstance(part.values, torch.Tensor) and part.values.device.type != "cpu":
                parts.append(_on_device(part, rows, self.device))
                continue
            if _held(part):
                found = part[rows]
            else:
                found = np.empty((len(rows), *part.shape[1:]), np.float32)
                _fill(found, part, self._blocks(rows))
            parts.append(torch.from_numpy(found).to(self.device))
        return parts, torch.from_numpy(self._targets(rows)).to(self.device)

    def _targets(self, rows: np.ndarray) -> np.ndarray:
        """Targets of rows, which are read block by block where they lie in a file."""
        if _held(self.targets):
            return self.targets[rows]
        found = np.empty((len(rows), *self.targets.shape[1:]), self.targets.dtype)
        _fill(found, self.targets, self._blocks(rows))
        return found

    def _blocks(self, rows: np.ndarray) -> list[np.ndarray]:
        """Ascending rows, cut where a block of the file ends."""
        return np.split(rows, np.flatnonzero(np.diff(rows // self.block)) + 1)

    def _mixed(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch from a file: groups of random blocks, mixed; batches run over groups."""
        blocks = self._blocks(self.rows)
        order = rng.permutation(len(blocks))
        space = self.block * min(self.blocks_held, len(blocks))
        held = [np.empty((space, *part.shape[1:]), np.float32) for part in self.parts]
        left: list[np.ndarray] = [part[:0] for part in held]
        left_targets = self.targets[:0]
        for start in range(0, len(order), self.blocks_held):
            group = [blocks[k] for k in order[start : start + self.blocks_held]]
            targets = self._targets(np.concatenate(group))
            for part, space_of_part in zip(self.parts, held, strict=True):
                _fill(space_of_part, part, group)
            mixed = rng.permutation(len(targets))
            at, take = 0, self.size - len(left_targets)
            while at + take <= len(mixed):
                rows = mixed[at : at + take]
                yield self._joined(left, held, left_targets, targets, rows)
                left, left_targets = [part[:0] for part in held], targets[:0]
                at, take = at + take, self.size
            rest = mixed[at:]
            left = [np.concatenate([a, b[rest]]) for a, b in zip(left, held, strict=True)]
            left_targets = np.concatenate([left_targets, targets[rest]])
        if len(left_targets):
            nothing = np.empty(0, np.int64)
            yield self._joined(left, held, left_targets, targets[:0], nothing)

    def _joined(self, left, held, left_targets, targets, rows) -> Batch:
        parts = [
            torch.from_numpy(np.concatenate([a, b[rows]])).to(self.device)
            for a, b in zip(left, held, strict=True)
        ]
        joined = np.concatenate([left_targets, targets[rows]])
        return parts, torch.from_numpy(joined).to(self.device)


class ShortEpochs:
    """Data whose epochs have a set number of steps: parts of passes, or several of them.

    Every epoch begins a new pass, so that a training that goes on needs to know of none before.

    Args:
        data: see `probes.training.Data`.
        steps: of an epoch.
    """

    def __init__(self, data: Any, steps: int):
        self.data, self.steps = data, steps
        self.device, self.parts, self.targets = data.device, data.parts, data.targets
        whole, rest = divmod(steps, data.steps)
        self.rows = whole * len(data) + min(rest * data.size, len(data))

    def __len__(self) -> int:
        """Rows of an epoch."""
        return self.rows

    def shuffled(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch: passes in random order, the last of them cut short."""
        for start in range(0, self.steps, self.data.steps):
            yield from islice(self.data.shuffled(rng), self.steps - start)

    def ordered(self) -> Iterator[Batch]:
        """All rows of the data in their order."""
        return self.data.ordered()


def _held(part: Rows) -> bool:
    """Whether it lies in memory."""
    return isinstance(part.values, (np.ndarray, torch.Tensor))


def _fill(space: np.ndarray, part: Rows, blocks: Sequence[np.ndarray]) -> None:
    """Rows of a file, block by block: one slice is read of each, and picked from."""
    at = 0
    for rows in blocks:
        first, last = int(rows[0]), int(rows[-1])
        space[at : at + len(rows)] = part[first : last + 1][rows - first]
        at += len(rows)


def _on_device(part: Rows, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """(n, …) float32 of a tensor on an accelerator, which they do not leave."""
    found = part.values[torch.from_numpy(rows).to(part.values.device)].to(device, torch.float32)
    if not torch.isfinite(found).all():
        raise ValueError(f"{part.name} contains nan or inf; expected finite features")
    return found


def moments(
    batches: Batches, view: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the first array over the rows, in one pass in float64.

    Args:
        view: what is done to a batch before; its axis 1 is kept, all others are averaged.

    Returns:
        mean (C,), deviation (C,) float32 on the CPU; the deviation is 1 where a feature is
        constant.
    """

    def rows() -> Iterator[torch.Tensor]:
        for (batch, *_), _ in batches.ordered():
            x = batch if view is None else view(batch)
            yield x.movedim(1, -1).reshape(-1, x.shape[1])

    mean, deviation = moments_of_rows(rows())
    return tuple(v.float() if v.is_meta else v.float().cpu() for v in (mean, deviation))
