"""Robustness: linear probes trained on clean pictures, tested on pictures that were made worse."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.robustness import tables
from benchmarks.tasks.robustness.file import RobustnessBenchmark


class Robustness(Task):
    """Accuracy by corruption, at every t, beside pixels, random weights and a vision model."""

    fields = RobustnessBenchmark
    tables = tables

    def check(self, benchmark: RobustnessBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: RobustnessBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.robustness.measure import measure

        return measure(benchmark, place)
