"""Classification: the (t, block) surface of a model, its baselines, and heads beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.sections import Section
from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.classification import tables
from benchmarks.tasks.classification.file import ClassificationBenchmark


class Classification(Task):
    """Which (block, t) tells classes apart best, and what heads make of it."""

    fields = ClassificationBenchmark

    def check(self, benchmark: ClassificationBenchmark) -> None:
        from benchmarks.tasks.classification.checks import check

        check(benchmark)

    def measure(self, benchmark: ClassificationBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.classification.measure import measure

        return measure(benchmark, place)

    def summary(self, result: dict[str, Any]) -> str:
        return tables.summary(result)

    def set_up(self, result: dict[str, Any]) -> str:
        return tables.set_up(result)

    def sections(self, result: dict[str, Any]) -> Iterator[Section]:
        return tables.sections(result)
