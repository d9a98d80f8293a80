"""Parts without labels, scored by the best matching of parts and classes."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.parts import tables
from benchmarks.tasks.parts.file import PartsBenchmark


class Parts(Task):
    """mIoU of matched parts, beside pixels, position, random weights and a vision model."""

    fields = PartsBenchmark
    tables = tables

    def check(self, benchmark: PartsBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: PartsBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.parts.measure import measure

        return measure(benchmark, place)
