"""Classification: the (t, block) surface of a model, its baselines, and heads beside them."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.classification import tables
from benchmarks.tasks.classification.file import ClassificationBenchmark


class Classification(Task):
    """Which (block, t) tells classes apart best, and what heads make of it."""

    fields = ClassificationBenchmark
    tables = tables

    def check(self, benchmark: ClassificationBenchmark) -> None:
        from benchmarks.tasks.classification.checks import check

        check(benchmark)

    def measure(self, benchmark: ClassificationBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.classification.measure import measure

        return measure(benchmark, place)
