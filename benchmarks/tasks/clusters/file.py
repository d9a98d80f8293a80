"""What a benchmark file of clusters says."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.errors import SpecError

PIXELS = "raw pixels"


@dataclass(frozen=True, kw_only=True)
class ClusterBenchmark(MeasuredBenchmark):
    """A file whose task is clusters.

    Attributes:
        pictures: a set whose pictures have classes, such as "cifar10:test".
        limit: at most so many, class-balanced; None is all.
        clusters: K; 0 is as many as classes.
        seeds: runs of k-means, over which numbers and ends of intervals are averaged;
            differences are of the first.
        scale: of `probes.clusters.SCALES`.
        pixels: (H, W) that raw pixels are brought to; () measures none.
        held: share of the pictures that choose the cell; the others are reported.
    """

    pictures: str
    limit: int | None = None
    clusters: int = 0
    seeds: int = 3
    scale: str = "standardise"
    pixels: tuple[int, ...] = (32, 32)
    held: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        where = f"benchmark {self.name}"
        if self.clusters == 1 or self.clusters < 0 or self.seeds < 1 or not 0 < self.held < 1:
            raise SpecError(f"{where}: clusters = {self.clusters}, seeds = {self.seeds}, held = "
                            f"{self.held}; expected 0 or two and more, one and more, a share in "
                            "(0, 1)")  # fmt: skip
        if len(self.pixels) not in (0, 2) or min(self.pixels, default=1) < 1:
            raise SpecError(f"{where}: pixels = {list(self.pixels)}; expected H and W, or none")

    @property
    def beside(self) -> tuple[str, ...]:
        return (*super().beside, PIXELS)
