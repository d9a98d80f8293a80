"""Video: masks or joints of a clip's first frame, carried to all others by features."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.video import tables
from benchmarks.tasks.video.file import VideoBenchmark


class Video(Task):
    """J and F of masks, or PCK of joints, of models, their random twins, pixels, and of what does
    not move."""

    fields = VideoBenchmark
    tables = tables

    def check(self, benchmark: VideoBenchmark) -> None:
        benchmark.check_specs()

    def measure(self, benchmark: VideoBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.video.measure import measure

        return measure(benchmark, place)
