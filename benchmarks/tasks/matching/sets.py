"""The pairs of a file of matching: those that choose, those of the report, and their pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.features import Pictures
from benchmarks.searching import TRAIN, VALIDATION, split_pairs
from benchmarks.tasks.matching.file import MatchingBenchmark
from diffeat.errors import SpecError
from diffeat.hashing import unit_interval
from diffeat.images import Source
from diffeat.images.datasets import data_roots
from diffeat.targets.pairs import PairTargets, PointPairs, open_pairs


@dataclass(frozen=True, eq=False)
class Sets:
    """Pairs of a benchmark.

    Attributes:
        chooses: pairs that choose the cell; None where every model has one.
        report: pairs of the report.
        also: further pairs, that the chosen cells are tried on.
        apart: pairs of `select` that were left out, since their groups lie on two sides.
        others: pairs of `select` none of whose groups chooses; None without `select`.
    """

    chooses: PairTargets | None
    report: PairTargets
    also: tuple[PairTargets, ...] = ()
    apart: int = 0
    others: PairTargets | None = None

    @classmethod
    def open(cls, benchmark: MatchingBenchmark) -> Sets:
        """The pairs that a file names.

        Raises:
            SpecError: a group that both chooses and is reported on.
        """
        report = opened(benchmark.pairs)
        also = tuple(map(opened, benchmark.also))
        if not benchmark.select:
            return cls(None, report, also)
        everything, share = opened(benchmark.select), benchmark.select_share
        part, apart = split_pairs(*zip(*everything.groups, strict=True), (1 - share, share, 0.0))
        chooses = everything.take(np.flatnonzero(part == VALIDATION))
        others = everything.take(np.flatnonzero(part == TRAIN))
        both = names_in(chooses) & names_in(report)
        if both:
            raise SpecError(
                f"benchmark {benchmark.name}: {len(both)} groups, such as {min(both)!r}, are in "
                f"{benchmark.select} and in {benchmark.pairs}; expected other ones to choose by"
            )
        return cls(chooses, report, also, apart, others)

    @property
    def reported(self) -> tuple[PairTargets, ...]:
        """The report's pairs, then the further ones."""
        return (self.report, *self.also)

    def pictures(self) -> Pictures:
        """Pictures of the pairs, each once; those of each set in a source of their own."""
        return self.pictures_of((self.chooses, *self.reported))

    @staticmethod
    def pictures_of(sets: Iterable[PairTargets | None]) -> Pictures:
        """The same of any sets, in their order."""
        sources, seen = [], set()
        for targets in sets:
            if targets is not None and (source := touched(targets, seen)) is not None:
                sources.append(source)
                seen |= set(source.ids)
        return Pictures(tuple(sources))


def opened(name: str) -> PairTargets:
    """Pairs by name: a named set, or a folder beside the named sets, each with its split."""
    folder, colon, split = name.rpartition(":")
    for root in data_roots() if colon else ():
        if (root / folder).is_dir():
            return replace(open_pairs(root / folder, split), name=name)
    return open_pairs(name)


def names_in(targets: PairTargets) -> set[str]:
    """Names of all groups."""
    return {name for both in targets.groups for name in both}


def touched(targets: PairTargets, but: set[str]) -> Source | None:
    """The pictures that pairs name, without some; None where none is left."""
    source = targets.pictures()
    wanted = {*targets.source, *targets.target} - but
    rows = [row for row, name in enumerate(source.ids) if name in wanted]
    return replace(source.take(rows), name=targets.name) if rows else None


def joined(first: PairTargets, second: PairTargets) -> PointPairs:
    """Two sets of pairs as one, the first one's pairs first."""
    both, sets = [], (first, second)
    for name in ("source", "target", "groups", "categories"):
        both.append(tuple(value for one in sets for value in getattr(one, name)))
    truths = tuple(one.truth(pair) for one in sets for pair in range(len(one)))
    source, target, groups, categories = both
    name = f"{first.name} and {second.name}"
    return PointPairs(name, source, target, truths, first.pictures, groups, categories)


def few(pairs: Any, limit: int | None) -> Any:
    """At most so many pairs, those with the smallest hash of their two ids."""
    if limit is None or limit >= len(pairs):
        return pairs
    names = zip(pairs.source, pairs.target, strict=True)
    chance = [unit_interval("limit", *both) for both in names]
    return pairs.take(np.sort(np.argsort(chance, kind="stable")[:limit]))
