"""Geometry: planes and surfaces that are found again from another place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import diffeat
from benchmarks.sections import Section
from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.geometry import tables
from benchmarks.tasks.geometry.file import GeometryBenchmark


class Geometry(Task):
    """Homographies of planes, true dense correspondences of RGB-D frames, or flows of objects."""

    fields = GeometryBenchmark

    def check(self, benchmark: GeometryBenchmark) -> None:
        for one in benchmark.models:
            for twin in ({}, benchmark.twin):
                diffeat.ExtractSpec.from_dict({**benchmark.extract, **one.extract, **twin})

    def measure(self, benchmark: GeometryBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.geometry.measure import measure

        return measure(benchmark, place)

    def summary(self, result: dict[str, Any]) -> str:
        return tables.summary(result)

    def set_up(self, result: dict[str, Any]) -> str:
        return tables.set_up(result)

    def sections(self, result: dict[str, Any]) -> Iterator[Section]:
        return tables.sections(result)
