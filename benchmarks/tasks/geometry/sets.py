"""The pairs of a file of geometry, and which of them choose."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from benchmarks.features import Pictures
from benchmarks.searching import TEST, VALIDATION
from benchmarks.tasks.geometry.file import GeometryBenchmark
from benchmarks.tasks.matching.sets import names_in, opened, touched
from diffeat.errors import SpecError
from diffeat.targets.pairs import DepthPairs, PairTargets

KINDS = ("homography", "depth")


@dataclass(frozen=True, eq=False)
class Chosen:
    """Pairs of a benchmark.

    Attributes:
        targets: all of them.
        part: (P,) VALIDATION of those that choose, TEST of those of the report.
    """

    targets: PairTargets
    part: np.ndarray

    @classmethod
    def open(cls, benchmark: GeometryBenchmark) -> Chosen:
        """The pairs that a file names.

        Raises:
            SpecError: key points, which are another task's; scenes that are not there, or that
                both choose and are reported on.
        """
        where, report = f"benchmark {benchmark.name}", opened(benchmark.pairs)
        if report.kind not in KINDS:
            raise SpecError(f"{where}: {report.name} has pairs of a kind {report.kind!r}; expected "
                            f"{' or '.join(KINDS)}")  # fmt: skip
        if isinstance(report, DepthPairs):
            report = _asking(report, benchmark.points)
        part = np.full(len(report), TEST)
        if benchmark.choose:
            lacking = set(benchmark.choose) - names_in(report)
            if lacking:
                raise SpecError(f"{where}: {report.name} has no scene {min(lacking)!r}; expected "
                                f"some of {', '.join(sorted(names_in(report)))}")  # fmt: skip
            part[[first in benchmark.choose for first, _ in report.groups]] = VALIDATION
        if not benchmark.select:
            return cls(report, part)
        chooses = opened(benchmark.select)
        if not isinstance(report, DepthPairs) or not isinstance(chooses, DepthPairs):
            raise SpecError(f"{where}: select is for RGB-D frames; of planes give choose, scenes")
        if both := names_in(chooses) & names_in(report):
            raise SpecError(f"{where}: {len(both)} pictures, such as {min(both)!r}, are in "
                            f"{benchmark.select} and in {benchmark.pairs}; expected other ones to "
                            "choose by")  # fmt: skip
        chooses = _asking(chooses, benchmark.points)
        part = np.concatenate([np.full(len(chooses), VALIDATION), part])
        return cls(_joined(chooses, report), part)

    @property
    def report(self) -> PairTargets:
        return self.targets.take(np.flatnonzero(self.part == TEST))

    @property
    def chooses(self) -> PairTargets | None:
        rows = np.flatnonzero(self.part == VALIDATION)
        return self.targets.take(rows) if len(rows) else None

    def pictures(self) -> Pictures:
        """All pictures of the pairs, each once."""
        return Pictures((touched(self.targets, set()),))


def _asking(targets: DepthPairs, points: int) -> DepthPairs:
    return replace(targets, rule=replace(targets.rule, points=points))


def _joined(first: DepthPairs, second: DepthPairs) -> DepthPairs:
    """Two sets of pairs of one folder as one, the first one's pairs first."""
    if first.frames.folder != second.frames.folder:
        raise SpecError(f"{first.name} and {second.name} lie in two folders; expected one")
    both = {name: getattr(first, name) + getattr(second, name) for name in ("source", "target")}
    both |= {name: np.concatenate([getattr(first, name), getattr(second, name)])
             for name in ("angles", "overlaps")}  # fmt: skip
    return replace(first, name=f"{first.name} and {second.name}", **both)
