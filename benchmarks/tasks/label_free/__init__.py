"""Label-free numbers: which of them goes with which task's scores of the same cells."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.label_free import tables
from benchmarks.tasks.label_free.file import FreeBenchmark


class LabelFree(Task):
    """Cells of several tasks, each with its score on validation and its label-free numbers."""

    fields = FreeBenchmark
    tables = tables

    def check(self, benchmark: FreeBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: FreeBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.label_free.measure import measure

        return measure(benchmark, place)
