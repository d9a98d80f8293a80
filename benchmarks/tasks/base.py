"""What a task is: it checks and measures a benchmark, and shows what came out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.files import Benchmark
from benchmarks.machine import Stages
from benchmarks.sections import Section


@dataclass(frozen=True)
class Place:
    """Where and with what a benchmark is run.

    Attributes:
        out: folder of tables and pictures.
        features: folder of feature files and finished work, which benchmarks may share.
        device: of the models and the heads, such as "cpu".
        processes: copies of the model while features are extracted; None is one.
        memory: bytes for features while they are fitted.
        stages: seconds and peak memory of each part, over all runs.
    """

    out: Path
    features: Path
    device: str
    processes: int | None
    memory: int
    stages: Stages


class Task(ABC):
    """One per kind of benchmark, without state; `benchmarks.tasks.TASKS` holds them by name.

    A result is what the JSON of a run holds: the file's fields under `benchmark`, what `measure`
    returned, and what it took. Summary and sections are made from it alone, so that recorded
    results are shown as new ones are.

    Attributes:
        fields: the dataclass of the task's files.
        tables: what shows results: a module with `summary`, `set_up` and `sections`.
    """

    fields: type[Benchmark] = Benchmark
    tables: Any = None

    def check(self, benchmark: Benchmark) -> None:  # noqa: B027
        """SpecError, before anything is computed, for what cannot be meant."""

    @abstractmethod
    def measure(self, benchmark: Benchmark, place: Place) -> dict[str, Any]:
        """Do the work; what else than the JSON there is to write goes to `place.out`.

        Returns:
            Plain values that JSON can hold.
        """

    def summary(self, result: dict[str, Any]) -> str:
        """What a run prints at its end."""
        return self.tables.summary(result)

    def set_up(self, result: dict[str, Any]) -> str:
        """Pictures, protocol and cost in a few sentences, for the report."""
        if self.tables is not None:
            return self.tables.set_up(result)
        return f"{result['seconds']:.0f} s on {result['environment']['processor']}."

    def sections(self, result: dict[str, Any]) -> Iterator[Section]:
        """What the report shows, in order."""
        return self.tables.sections(result)
