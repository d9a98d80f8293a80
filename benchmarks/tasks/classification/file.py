"""What a benchmark file of classification says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.files import FeatureBenchmark
from diffeat.errors import SpecError

CELLS = ("best", "all", "best block")


@dataclass(frozen=True)
class System:
    """One row of the table of heads: what is trained on the features of which cells.

    Attributes:
        name: for the table.
        head: a name of `benchmarks.tasks.classification.heads.HEADS`.
        cells: "best" (chosen on validation by the surface), "all", "best block" (that block at
            every t), or a table of blocks and timesteps.
        arguments: of the head.
        seeds: one training for each; the table shows their mean.
    """

    name: str
    head: str
    cells: str | dict[str, Any] = "best"
    arguments: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if isinstance(self.cells, str) and self.cells not in CELLS:
            raise SpecError(
                f"system {self.name!r}: cells {self.cells!r}; expected {', '.join(CELLS)}, or a "
                "table of blocks and timesteps"
            )
        if isinstance(self.cells, dict) and not {"blocks", "timesteps"} >= set(self.cells) > set():
            raise SpecError(
                f"system {self.name!r}: cells have {', '.join(self.cells) or 'nothing'}; expected "
                "blocks, timesteps, or both"
            )
        if not self.seeds:
            raise SpecError(f"system {self.name!r} has no seeds; expected at least one")


@dataclass(frozen=True, kw_only=True)
class ClassificationBenchmark(FeatureBenchmark):
    """A file whose task is classification.

    Attributes:
        probe_pool: maps are averaged to so many cells for the surface; "" takes them whole.
        penalties: values of C that every probe, baselines too, chooses from on validation.
        systems: heads and adapted models that are trained beside the surface.
    """

    probe_pool: str = ""
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    systems: tuple[System, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = [system.name for system in self.systems]
        if len(set(names)) != len(names):
            raise SpecError(f"benchmark {self.name}: two systems of the same name among {names}")
        for one in self.published:
            if one.beside not in ("", "surface", *names):
                raise SpecError(
                    f"benchmark {self.name}: a published figure beside {one.beside!r}; expected "
                    f"{', '.join(['surface', *names])}, or none"
                )
