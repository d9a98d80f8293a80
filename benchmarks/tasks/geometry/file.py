"""What a benchmark file of geometry says."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tasks.matching.file import PairBenchmark
from diffeat.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class GeometryBenchmark(PairBenchmark):
    """A file whose task is geometry: planes (homographies), surfaces of RGB-D frames, or
    objects whose dense flow is known (the share of their pixels that is found, and smoothness).

    Attributes:
        choose: scenes of `pairs` whose pairs choose the cell, and are not reported on; in place
            of `select`.
        points: of each pair of RGB-D frames at most.
        key_points: of each picture of a plane at most, found by SIFT for all rows alike.
        shares: of the larger side of the target, within which a point of a surface or of a flow is
            found; the first chooses.
        stride: of flows: every so many-th pixel along x and y is matched.
        limits: of the corners of a plane, in pixels and in per cent of the larger side.
        chooses_within: per cent of the side within which matches of a plane are right, whose
            share chooses the cell: homographies that are found are too few to choose by.
        sift: whether SIFT's own descriptors are a row.
    """

    choose: tuple[str, ...] = ()
    points: int = 200
    key_points: int = 1000
    shares: tuple[float, ...] = (0.02, 0.01, 0.04)
    limits: tuple[float, ...] = (1.0, 3.0, 5.0)
    chooses_within: float = 1.0
    sift: bool = True
    stride: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"benchmark {self.name}"
        if self.choose and self.select:
            raise SpecError(f"{where}: choose and select; expected one of them")
        for name in ("shares", "limits"):
            values = getattr(self, name)
            if not values or min(values) <= 0:
                raise SpecError(f"{where}: {name} = {list(values)}; expected positive numbers")
        if self.stride < 1:
            raise SpecError(f"{where}: stride = {self.stride}; expected at least 1")
        if self.points < 1 or self.key_points < 4 or self.chooses_within <= 0:
            raise SpecError(f"{where}: points = {self.points}, key_points = {self.key_points}, "
                            f"chooses_within = {self.chooses_within}; expected at least 1 and 4, "
                            "and more than 0")  # fmt: skip
