"""Clusters of pictures against their classes, beside raw pixels, random weights, a vision model."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.clusters import tables
from benchmarks.tasks.clusters.file import ClusterBenchmark


class Clusters(Task):
    """K-means of every cell; one half of the pictures chooses the cell, the other is reported."""

    fields = ClusterBenchmark
    tables = tables

    def check(self, benchmark: ClusterBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: ClusterBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.clusters.measure import measure

        return measure(benchmark, place)
