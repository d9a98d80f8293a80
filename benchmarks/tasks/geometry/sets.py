"""The pairs of a file of geometry, and which of them choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from benchmarks.features import Pictures
from benchmarks.searching import TEST, VALIDATION
from benchmarks.tasks.geometry.file import GeometryBenchmark
from benchmarks.tasks.matching.sets import names_in, opened, touched
from diffeat.errors import SpecError
from diffeat.targets.pairs import DepthPairs, PairTargets

KINDS = ("homography", "depth", "flow")


@dataclass(frozen=True, eq=False)
class Chosen:
    """Pairs of a benchmark.

    Attributes:
        report: pairs of the report.
        chooses: pairs that choose the cell; None where every model has one.
    """

    report: PairTargets
    chooses: PairTargets | None = None

    @classmethod
    def open(cls, benchmark: GeometryBenchmark) -> Chosen:
        """The pairs that a file names.

        Raises:
            SpecError: key points, which are another task's; scenes that are not there, or that
                both choose and are reported on.
        """
        where, found = f"benchmark {benchmark.name}", opened(benchmark.pairs)
        if found.kind not in KINDS:
            raise SpecError(f"{where}: {found.name} has pairs of a kind {found.kind!r}; expected "
                            f"{' or '.join(KINDS)}")  # fmt: skip
        if found.kind == "flow" and (benchmark.choose or benchmark.select):
            raise SpecError(f"{where}: nothing chooses a cell by flows; expected neither choose "
                            "nor select, but one block and one t")  # fmt: skip
        if isinstance(found, DepthPairs):
            found = _asking(found, benchmark.points)
        if benchmark.choose:
            return cls._by_scenes(benchmark, found, where)
        if not benchmark.select:
            return cls(found)
        chooses = opened(benchmark.select)
        if not isinstance(found, DepthPairs) or not isinstance(chooses, DepthPairs):
            raise SpecError(f"{where}: select is for RGB-D frames; of planes give choose, scenes")
        if both := names_in(chooses) & names_in(found):
            raise SpecError(f"{where}: {len(both)} pictures, such as {min(both)!r}, are in "
                            f"{benchmark.select} and in {benchmark.pairs}; expected other ones to "
                            "choose by")  # fmt: skip
        return cls(found, _asking(chooses, benchmark.points))

    @classmethod
    def _by_scenes(cls, benchmark: GeometryBenchmark, found: PairTargets, where: str) -> Chosen:
        if lacking := set(benchmark.choose) - names_in(found):
            raise SpecError(f"{where}: {found.name} has no scene {min(lacking)!r}; expected some "
                            f"of {', '.join(sorted(names_in(found)))}")  # fmt: skip
        mine = np.array([first in benchmark.choose for first, _ in found.groups])
        if mine.all():
            raise SpecError(f"{where}: all scenes choose; expected others to report on")
        return cls(found.take(np.flatnonzero(~mine)), found.take(np.flatnonzero(mine)))

    @cached_property
    def targets(self) -> PairTargets:
        """All pairs, those that choose first."""
        return self.report if self.chooses is None else _joined(self.chooses, self.report)

    @property
    def part(self) -> np.ndarray:
        """(P,) VALIDATION of those that choose, TEST of those of the report."""
        first = 0 if self.chooses is None else len(self.chooses)
        return np.where(np.arange(len(self.targets)) < first, VALIDATION, TEST)

    def pictures(self) -> Pictures:
        """All pictures of the pairs, each once."""
        return Pictures((touched(self.targets, set()),))


def _asking(targets: DepthPairs, points: int) -> DepthPairs:
    return replace(targets, rule=replace(targets.rule, points=points))


def _joined(first: PairTargets, second: PairTargets) -> PairTargets:
    """Two sets of pairs of one folder as one, the first one's pairs first."""
    both = {name: getattr(first, name) + getattr(second, name) for name in ("source", "target")}
    if isinstance(first, DepthPairs):
        if first.frames.folder != second.frames.folder:
            raise SpecError(f"{first.name} and {second.name} lie in two folders; expected one")
        arrays = ("angles", "overlaps")
        both["name"] = f"{first.name} and {second.name}"
    else:
        arrays = ("matrices",)
        both |= {name: getattr(first, name) + getattr(second, name)
                 for name in ("sizes", "groups", "categories")}  # fmt: skip
    both |= {name: np.concatenate([getattr(first, name), getattr(second, name)])
             for name in arrays}  # fmt: skip
    return replace(first, **both)
