"""Mixing: several cells, or several models, as one map, against their parts by one read-out."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.mixing import tables
from benchmarks.tasks.mixing.file import MixingBenchmark


class Mixing(Task):
    """PCK of aggregators, learned ones too, beside single cells, greedy sets and floors."""

    fields = MixingBenchmark
    tables = tables

    def check(self, benchmark: MixingBenchmark) -> None:
        from benchmarks.tasks.mixing.systems import check_system

        benchmark.check_specs()
        for system in benchmark.systems:
            check_system(system)

    def measure(self, benchmark: MixingBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.mixing.measure import measure

        return measure(benchmark, place)
