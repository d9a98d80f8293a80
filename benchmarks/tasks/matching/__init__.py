"""Matching: which (t, block) finds what corresponds, beside rows that need no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffeat
from benchmarks.sections import Section
from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.matching import tables
from benchmarks.tasks.matching.file import MatchingBenchmark


class Matching(Task):
    """PCK of the nearest place, of models, their random twins, pixels and places."""

    fields = MatchingBenchmark

    def check(self, benchmark: MatchingBenchmark) -> None:
        for one in benchmark.models:
            for twin in ({}, benchmark.twin):
                diffeat.ExtractSpec.from_dict({**benchmark.extract, **one.extract, **twin})

    def measure(self, benchmark: MatchingBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.matching.measure import measure

        return measure(benchmark, place)

    def summary(self, result: dict[str, Any]) -> str:
        return tables.summary(result)

    def set_up(self, result: dict[str, Any]) -> str:
        return tables.set_up(result)

    def sections(self, result: dict[str, Any]) -> Iterator[Section]:
        return tables.sections(result)
