"""What a clip's next frame is compared with: the first and the last ones, and their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch.nn import functional as F

from probes.cells import Cells
from probes.maps import Maps
from probes.matching.placed import TINY, Placed, Rule

BLOCK = 64 << 20
"""Bytes of features that are allocated at a time, so that they come from the system, not a heap."""


class Frames:
    """Reads frame after frame of one clip as (h, w, C) features of length 1.

    Several cells of one grid are one vector: each of length 1, times its weight, side by side; so
    that the cosine is the mean of theirs, weighted by the weights' squares.

    Args:
        weights: of the cells; None: 1 each.
        low_pass: sigma, in sites, of a Gaussian that smooths every map first; or None.
        device: "auto" is where the maps lie.
    """

    def __init__(self, weights: Mapping[Any, float] | None, low_pass: float | None, device: str):
        self._rule = Rule(combine="concat", weights=weights, normalise="before", low_pass=low_pass,
                          device=device)  # fmt: skip
        self._first: dict[str, Any] = {}
        self.count = 0

    def read(self, maps: Maps) -> torch.Tensor:
        """(h, w, C), contiguous, at least float32.

        Raises:
            ValueError: cells on several grids, maps with nan or inf; or another size, placement,
                grid, cell or number of channels than the first frame has.
        """
        self._check(maps)
        placed = Placed(maps, self._rule)
        values = torch.cat([placed.maps[cell] for cell in placed.cells]).permute(1, 2, 0)
        if len(placed.cells) > 1 or self._rule.weights:
            values = F.normalize(values, dim=2, eps=TINY**0.5)
        self.count += 1
        return values.contiguous()

    def _check(self, maps: Maps) -> None:
        found = {"cells": tuple(maps.values),
                 "grids": {cell: maps.grid(cell) for cell in maps.values},
                 "channels": {cell: len(maps[cell]) for cell in maps.values},
                 "size": tuple(maps.size), "input size": tuple(maps.input_size),
                 "placement": maps.numbers}  # fmt: skip
        if not self._first:
            if len(set(found["grids"].values())) > 1:
                raise ValueError(f"the cells have the grids {found['grids']}; expected one grid: "
                                 "take cells of one stage, or bring them to one first")  # fmt: skip
            self._first = found
        for name, value in found.items():
            if value != self._first[name]:
                raise ValueError(f"frame {self.count} has {name} {value}, frame 0 "
                                 f"{self._first[name]}; expected the same in all frames of a "
                                 "clip")  # fmt: skip


class Context:
    """Features and soft labels of the first frame and of the last ones.

    Features lie in blocks of memory of some frames each, which are written to again: kept one by
    one, between what is needed for a moment, they would leave holes that nothing else fits in.

    Args:
        last: how many last frames there are at most; 0 is none.
        first: whether the first frame stays when it is none of the last.
    """

    def __init__(self, last: int, first: bool):
        self._most, self._fixed = last + first, int(first)
        self._slots: list[torch.Tensor] = []
        self._labels: list[torch.Tensor] = []
        self._count = 0

    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """(h, w, C) features and (h·w, K) labels of the next frame; in place of the oldest."""
        place = self._count
        if place >= self._most:
            if self._most == self._fixed:
                return
            place = self._fixed + (place - self._fixed) % (self._most - self._fixed)
        while place >= len(self._slots):
            few = min(max(1, BLOCK // features.nbytes), self._most - len(self._slots))
            self._slots += features.new_empty(few, *features.shape)
        self._slots[place].copy_(features)
        self._labels[place : place + 1] = [labels]
        self._count += 1

    def __len__(self) -> int:
        return len(self._labels)

    @property
    def features(self) -> list[torch.Tensor]:
        """F of (h, w, C); the order of the last ones is not that of time."""
        return self._slots[: len(self)]

    @property
    def labels(self) -> torch.Tensor:
        """(F·h·w, K)."""
        return torch.cat(self._labels)


def frames_of(frames: Cells | Iterable[Maps]) -> Iterator[Maps]:
    """The maps of a clip's frames, one after the other."""
    if isinstance(frames, Cells):
        return (frames.maps(row) for row in range(len(frames)))
    return iter(frames)


def begun(frames: Cells | Iterable[Maps]) -> tuple[Maps, Iterator[Maps]]:
    """The first frame, and all of them."""
    rest = frames_of(frames)
    first = next(rest, None)
    if first is None:
        raise ValueError("the clip has no frames; expected at least the first")
    if not isinstance(first, Maps):
        raise ValueError(f"a frame is a {type(first).__name__}; expected probes.Maps, or all "
                         "frames as probes.Cells")  # fmt: skip
    return first, chain([first], rest)
