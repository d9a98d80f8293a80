"""Geometry: planes and surfaces that are found again from another place."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.geometry import tables
from benchmarks.tasks.geometry.file import GeometryBenchmark


class Geometry(Task):
    """Homographies of planes, true dense correspondences of RGB-D frames, or flows of objects."""

    fields = GeometryBenchmark
    tables = tables

    def check(self, benchmark: GeometryBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: GeometryBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.geometry.measure import measure

        return measure(benchmark, place)
