"""Words: masks by the heat of words, beside background alone, the mean mask, chance and random
weights."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.words import tables
from benchmarks.tasks.words.file import WordsBenchmark


class Words(Task):
    """Mean IoU of masks by words, without training."""

    fields = WordsBenchmark
    tables = tables

    def check(self, benchmark: WordsBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: WordsBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.words.measure import measure

        return measure(benchmark, place)
