"""The pictures of a dense benchmark: which are trained on, which choose, which are reported on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.features import Pictures
from benchmarks.searching import (
    LEFT_OUT,
    TEST,
    TRAIN,
    VALIDATION,
    BoundDense,
    bind_dense,
    draw_order,
    inner_split,
)
from benchmarks.tasks.dense.file import ALL, DenseBenchmark
from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.targets.dense import DenseTargets, open_dense

KINDS = {"segmentation": "masks", "depth": "depth"}
"""Task → what is known of a pixel."""


@dataclass(frozen=True, eq=False)
class Sets:
    """Two sets of pictures whose pixels are known.

    Attributes:
        train, test: the pictures; of those named, training pictures whose group test has are left
            out.
        frame: (H, W) that they are scored at; None is each one's own size.
        apart: those groups → how many training pictures of it were left out.
    """

    train: DenseTargets
    test: DenseTargets
    frame: tuple[int, int] | None = None
    apart: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, benchmark: DenseBenchmark) -> Sets:
        """The sets that a file names.

        Raises:
            SpecError: targets of another kind, other classes, pictures on both sides.
        """
        one = benchmark
        found = cls.named(f"benchmark {one.name}", one.task, one.train, one.test, one.frame)
        return cls(limited(found.train, one.train_limit), limited(found.test, one.test_limit),
                   found.frame, found.apart)  # fmt: skip

    @classmethod
    def named(
        cls, where: str, task: str, train: str, test: str, frame: Sequence[int] = ()
    ) -> Sets:  # fmt: skip
        """Two named sets; `where` is for errors, which are those of `open`."""
        found = open_dense(train), open_dense(test)
        for one in found:
            if one.kind != KINDS[task]:
                raise SpecError(f"{where}: {one.name} holds {one.kind}; expected {KINDS[task]}")
        train, test = found
        if list(train.classes) != list(test.classes):
            raise SpecError(f"{where}: {train.name} has {len(train.classes)} classes, {test.name} "
                            f"{len(test.classes)}, or others; expected the same")  # fmt: skip
        if both := set(train.ids) & set(test.ids):
            raise SpecError(f"{where}: {len(both)} pictures, such as {min(both)!r}, are in "
                            f"{train.name} and in {test.name}; expected other ones")  # fmt: skip
        shared = set(train.groups) & set(test.groups)
        apart = {name: train.groups.count(name) for name in sorted(shared)}
        if apart:
            kept = [row for row, name in enumerate(train.groups) if name not in shared]
            if not kept:
                raise SpecError(f"{where}: every group of {train.name} is in {test.name}; expected "
                                "others to train on")  # fmt: skip
            train = train.take(kept)
        return cls(train, test, tuple(frame) or None, apart)

    @property
    def pictures(self) -> Pictures:
        """Of both, training first."""
        return Pictures((self.train.pictures(), self.test.pictures()))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Of all pictures."""
        return (*self.train.groups, *self.test.groups)

    @property
    def tested(self) -> np.ndarray:
        """Rows of the test pictures."""
        return np.arange(len(self.train), len(self.groups))

    def bound(self, stores: Sequence[Any]) -> BoundDense:
        """The pictures in a training and a test feature file."""
        train, test = (
            bind_dense(targets, [store], frame=self.frame)
            for targets, store in zip((self.train, self.test), stores, strict=True)
        )
        return train.joined(test)

    def part(self, orders: Draws, select: int, held: float) -> np.ndarray:
        """(N,) parts while a cell is chosen: training and validation pictures, all of the training
        set; the others are left out."""
        rows = orders.rows(min(select, len(self.train)), 0)
        chooses = inner_split([self.groups[row] for row in rows], held)
        if not chooses.any():
            raise SpecError(f"{self.train.name}: {len(rows)} pictures of one group choose the "
                            "cell; expected two groups at least")  # fmt: skip
        part = np.full(len(self.groups), LEFT_OUT)
        part[rows] = np.where(chooses, VALIDATION, TRAIN)
        part[self.tested] = TEST
        return part


@dataclass(frozen=True, eq=False)
class Draws:
    """Orders in which training pictures are labelled: those of n labels are among those of more.

    Attributes:
        orders: (n,) rows of the training set, of each draw.
    """

    orders: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, bound: BoundDense, count: int, draws: int) -> Draws:
        """Of the first `count` pictures of what is bound."""
        classes = len(bound.classes) if bound.kind == "masks" else 0
        shows = np.zeros((count, classes), bool)
        for row in range(count if classes else 0):
            labels = np.unique(bound.masks[row])
            shows[row, labels[(labels >= 0) & (labels < classes)]] = True
        groups = bound.groups[:count]
        return cls(tuple(draw_order(groups, shows, 0, draw) for draw in range(draws)))

    def rows(self, labels: int, draw: int) -> np.ndarray:
        """Rows of so many labelled pictures; `ALL` is every one."""
        order = self.orders[draw % len(self.orders)]
        return np.sort(order) if labels == ALL else order[:labels]


def limited(targets: DenseTargets, limit: int | None) -> DenseTargets:
    """At most so many pictures, those with the smallest hash of their id."""
    if limit is None or limit >= len(targets.ids):
        return targets
    chance = [unit_interval("limit", name) for name in targets.ids]
    return targets.take(np.sort(np.argsort(chance, kind="stable")[:limit]))
