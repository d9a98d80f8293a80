"""Dense recognition: heads that say a class or a depth at every pixel, from few labels and many."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.dense import tables
from benchmarks.tasks.dense.file import DenseBenchmark


class Segmentation(Task):
    """mIoU of heads on features, beside pixels, position, random weights and a vision model."""

    fields = DenseBenchmark
    tables = tables
    kind = "masks"

    def check(self, benchmark: DenseBenchmark) -> None:
        from benchmarks.tasks.dense.systems import check_system
        from benchmarks.tasks.dense.through import HEAD, check_through

        benchmark.check_specs()
        for system in benchmark.systems:
            if system.head == HEAD:
                check_through(benchmark, system)
            else:
                check_system(system, self.kind)

    def measure(self, benchmark: DenseBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.dense.measure import measure

        return measure(benchmark, place)


class Depth(Segmentation):
    """Errors of depth at every pixel, likewise."""

    kind = "depth"
