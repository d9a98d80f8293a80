"""Regret: what is lost where features are stored at the cell that is best for another task."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.regret import tables
from benchmarks.tasks.regret.file import RegretBenchmark


class Regret(Task):
    """One model, several tasks: a matrix of who chose and who is scored."""

    fields = RegretBenchmark
    tables = tables

    def check(self, benchmark: RegretBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: RegretBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.regret.measure import measure

        return measure(benchmark, place)
