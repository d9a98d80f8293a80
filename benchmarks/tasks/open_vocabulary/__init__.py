"""Open vocabulary: masks, named by words, merged to segments; PQ, mask AP and mean IoU."""

from __future__ import annotations

from typing import Any

from benchmarks.tasks.base import Place, Task
from benchmarks.tasks.open_vocabulary import tables
from benchmarks.tasks.open_vocabulary.file import OpenVocabularyBenchmark


class OpenVocabularyTask(Task):
    """PQ of named masks, beside true masks, random weights, chance, and the commonest class."""

    fields = OpenVocabularyBenchmark
    tables = tables

    def measure(self, benchmark: OpenVocabularyBenchmark, place: Place) -> dict[str, Any]:
        from benchmarks.tasks.open_vocabulary.measure import measure

        return measure(benchmark, place)
