"""What a benchmark file of regret says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.tasks.matching.file import MeasuredBenchmark
from diffeat.errors import SpecError
from diffeat.specs import ExtractSpec

KINDS = ("classification", "segmentation", "depth", "matching")
"""What one of several tasks can be."""
CELLS = {"timesteps", "blocks"}
"""Fields of an extraction that all tasks share."""


def check_task(where: str, kind: str, extract: Mapping[str, Any], frame: Any, held: float) -> None:
    """SpecError for what one of several tasks, which share their cells, cannot mean."""
    if kind not in KINDS:
        raise SpecError(f"{where}: kind = {kind!r}; expected one of {', '.join(KINDS)}")
    if both := CELLS & set(extract):
        raise SpecError(f"{where}: extract has {', '.join(sorted(both))}; expected these in "
                        "[extract], for all tasks")  # fmt: skip
    if len(frame) not in (0, 2) or not 0 < held < 1:
        raise SpecError(f"{where}: frame = {list(frame)}, held = {held}; expected H and W, or "
                        "none, and a share in (0, 1)")  # fmt: skip


@dataclass(frozen=True)
class OneTask:
    """One of the tasks that cells are chosen for.

    Attributes:
        name: for tables.
        kind: one of `KINDS`.
        train, test: pictures with labels, sets with masks or depth, or pairs; matching learns
            nothing, so all pairs of `train` choose.
        train_limit, test_limit: at most so many pictures (or pairs); None is all.
        frame: (H, W) that masks and depth are scored at; () is each picture's own size.
        held: share of `train` that chooses.
        extract: fields of the ExtractSpec, such as size; blocks and timesteps are those of all
            tasks.
    """

    name: str
    kind: str
    train: str
    test: str
    train_limit: int | None = None
    test_limit: int | None = None
    frame: tuple[int, ...] = ()
    held: float = 0.25
    extract: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"task {self.name!r}"
        check_task(where, self.kind, self.extract, self.frame, self.held)
        if self.train == self.test:
            raise SpecError(f"{where}: train and test are both {self.train!r}; expected two sets")


@dataclass(frozen=True, kw_only=True)
class RegretBenchmark(MeasuredBenchmark):
    """A file whose task is regret: what is lost where another task chose the cell.

    Attributes:
        tasks: two and more.
        alpha: of PCK.
    """

    tasks: tuple[OneTask, ...] = ()
    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        where, names = f"benchmark {self.name}", [one.name for one in self.tasks]
        if len(names) < 2 or len(set(names)) < len(names):
            raise SpecError(f"{where}: tasks {names}; expected two and more, each with its name")
        if self.vision or self.twin:
            raise SpecError(f"{where}: vision and twin; expected neither: one model's cells are "
                            "compared with each other")  # fmt: skip
        if set(self.extract) != CELLS:
            raise SpecError(f"{where}: extract has {', '.join(sorted(self.extract))}; expected "
                            "blocks and timesteps, which all tasks share")  # fmt: skip

    def check_specs(self) -> None:
        for one in self.models:
            for task in self.tasks:
                ExtractSpec.from_dict({**self.extract, **task.extract, **one.extract})
