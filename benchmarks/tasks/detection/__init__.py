"""Detection: boxes, found on a pyramid of frozen maps by a maintained detector."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.detection import tables
from benchmarks.tasks.detection.file import DetectionBenchmark


class Detection(Task):
    """AP of boxes, of models, their random twins, vision models, pixels, and of the mean box."""

    fields = DetectionBenchmark
    tables = tables

    def check(self, benchmark: DetectionBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: DetectionBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.detection.measure import measure

        return measure(benchmark, place)
