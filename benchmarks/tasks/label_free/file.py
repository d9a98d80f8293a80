"""What a benchmark file of label-free numbers says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.files import Benchmark
from benchmarks.tasks.regret.file import CELLS, check_task
from diffeat.errors import SpecError
from diffeat.specs import ExtractSpec


@dataclass(frozen=True)
class FreeTask:
    """A task whose scores the numbers are held against.

    Attributes:
        name: for tables.
        kind: one of `benchmarks.tasks.regret.file.KINDS`.
        model: what `diffeat.load` takes, or a folder below those of the data sets. A model that is
            not there is left out, and the report says so.
        train: pictures with labels, a set with masks or depth, or pairs. Part of it is trained on,
            the others are validation; matching learns nothing, so all its pairs are. There is no
            test part: nothing is chosen.
        limit: at most so many pictures (or pairs); None is all.
        held: share that is validation.
        frame: (H, W) that masks and depth are scored at; () is each picture's own size.
        extract: fields of the ExtractSpec, such as size; blocks and timesteps are those of all
            tasks.
    """

    name: str
    kind: str
    model: str
    train: str
    limit: int | None = None
    held: float = 0.5
    frame: tuple[int, ...] = ()
    extract: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"task {self.name!r}"
        check_task(where, self.kind, self.extract, self.frame, self.held)

    @property
    def label(self) -> str:
        """The model's name for tables."""
        return self.model.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class FreeBenchmark(Benchmark):
    """A file whose task is label_free: which free number to trust for which task.

    Attributes:
        tasks: one and more, each with its model.
        extract: blocks and timesteps, which all tasks share.
        pictures: about so many, spread over a task's set, give the numbers.
        ratio: above which a channel is massive, in medians.
        alpha: of PCK.
        twin: whether models with random weights are measured too.
    """

    tasks: tuple[FreeTask, ...] = ()
    extract: dict[str, Any]
    pictures: int = 64
    ratio: float = 10.0
    alpha: float = 0.1
    twin: bool = True

    def __post_init__(self) -> None:
        where, names = f"benchmark {self.name}", [one.name for one in self.tasks]
        if not names or len(set(names)) < len(names):
            raise SpecError(f"{where}: tasks {names}; expected one and more, each with its name")
        if set(self.extract) != CELLS:
            raise SpecError(f"{where}: extract has {', '.join(sorted(self.extract))}; expected "
                            "blocks and timesteps, which all tasks share")  # fmt: skip
        if self.pictures < 2 or not self.ratio > 1:
            raise SpecError(f"{where}: pictures = {self.pictures}, ratio = {self.ratio}; expected "
                            "two pictures at least, and more than 1")  # fmt: skip

    def check_specs(self) -> None:
        for one in self.tasks:
            ExtractSpec.from_dict({**self.extract, **one.extract})
