"""Matching: which (t, block) finds what corresponds, beside rows that need no model."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.matching import tables
from benchmarks.tasks.matching.file import MatchingBenchmark


class Matching(Task):
    """PCK of the nearest place, of models, their random twins, pixels and places."""

    fields = MatchingBenchmark
    tables = tables

    def check(self, benchmark: MatchingBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: MatchingBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.matching.measure import measure

        return measure(benchmark, place)
